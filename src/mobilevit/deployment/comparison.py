"""The proof that an artefact still does what the network did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobilevit.deployment.preprocess import batches
from mobilevit.deployment.runtimes.artefact import Predictor
from mobilevit.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8-weights": 1e-1, "int8": 3e-1}
"""Largest difference of an artefact's outputs by its precision, as a share of the range of the
reference's."""
AGREEMENTS = {"int8-weights": 0.9, "int8": 0.9}
"""Smallest share of equal first answers by precision; with 32 pictures one is 3 %."""


@dataclass(frozen=True)
class Comparison:
    """The outputs of an artefact beside those of a reference, on the same real pictures.

    Attributes:
        pictures: how many were compared.
        max_difference: largest absolute difference of two outputs.
        mean_difference: mean absolute difference.
        value_range: largest minus smallest output of the reference, over all pictures.
        psnr: 10 log10(``value_range``² / mean of (reference - artefact)²) in dB; ``None`` where the
            two are equal to the last bit.
        sqnr: signal to quantisation noise in dB, 10 log10(sum of reference² / sum of
            (reference - artefact)²); ``None`` likewise.
        agreement: share of the pictures, or of all their pixels, for which both have the same first
            answer.
        tolerance: largest ``max_difference / value_range`` that counts as the same.
        least_agreement: smallest ``agreement`` that does.
        unreadable: pictures that were left out, and why.
    """

    pictures: int
    max_difference: float
    mean_difference: float
    value_range: float
    psnr: float | None
    sqnr: float | None
    agreement: float
    tolerance: float
    least_agreement: float
    unreadable: dict[str, str]

    @property
    def limit(self) -> float:
        """The largest absolute difference that counts as the same."""
        return self.tolerance * self.value_range

    @property
    def passed(self) -> bool:
        """Whether the artefact agrees with the reference; never with NaN."""
        return self.max_difference <= self.limit and self.agreement >= self.least_agreement

    def why_not(self) -> str:
        """Return in words what keeps it from passing, and the way out."""
        said = f"On {self.pictures} pictures "
        if not self.max_difference <= self.limit:
            return (
                f"{said}its outputs differ from PyTorch's by up to {self.max_difference:.4g}; "
                f"allowed is {self.limit:.4g}, that is {self.tolerance:g} of their range. The "
                f"first answer is the same for {self.agreement:.2%}. A larger tolerance accepts it."
            )
        return (
            f"{said}its first answer is PyTorch's for {self.agreement:.2%}; needed is "
            f"{self.least_agreement:.0%}. A tolerance of your own accepts any answers: "
            f"{self.tolerance:g} is enough."
        )

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
        for name, decibels in (("PSNR", self.psnr), ("SQNR", self.sqnr)):
            table.add_row(name, "equal bit for bit" if decibels is None else f"{decibels:.1f} dB")
        least = f" (allowed {self.least_agreement:.0%})" if self.least_agreement else ""
        table.add_row("same first answer", f"{self.agreement:.2%}{least}")
        table.add_row("verdict", "[green]the same[/]" if self.passed else "[red]not the same[/]")
        console.print(table)
        for path, reason in self.unreadable.items():
            console.print(f"left out: {path}: {reason}", markup=False)


def compare(
    reference: Predictor,
    artefact: Predictor,
    pictures: Sequence[Path],
    tolerance: float = TOLERANCES["fp32"],
    least_agreement: float = 0.0,
    batch_size: int = 4,
) -> Comparison:
    """Run two predictors on the same pictures.

    Args:
        reference: what counts as right; its contract prepares the pictures for both.
        artefact: what is checked.
        pictures: real ones; unreadable ones are left out.
        tolerance: largest difference of two outputs, as a share of their range.
        least_agreement: smallest share of equal first answers.
        batch_size: pictures run at a time.

    Raises:
        UserError: when the contracts differ, or when none of the pictures can be read.
    """
    from mobilevit.tasks import get_task

    if replace(artefact.contract, layout=reference.contract.layout) != reference.contract:
        raise UserError(
            f"{artefact.path}: its contract differs from that of {reference.path}, so there is "
            "nothing to compare."
        )
    task = get_task(reference.contract.task)
    sums = _Sums()
    unreadable: dict[str, str] = {}
    for batch in batches(pictures, reference.contract, batch_size):
        unreadable |= {str(path): reason for path, reason in batch.unreadable.items()}
        if batch.positions:
            expected, found = reference.run(batch.images), artefact.run(batch.images)
            for one, other in zip(expected[:, None], found[:, None], strict=True):
                sums.add(*task.align(one.astype(float), other.astype(float), reference.contract))
    if not sums.pictures:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in list(unreadable.items())[:3])
        raise UserError(
            f"none of the {len(pictures)} pictures to compare on can be read. {reasons}"
        )
    return Comparison(
        pictures=sums.pictures,
        max_difference=sums.largest,
        mean_difference=sums.difference / sums.numbers,
        value_range=sums.range,
        psnr=sums.decibels(sums.numbers * sums.range**2),
        sqnr=sums.decibels(sums.signal),
        agreement=sums.agreed / sums.answers,
        tolerance=tolerance,
        least_agreement=least_agreement,
        unreadable=unreadable,
    )


@dataclass
class _Sums:
    """What is gathered picture by picture, for the outputs of all may not fit into memory."""

    pictures: int = 0
    numbers: int = 0
    answers: int = 0
    agreed: int = 0
    largest: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    difference: float = 0.0
    signal: float = 0.0
    noise: float = 0.0

    def add(
        self, before: NDArray[np.float64], after: NDArray[np.float64], agreed: NDArray[np.bool_]
    ) -> None:
        """Add a picture, as a task aligned it; a NaN remains."""
        difference = np.abs(before - after)
        self.pictures += 1
        self.numbers += difference.size
        self.answers += agreed.size
        self.agreed += int(agreed.sum())
        self.largest = float(np.maximum(self.largest, difference.max()))
        self.low = float(np.minimum(self.low, before.min()))
        self.high = float(np.maximum(self.high, before.max()))
        self.difference += float(difference.sum())
        self.signal += float(np.square(before).sum())
        self.noise += float(np.square(difference).sum())

    @property
    def range(self) -> float:
        """The largest output less the smallest; where all are one number, its size."""
        return self.high - self.low or abs(self.high)

    def decibels(self, power: float) -> float | None:
        """Return how far the noise is below a power."""
        if self.noise == 0:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(10 * np.log10(np.divide(power, self.noise)))
