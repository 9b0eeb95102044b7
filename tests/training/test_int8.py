from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mobilevit import UserError, load_checkpoint
from mobilevit.training.recipe import Recipe
from tiny import fit_tiny, rows

SETTINGS = {"epochs": 2, "size": 32, "batch_size": 8}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_rounding_is_felt_in_training_and_leaves_no_trace(
    tiny: Path, tmp_path: Path, precision: str
) -> None:
    runs = [
        fit_tiny(tiny, tmp_path / name, int8=int8, precision=precision, **SETTINGS)
        for name, int8 in (("int8", True), ("again", True), ("float", False))
    ]
    rounded, again, floats = map(rows, runs)
    assert [row["train_loss"] for row in rounded] == [row["train_loss"] for row in again]
    assert rounded[0]["train_loss"] != floats[0]["train_loss"]
    assert rounded[0]["train_loss"] == pytest.approx(floats[0]["train_loss"], rel=0.3)
    network = load_checkpoint(runs[0].best).network
    assert network.state_dict().keys() == load_checkpoint(runs[2].best).network.state_dict().keys()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert len(network.eval()(x).unique()) > 2


def test_it_cannot_be_compiled() -> None:
    with pytest.raises(UserError, match="int8 is learnt without compile"):
        Recipe().override(int8=True, compile=True)
