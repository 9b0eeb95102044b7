"""Which blocks of a network lose what in int8: the verb ``sensitivity``."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from mobilevit.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

KEPT = (1, 2, 3, 5, 8)
"""How many of the worst blocks are left in float, to see what that brings."""


@dataclass(frozen=True)
class Loss:
    """What is lost when something is computed in int8.

    Attributes:
        sqnr: signal to quantisation noise of the outputs in dB, see ``Comparison``; ``None`` where
            they are the same bit for bit.
        agreement: share of the pictures, or of their pixels, with the same first answer.
    """

    sqnr: float | None
    agreement: float


@dataclass(frozen=True)
class Sensitivity:
    """How much of a network's answers int8 costs, block by block, simulated in PyTorch.

    Attributes:
        model: as it was given.
        pictures: that the losses are of; those that cannot be read are not among them.
        everything: all blocks in int8.
        alone: each block alone in int8, the worst first.
        kept: everything in int8 but so many of the worst blocks.
    """

    model: str
    pictures: int
    everything: Loss
    alone: dict[str, Loss]
    kept: dict[int, Loss]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return asdict(self)

    def print(self, console: Console) -> None:
        """Print it as a table, and how to go on."""
        from rich.table import Table

        table = Table("in int8", title=f"simulated on {self.pictures} pictures")
        for column in ("SQNR", "same first answer"):
            table.add_column(column, justify="right")
        rows = {"everything": self.everything}
        rows |= {f"without the {n} worst": loss for n, loss in self.kept.items()}
        rows |= {f"{block} alone": loss for block, loss in self.alone.items()}
        for name, loss in rows.items():
            lost = "nothing" if loss.sqnr is None else f"{loss.sqnr:.1f} dB"
            table.add_row(name, lost, f"{loss.agreement:.1%}")
        console.print(table)
        worst = " ".join(list(self.alone)[:2])
        console.print(
            f"Next: mobilevit export {quote(self.model)} --precision int8 --float-blocks {worst}",
            markup=False,
            soft_wrap=True,
        )


def sensitivity(
    model: str | Path,
    data: str | Path | None = None,
    calibrate: str | Path | None = None,
) -> Sensitivity:
    """Find out which blocks of a network lose what when they are computed in int8.

    Runtimes differ in what they round; this simulates rounding every weight and every result in
    PyTorch. The names of the blocks are what ``export(float_blocks=…)`` takes.

    Args:
        model: whatever ``load_pretrained`` takes.
        data: a folder of pictures to measure on; by default those that the run was validated on.
        calibrate: a folder of pictures that the ranges are learnt from; by default those that the
            run was trained on.

    Raises:
        UserError: when the model or the pictures cannot be used.
    """
    import torch

    from mobilevit.checkpoints import load_pretrained
    from mobilevit.deployment.calibration import load_calibration
    from mobilevit.deployment.capture import prepare
    from mobilevit.deployment.comparison import Comparison, compare
    from mobilevit.deployment.formats import format_of
    from mobilevit.deployment.runtimes.pytorch import TorchPredictor
    from mobilevit.deployment.sensitivity import SimulatedInt8, find_blocks
    from mobilevit.tasks import get_task
    from mobilevit.verbs.export import find_pictures

    if format_of(model):
        raise UserError(f"{model}: this is an artefact; sensitivity takes the checkpoint.")
    found = load_pretrained(model)
    reference = TorchPredictor.from_pretrained(found)
    contract, fraction = reference.contract, reference.origin.val_fraction
    pictures = find_pictures(data, found.path, contract, fraction, "val")
    learnt = find_pictures(calibrate, found.path, contract, fraction, "train")
    network = prepare(get_task(contract.task).deploy(found.checkpoint.network, contract))
    blocks = find_blocks(network)
    mode = SimulatedInt8()

    class Rounded(TorchPredictor):
        """Computes some blocks in int8."""

        chosen: dict[str, Any]

        def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            with torch.no_grad(), mode.rounding(self.chosen):
                outputs: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
            return outputs

    rounded = Rounded(found.checkpoint.network, contract, reference.path)

    def beside(chosen: list[str]) -> Comparison:
        rounded.chosen = {name: blocks[name] for name in chosen}
        return compare(reference, rounded, pictures)

    def loss(found: Comparison) -> Loss:
        return Loss(found.sqnr, found.agreement)

    def lose(chosen: list[str]) -> Loss:
        return loss(beside(chosen))

    rounded.chosen = blocks
    for picture in load_calibration(learnt, contract):  # one by one: together they take gigabytes
        rounded.run(picture[None])
    mode.stage = "round"
    whole = beside(list(blocks))
    alone = dict(sorted(((b, lose([b])) for b in blocks), key=_strength))
    order = list(alone)
    kept = {n: lose(order[n:]) for n in KEPT if n < len(order)}
    return Sensitivity(str(model), whole.pictures, loss(whole), alone, kept)


def _strength(item: tuple[str, Loss]) -> float:
    sqnr = item[1].sqnr
    return math.inf if sqnr is None else sqnr
