from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from mobilevit.checkpoints import Checkpoint, architecture, save_checkpoint
from mobilevit.deployment.contract import Contract
from mobilevit.networks import create_model
from mobilevit.verbs.export import ExportReport, export


def _make_run(folder: Path, data: Path | None, names: tuple[str, ...], recipe: dict) -> Path:
    """A run folder of a network that was never trained."""
    torch.manual_seed(0)
    network = create_model("mobilevit_xxs", num_classes=len(names), layers=(1, 1, 1)).eval()
    nn.init.normal_(network.head.weight, std=0.3)
    contract = Contract("classification", names, size=(64, 64), resize=72)
    folder.mkdir()
    described = architecture("mobilevit_xxs", network)
    save_checkpoint(
        folder / "best.safetensors", Checkpoint(network, contract, described, recipe=recipe)
    )
    if data:
        (folder / "run.json").write_text(json.dumps({"data": str(data.resolve())}))
    return folder


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    return _make_run


@pytest.fixture(scope="session")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Knows one class more than ``photos`` has, in an order of its own."""
    names = ("stripes", "moon", "disc", "square")
    return _make_run(tmp_path_factory.mktemp("runs") / "run", photos, names, {})


@pytest.fixture(scope="session")
def report(run: Path) -> ExportReport:
    return export(run)


@pytest.fixture(scope="session")
def artefact(report: ExportReport) -> Path:
    return report.path
