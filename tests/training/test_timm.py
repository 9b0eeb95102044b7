"""Networks of timm through the same verbs as our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mobilevit import UserError, benchmark, convert, evaluate, export, load_checkpoint, train
from mobilevit.checkpoints.files import build
from mobilevit.deployment.runtimes import load_predictor
from mobilevit.training.run_folder import RunFolder
from tiny import SETTINGS, make_pictures

pytest.importorskip("timm", reason="timm is not installed")

DEIT: dict[str, Any] = {
    "model": "timm:deit_tiny_patch16_224",
    "numbers": {"embed_dim": 32, "depth": 1, "num_heads": 2},
}
NETWORKS = [DEIT, {"model": "timm:mobilenetv3_small_050", "head_dropout": 0.1}]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=NETWORKS, ids=["deit", "mobilenet"])
def run(request: pytest.FixtureRequest, data: Path, tmp_path_factory: Any) -> Path:
    output = tmp_path_factory.mktemp("runs") / "run"
    settings = SETTINGS | {"sizes": (32, 64), "size": 64, "epochs": 2} | request.param
    return train(data, output=output, progress=False, **settings).folder


def test_it_is_evaluated_exported_and_measured_like_our_own(run: Path, data: Path) -> None:
    artefact = export(run).path
    ours, theirs = evaluate(run, data), evaluate(artefact, data)
    assert ours.metrics["top1"] == theirs.metrics["top1"]
    assert ours.metrics["loss"] == pytest.approx(theirs.metrics["loss"], abs=1e-4)
    timed = benchmark([run, artefact], repeats=2, warmup=0)
    mine, exported = timed.models
    assert mine["network"] == exported["network"] == load_checkpoint(run).architecture["model"]
    assert mine["parameters"] == exported["parameters"]


def test_its_checkpoint_gives_back_the_same_network(run: Path) -> None:
    checkpoint = load_checkpoint(run)
    images = np.random.default_rng(0).random((2, 3, 64, 64), dtype=np.float32)
    with torch.no_grad():
        expected = checkpoint.network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(load_predictor(run).run(images), expected, atol=1e-5)
    assert RunFolder(run).recipe.read_text().count("timm:") == 1


def test_it_can_be_started_from_with_other_classes(run: Path, tmp_path: Path) -> None:
    other = make_pictures(tmp_path / "data")
    for split in ("train", "val"):
        (other / split / "red").rename(other / split / "scarlet")
    before = load_checkpoint(run)
    settings = SETTINGS | {"size": 64, "lr": 0.0, "min_lr": 0.0, "ema_decay": 0.0}
    again = train(other, weights=run, output=tmp_path / "again", progress=False, **settings)
    after = load_checkpoint(again.folder)
    assert after.architecture == before.architecture
    assert after.contract.class_names == ("blue", "green", "scarlet")
    same = {
        name: torch.equal(tensor, before.network.state_dict()[name])
        for name, tensor in after.network.named_parameters()
    }
    changed = {name for name, equal in same.items() if not equal}
    assert changed
    assert all(name.startswith(("network.head.", "network.classifier.")) for name in changed)


@pytest.mark.parametrize("settings", NETWORKS, ids=["deit", "mobilenet"])
def test_its_classifier_alone_is_trained_on_request(
    settings: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    asked = SETTINGS | {"size": 64, "epochs": 2, "ema_decay": 0.0, "freeze": 1} | settings
    run = train(data, output=tmp_path / "run", progress=False, **asked).folder
    told = load_checkpoint(run).architecture
    torch.manual_seed(0)
    before = build(told).state_dict()
    after = load_checkpoint(RunFolder(run).last).network.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert {name.split(".")[1] for name in changed} in ({"head"}, {"classifier"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": 2}, "freeze is 2"),
        ({"patch_sizes": (2, 2, 2)}, "patch_sizes"),
        ({"numbers": {"checkpoint_path": "x.pt"}}, "checkpoint_path"),
        ({"model": "timm:deit_tiny_patch16"}, r"deit_tiny_patch16'.*deit_tiny_patch16_224"),
    ],
)
def test_what_it_cannot_do_is_said(
    settings: dict[str, Any], message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train(data, output=tmp_path / "run", progress=False, **(SETTINGS | DEIT | settings))


def test_it_is_not_turned_into_files_for_other_libraries(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not turned into files for timm"):
        convert(run, tmp_path / "x.safetensors", to="timm")


@pytest.mark.parametrize("lies", [{"depth": 10**9}, {"depth_token_only": 10**6}, {"depth": -1}])
def test_a_file_that_lies_about_its_depth_is_refused(
    run: Path, tmp_path: Path, lies: dict[str, int]
) -> None:
    best = RunFolder(run).best
    with safe_open(best, framework="pt") as file:
        header = file.metadata()
    told = json.loads(header["architecture"]) | lies
    lie = tmp_path / "lie.safetensors"
    save_file(load_file(best), lie, header | {"architecture": json.dumps(told)})
    with pytest.raises(UserError, match="do not fit its description"):
        load_checkpoint(lie)
