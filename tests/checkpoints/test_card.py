from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from mobilevit.checkpoints import Checkpoint, architecture
from mobilevit.checkpoints.card import model_card
from mobilevit.checkpoints.files import build
from mobilevit.checkpoints.hub import save_pretrained
from mobilevit.deployment.contract import Contract
from mobilevit.networks import create_model


def make(names: tuple[str, ...] = ("cat", "dog"), **facts: Any) -> Checkpoint:
    torch.manual_seed(0)
    network = create_model("mobilevit_xxs", num_classes=len(names)).eval()
    contract = Contract("classification", names, (64, 96), 72, "bicubic")
    return Checkpoint(network, contract, architecture("mobilevit_xxs", network), **facts)


def test_the_header_is_what_the_hub_reads() -> None:
    _, header, text = model_card(make(), "me/net").split("---\n", 2)
    read = yaml.safe_load(header)
    assert read["library_name"] == "mobilevit"
    assert read["pipeline_tag"] == "image-classification"
    assert "mobilevit" in read["tags"]
    assert "license" not in read
    assert text.startswith("\n# me/net\n")


def test_the_numbers_that_are_there_are_shown_and_no_others() -> None:
    measured = {"top1": 0.6254, "top5": 0.9, "loss": 1.23456, "epoch": 12, "seconds": 5.0}
    card = model_card(make(metrics=measured | {"confusion": [[1, 2], [3, 4]]}), "net")
    for row in ("| top1 | 62.54% |", "| top5 | 90.00% |", "| loss | 1.2346 |", "| epoch | 12 |"):
        assert row in card
    assert "confusion" not in card
    card = model_card(make(metrics={"top1": 0.5}), "net")
    assert "| top1 | 50.00% |" in card
    assert "top5" not in card
    assert "No numbers are stored" in model_card(make(), "net")


def test_the_network_and_its_input_are_described() -> None:
    card = model_card(make(), "net")
    parameters = sum(p.numel() for p in create_model("mobilevit_xxs", num_classes=2).parameters())
    assert f"`mobilevit_xxs`) for image classification: {parameters:,} parameters" in card
    assert "2 classes: `cat`, `dog`." in card
    assert "shorter side to 72 pixels (bicubic," in card
    assert "(batch, 3, 64, 96)" in card


def test_the_recipe_is_told_in_short() -> None:
    recipe = {
        "model": {"model": "mobilevit_xxs"},
        "optimizer": {"lr": 0.002, "weight_decay": 0.0},
        "training": {"epochs": 3, "batch_size": 128, "device": "cuda"},
    }
    card = model_card(make(recipe=recipe), "net")
    for row in ("| `epochs` | 3 |", "| `batch_size` | 128 |", "| `lr` | 0.002 |"):
        assert row in card
    assert "weight_decay" not in card
    assert "cuda" not in card
    assert "The checkpoint does not say." in model_card(make(), "net")


@pytest.mark.parametrize("name", ["a`b", "two\nlines", "{braces}", "a | b"])
def test_odd_class_names_stay_in_their_line(name: str) -> None:
    card = model_card(make((name, "dog")), "net")
    (line,) = [line for line in card.splitlines() if line.startswith("2 classes: ")]
    assert line.endswith("`, `dog`.")
    assert line.count("`") == 4


def test_many_class_names_are_cut_short() -> None:
    card = model_card(make(tuple(f"class {i}" for i in range(1000))), "net")
    assert "1,000 classes: `class 0`, " in card
    assert "`class 19` and 980 more." in card
    assert "class 20" not in card


def test_a_network_without_a_classifier_has_a_card() -> None:
    assert "parameters,\nno classifier." in model_card(make(()), "net")


def test_the_example_runs_in_the_saved_folder(tmp_path: Path) -> None:
    from mobilevit.checkpoints import save_checkpoint

    save_checkpoint(tmp_path / "net.safetensors", make())
    folder = save_pretrained(tmp_path / "net.safetensors", tmp_path / "net")
    Image.new("RGB", (80, 80), "red").save(folder / "photo.jpg")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in card
    example = card.split("```python\n")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("photo.jpg ")
    assert "dog" in done.stdout


def test_the_example_names_the_repository() -> None:
    assert 'in predict("me/net", ["photo.jpg"]):' in model_card(make(), "me/net")


def test_a_network_of_another_library_is_said_to_be_so() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    told = {"model": "timm:mobilenetv3_small_050", "num_classes": 2}
    card = model_card(Checkpoint(build(told), make().contract, told), "net")
    assert "A timm network (`timm:mobilenetv3_small_050`)" in card
    assert 'pip install "mobilevit[hub,timm]"' in card
    assert "A [MobileViT](" in model_card(make(), "net")
