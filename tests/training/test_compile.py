from __future__ import annotations

import functools
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from mobilevit import load_checkpoint
from tiny import fit_tiny, rows

CXX = os.environ.get("CXX", "clang++" if platform.system() == "Darwin" else "g++")
SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "size": 32,
    "batch_size": 10,  # 24 pictures: two full batches and a rest of four
    "dropout": 0.0,  # its random numbers are others in a compiled network
    "head_dropout": 0.0,
}


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(("sizes", "graphs"), [((), 1), ((32, 64), 2)], ids=["one", "two"])
def test_there_is_one_graph_a_size(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], graphs: int
) -> None:
    """None for the rest of an epoch, which differs from epoch to epoch, nor for evaluation."""
    bare = functools.partialmethod(nn.Module.compile, backend="eager")
    monkeypatch.setattr(nn.Module, "compile", bare)
    settings = SETTINGS | {"sizes": sizes, "batch_size": 5}
    run = fit_tiny(tiny, tmp_path / "compiled", compile=True, freeze=2, **settings)
    assert counters["stats"]["unique_graphs"] == graphs
    assert rows(run) == rows(fit_tiny(tiny, tmp_path / "eager", freeze=2, **settings))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(CXX), reason=f"compiling needs a C++ compiler, {CXX}")
def test_a_compiled_network_learns_the_same(tiny: Path, tmp_path: Path) -> None:
    """Minutes on one core, nearly all of them for the one graph."""
    compiled = fit_tiny(tiny, tmp_path / "compiled", compile=True, **SETTINGS)
    assert counters["stats"]["unique_graphs"] == 1
    eager = fit_tiny(tiny, tmp_path / "eager", **SETTINGS)
    for one, other in zip(rows(compiled), rows(eager), strict=True):
        for loss in ("train_loss", "val_loss"):
            assert one[loss] == pytest.approx(other[loss], rel=1e-3)
    names = [load_checkpoint(run.last).network.state_dict().keys() for run in (compiled, eager)]
    assert names[0] == names[1]
