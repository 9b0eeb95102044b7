"""Networks of ours, read by the libraries that they were saved for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import cvnets
from mobilevit import UserError, create_model, load_pretrained
from mobilevit.checkpoints import Checkpoint, architecture
from mobilevit.checkpoints.writing import save_for
from mobilevit.deployment.contract import Contract
from peers import CLASSES, enliven

NAMES = ("mobilevit_xxs", "mobilevitv2_050")
LIBRARIES = ("mobilevit", "timm", "transformers", "cvnets")
PICTURES = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(0))


def checkpoint(name: str = "mobilevit_xxs", **numbers: Any) -> Checkpoint:
    network = create_model(name, num_classes=3, **numbers)
    enliven(network)
    contract = Contract("classification", CLASSES, (192, 192), 216, "bicubic")
    return Checkpoint(network, contract, architecture(name, network))


def same(one: Checkpoint, other: Checkpoint) -> bool:
    theirs = other.network.state_dict()
    return all(torch.equal(tensor, theirs[n]) for n, tensor in one.network.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_timm_runs_the_folder(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    ours = checkpoint(name)
    save_for(ours, tmp_path / "saved", "timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    torch.testing.assert_close(theirs(PICTURES), ours.network(PICTURES), atol=1e-4, rtol=0)
    settings = timm.data.resolve_model_data_config(theirs)
    assert tuple(settings["input_size"]) == (3, 192, 192)
    assert settings["interpolation"] == "bicubic"
    assert tuple(settings["mean"]) == (0.0, 0.0, 0.0)
    resize = timm.data.create_transform(**settings).transforms[0].size
    assert resize in (216, (216, 216), [216, 216])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_transformers_runs_the_folder_with_its_own_processor(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = checkpoint(name)
    save_for(ours, tmp_path / "saved", "transformers")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "saved").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "saved")
    assert theirs.config.id2label == dict(enumerate(CLASSES))
    picture = (PICTURES[:1] * 255).round().to(torch.uint8)
    x = picture / 255
    settings = {"do_resize": False, "do_center_crop": False}
    inputs = processor(picture[0], return_tensors="pt", **settings)["pixel_values"]
    torch.testing.assert_close(theirs(inputs).logits, ours.network(x), atol=1e-4, rtol=0)
    flipped = inputs.flip(1)
    assert not torch.allclose(theirs(flipped).logits, ours.network(x), atol=1e-2)
    assert (dict(processor.size), dict(processor.crop_size)) == (
        {"shortest_edge": 216},
        {"height": 192, "width": 192},
    )


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_papers_code_runs_the_file_on_its_channel_order(name: str, tmp_path: Path) -> None:
    ours = checkpoint(name)
    save_for(ours, tmp_path / "weights.pt", "cvnets")
    theirs = cvnets.Classifier(name, 3).eval()
    theirs.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    x = PICTURES.flip(1) if name == "mobilevit_xxs" else PICTURES
    torch.testing.assert_close(theirs(x), ours.network(PICTURES), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("library", "target"),
    [
        (library, target)
        for library in LIBRARIES
        for target in ("file.safetensors", "file.bin", "folder")
        if (library, target) != ("mobilevit", "file.bin")  # our own format is safetensors alone
    ],
)
def test_there_and_back_is_the_identity(
    library: str, target: str, name: str, tmp_path: Path
) -> None:
    ours = checkpoint(name)
    path = save_for(ours, tmp_path / "to" / target, library)
    found = load_pretrained(path)
    assert found.report.library == library
    assert same(ours, found.checkpoint)
    if target == "folder" and library != "cvnets":
        assert found.checkpoint.contract == ours.contract
        assert found.checkpoint.architecture.items() >= {"model": name, "num_classes": 3}.items()


def test_a_safetensors_file_says_that_it_is_of_pytorch(tmp_path: Path) -> None:
    save_for(checkpoint(), tmp_path / "w.safetensors", "transformers")
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_networks_that_a_library_cannot_describe_are_refused(tmp_path: Path) -> None:
    slim = checkpoint(token_widths=(32, 40, 48))
    with pytest.raises(UserError, match=r"timm knows no mobilevit_xxs with token_widths"):
        save_for(slim, tmp_path / "1", "timm")
    save_for(slim, tmp_path / "2", "transformers")  # which has a number for each width
    assert same(slim, load_pretrained(tmp_path / "2").checkpoint)
    for library in ("timm", "transformers"):
        with pytest.raises(UserError, match="patch"):
            save_for(checkpoint(patch_sizes=(8, 4, 2)), tmp_path / "3", library)
    with pytest.raises(UserError, match=r"cvnets has no names .*\(1, 2, 1\)"):
        save_for(checkpoint(layers=(1, 2, 1)), tmp_path / "4.pt", "cvnets")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2"]


def test_bad_targets_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        save_for(checkpoint(), mine, "timm")
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]
    with pytest.raises(UserError, match=r"\.h5"):
        save_for(checkpoint(), tmp_path / "w.h5", "timm")
    with pytest.raises(UserError, match=r"end in \.safetensors"):
        save_for(checkpoint(), tmp_path / "w.pt", "mobilevit")
    with pytest.raises(UserError, match="Did you mean 'timm'"):
        save_for(checkpoint(), tmp_path / "w.pt", "tim")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_the_config_of_transformers_is_its_own(tmp_path: Path) -> None:
    """Every key we write is one that the library knows."""
    transformers = pytest.importorskip("transformers")
    for name, theirs in zip(
        NAMES, (transformers.MobileViTConfig(), transformers.MobileViTV2Config()), strict=True
    ):
        save_for(checkpoint(name), tmp_path / name, "transformers")
        written = json.loads((tmp_path / name / "config.json").read_text())
        assert written.keys() <= theirs.to_dict().keys() | {"architectures", "torch_dtype"}
