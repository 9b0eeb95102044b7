"""Measure how good a network still is on corrupted pictures and at other input sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mobilevit.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mobilevit.deployment.contract import Contract
    from mobilevit.deployment.runtimes import Predictor
    from mobilevit.verbs.labelled import Labelled

LIMIT = 500
"""Pictures that robustness is measured on, if nothing else is asked for: each is run 20 times."""

_Condition = tuple[str, int]
_CLEAN: _Condition = ("clean", 0)


@dataclass(frozen=True)
class Robustness:
    """How good a network still is on pictures that were made worse.

    Attributes:
        metric: name of the task's primary metric, which all the shares are.
        clean: on the pictures as they are.
        corrupted: for each corruption of ``STRENGTHS`` the shares at the strengths 1 to 5.
        sizes: at other input sizes, by the shorter side in pixels; the pictures are scaled to the
            input as the contract says, in proportion.
        sizes_left_out: the sizes that the network cannot be run at, and why.
        samples: pictures that it was measured on.
        unreadable: pictures that were left out, and why.
    """

    metric: str
    clean: float
    corrupted: dict[str, tuple[float, ...]]
    sizes: dict[int, float]
    sizes_left_out: dict[int, str]
    samples: int
    unreadable: dict[str, str]

    @property
    def mean(self) -> float:
        """Mean over all corruptions and strengths."""
        return fmean(share for shares in self.corrupted.values() for share in shares)

    @property
    def relative(self) -> float | None:
        """What part of ``clean`` is left in the mean; ``None`` if ``clean`` is 0."""
        return self.mean / self.clean if self.clean else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {
            "metric": self.metric,
            "clean": self.clean,
            "corrupted": {name: list(shares) for name, shares in self.corrupted.items()},
            "mean": self.mean,
            "relative": self.relative,
            "sizes": {str(side): share for side, share in self.sizes.items()},
            "sizes_left_out": {str(side): why for side, why in self.sizes_left_out.items()},
            "samples": self.samples,
            "unreadable": self.unreadable,
        }

    def print(self, console: Console) -> None:
        """Print it for people."""
        from rich.table import Table

        table = Table("strength", title=f"{self.metric} on {self.samples:,} corrupted pictures")
        for heading in ("1", "2", "3", "4", "5", "mean"):
            table.add_column(heading, justify="right")
        table.add_row("clean", *[""] * 5, f"{self.clean:.1%}", end_section=True)
        for name, shares in self.corrupted.items():
            table.add_row(name, *(f"{share:.1%}" for share in (*shares, fmean(shares))))
        table.add_section()
        means = [fmean(shares) for shares in zip(*self.corrupted.values(), strict=True)]
        table.add_row("mean", *(f"{share:.1%}" for share in (*means, self.mean)))
        console.print(table)
        left = "" if self.relative is None else f", {self.relative:.1%} of clean"
        console.print(f"corrupted: {self.mean:.1%}{left}", highlight=False)
        if self.sizes:
            sizes = ", ".join(f"{side} px {share:.1%}" for side, share in self.sizes.items())
            console.print(f"resized: {sizes}", highlight=False)
        for side, why in self.sizes_left_out.items():
            console.print(f"left out: {side} px: {why}", markup=False, soft_wrap=True)


def robustness(
    model: str | Path,
    data: str | Path,
    split: str = "val",
    limit: int | None = LIMIT,
    sizes: Sequence[int] | None = None,
    batch_size: int = 32,
    threads: int | None = None,
) -> Robustness:
    """Measure a network on corrupted and on resized pictures.

    Args:
        model: whatever ``load_predictor`` takes; an ``.onnx`` file needs no torch.
        data: a folder of class folders, see ``evaluate``.
        split: ``"val"``, ``"train"`` or ``"all"``, see ``evaluate``.
        limit: most pictures that are taken, evenly over the classes and the same for every
            network; ``None``: all.
        sizes: shorter sides of the input to measure at, in pixels; by default 3/4, 1 and 5/4 of
            the contract's.
        batch_size: pictures run at a time.
        threads: threads that compute; by default as many as the runtime finds good.

    Raises:
        UserError: when the model, the data or a number cannot be used, or none of the pictures can
            be read. A size that the network cannot be run at is no error: it is among
            ``sizes_left_out``.
    """
    from mobilevit.deployment.runtimes import load_predictor
    from mobilevit.verbs.labelled import find_labelled

    predictor = load_predictor(model, threads)
    labelled = find_labelled(predictor, data, split)
    return measure_robustness(predictor, labelled, limit, sizes, batch_size)


def measure_robustness(
    predictor: Predictor,
    labelled: Labelled,
    limit: int | None = LIMIT,
    sizes: Sequence[int] | None = None,
    batch_size: int = 32,
) -> Robustness:
    """Measure a network that is open, on pictures that are found; see ``robustness``."""
    from mobilevit.data.corruptions import STRENGTHS
    from mobilevit.tasks import get_task

    side = min(predictor.contract.size)
    sides = [round(side * part) for part in (0.75, 1, 1.25)] if sizes is None else list(sizes)
    numbers = [("limit", limit), ("batch_size", batch_size), *(("size", side) for side in sides)]
    for name, number in numbers:
        if number is not None and number < 1:
            raise UserError(f"{name} is {number}; it must be 1 or more.")
    labelled = labelled.limited(limit)
    conditions = (_CLEAN, *product(STRENGTHS, range(1, 6)))
    shares, unreadable = _measure(predictor, labelled, batch_size, "corrupted", conditions)
    resized: dict[int, float] = {}
    left_out: dict[int, str] = {}
    for side in sides:
        try:
            other = _at_size(predictor, side)
        except UserError as error:
            left_out[side] = str(error)
            continue
        found = shares  # at its own size it has been run
        if other is not predictor:
            found, _ = _measure(other, labelled, batch_size, f"at {side} px")
        resized[side] = found[_CLEAN]
    return Robustness(
        metric=get_task(predictor.contract.task).primary,
        clean=shares[_CLEAN],
        corrupted={name: tuple(shares[name, i] for i in range(1, 6)) for name in STRENGTHS},
        sizes=resized,
        sizes_left_out=left_out,
        samples=len(labelled) - len(unreadable),
        unreadable=unreadable,
    )


def _measure(
    predictor: Predictor,
    labelled: Labelled,
    batch_size: int,
    title: str,
    conditions: Sequence[_Condition] = (_CLEAN,),
) -> tuple[dict[_Condition, float], dict[str, str]]:
    """Return the primary metric under each condition, and the pictures that cannot be read."""
    import numpy as np

    from mobilevit.data.corruptions import corrupt
    from mobilevit.deployment.preprocess import batches
    from mobilevit.tasks import get_task
    from mobilevit.verbs.labelled import with_bar

    contract = predictor.contract
    task = get_task(contract.task)
    metrics = {condition: task.metric(contract) for condition in conditions}
    unreadable: dict[str, str] = {}
    read = batches(labelled.paths, contract, batch_size)
    for batch in with_bar(read, len(labelled), title):
        unreadable |= {str(path): reason for path, reason in batch.unreadable.items()}
        if not batch.positions:
            continue
        names = [labelled.name(position) for position in batch.positions]
        targets = [labelled.labels[position] for position in batch.positions]
        for condition, metric in metrics.items():
            images = batch.images
            if condition != _CLEAN:
                pairs = zip(images, names, strict=True)
                images = np.stack([corrupt(image, *condition, name) for image, name in pairs])
            metric.update(predictor.run(images), targets)
    labelled.check_readable(unreadable)
    return {key: metric.compute()[task.primary] for key, metric in metrics.items()}, unreadable


def _at_size(predictor: Predictor, side: int) -> Predictor:
    """Return the predictor with inputs whose shorter side is this many pixels.

    Raises:
        UserError: when it cannot be run at that size.
    """
    from mobilevit.deployment.runtimes.pytorch import TorchPredictor

    contract = _resized(predictor.contract, side)
    if contract == predictor.contract:
        return predictor
    if not isinstance(predictor, TorchPredictor):
        height, width = predictor.contract.size
        raise UserError(f"{predictor.path} takes {height} × {width} pixels only")
    return predictor.with_contract(contract).tried()


def _resized(contract: Contract, side: int) -> Contract:
    """Scale the input and what it is cropped from to another shorter side."""
    scale = side / min(contract.size)
    height, width = (round(length * scale) for length in contract.size)
    resize = None if contract.resize is None else round(contract.resize * scale)
    return replace(contract, size=(height, width), resize=resize)
