"""The proof that an artefact still does what the network did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobilevit.deployment.preprocess import batches
from mobilevit.deployment.runtimes import Predictor
from mobilevit.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

TOLERANCE = 1e-3
"""Largest difference of an fp32 artefact's outputs, as a share of the range of the reference's."""


@dataclass(frozen=True)
class Comparison:
    """The outputs of an artefact beside those of a reference, on the same real pictures.

    Attributes:
        pictures: how many were compared.
        max_difference: largest absolute difference of two outputs.
        mean_difference: mean absolute difference.
        value_range: largest minus smallest output of the reference, over all pictures.
        sqnr: signal to quantisation noise in dB, 10 log10(sum of reference² / sum of
            (reference - artefact)²); ``None`` where the two are equal to the last bit.
        agreement: share of the pictures for which both have the same first answer.
        tolerance: largest ``max_difference / value_range`` that counts as the same.
        unreadable: pictures that were left out, and why.
    """

    pictures: int
    max_difference: float
    mean_difference: float
    value_range: float
    sqnr: float | None
    agreement: float
    tolerance: float
    unreadable: dict[str, str]

    @property
    def limit(self) -> float:
        """The largest absolute difference that counts as the same."""
        return self.tolerance * self.value_range

    @property
    def passed(self) -> bool:
        """Whether the artefact agrees with the reference; never with NaN."""
        return self.max_difference <= self.limit

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON; a NaN becomes ``None``."""
        values = {**asdict(self), "limit": self.limit, "passed": self.passed}
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }

    def print(self, console: Console) -> None:
        """Print it for people."""
        from rich.table import Table

        table = Table(title=f"beside PyTorch, on {self.pictures} pictures", show_header=False)
        table.add_row("largest difference", f"{self.max_difference:.2e} (allowed {self.limit:.2e})")
        table.add_row("mean difference", f"{self.mean_difference:.2e}")
        table.add_row("range of the outputs", f"{self.value_range:.3g}")
        table.add_row("SQNR", "equal bit for bit" if self.sqnr is None else f"{self.sqnr:.1f} dB")
        table.add_row("same first answer", f"{self.agreement:.1%}")
        table.add_row("verdict", "[green]the same[/]" if self.passed else "[red]not the same[/]")
        console.print(table)
        for path, reason in self.unreadable.items():
            console.print(f"left out: {path}: {reason}", markup=False)


def compare(
    reference: Predictor,
    artefact: Predictor,
    pictures: Sequence[Path],
    tolerance: float = TOLERANCE,
    batch_size: int = 4,
) -> Comparison:
    """Run two predictors on the same pictures.

    Args:
        reference: what counts as right; its contract prepares the pictures for both.
        artefact: what is checked.
        pictures: real ones; unreadable ones are left out.
        tolerance: largest difference of two outputs, as a share of their range.
        batch_size: pictures run at a time.

    Raises:
        UserError: when the contracts differ, or when none of the pictures can be read.
    """
    from mobilevit.tasks import get_task

    if reference.contract != artefact.contract:
        raise UserError(
            f"{artefact.path}: its contract differs from that of {reference.path}, so there is "
            "nothing to compare."
        )
    expected, found = [], []
    unreadable: dict[str, str] = {}
    for batch in batches(pictures, reference.contract, batch_size):
        unreadable |= {str(path): reason for path, reason in batch.unreadable.items()}
        if batch.positions:
            expected.append(reference.run(batch.images))
            found.append(artefact.run(batch.images))
    if not expected:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in list(unreadable.items())[:3])
        raise UserError(
            f"none of the {len(pictures)} pictures to compare on can be read. {reasons}"
        )
    task = get_task(reference.contract.task)
    before, after, agreed = task.align(
        np.concatenate(expected).astype(np.float64),
        np.concatenate(found).astype(np.float64),
        reference.contract,
    )
    difference = np.abs(before - after)
    return Comparison(
        pictures=len(agreed),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        value_range=float(before.max() - before.min()),
        sqnr=_sqnr(before, difference),
        agreement=float(agreed.mean()),
        tolerance=tolerance,
        unreadable=unreadable,
    )


def _sqnr(signal: NDArray[np.float64], noise: NDArray[np.float64]) -> float | None:
    power = np.square(noise).sum()
    if power == 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(10 * np.log10(np.square(signal).sum() / power))
