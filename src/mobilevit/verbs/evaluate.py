"""Measure how good a network is on labelled pictures."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilevit.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mobilevit.verbs.robustness import Robustness


@dataclass(frozen=True)
class Evaluation:
    """How good a network is.

    Attributes:
        model: description of the network, as its predictor gives it.
        data: the folder of the pictures.
        split: which of them, in words.
        metrics: of the task, for example ``{"top1": 0.63, …}``.
        unreadable: pictures that were left out, and why.
        seconds: for reading the pictures and running the network.
        robustness: on corrupted and on resized pictures, if it was asked for.
        headline: names of the metrics to show first.
    """

    model: dict[str, Any]
    data: str
    split: str
    metrics: dict[str, Any]
    unreadable: dict[str, str]
    seconds: float
    robustness: Robustness | None = None
    headline: tuple[str, ...] = ()

    @property
    def images_per_second(self) -> float:
        """Pictures read and run in a second."""
        samples: int = self.metrics["samples"]
        return samples / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {
            "model": self.model,
            "data": self.data,
            "split": self.split,
            "metrics": self.metrics,
            "unreadable": self.unreadable,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_per_second, 1),
            "robustness": self.robustness and self.robustness.to_dict(),
        }

    def print(self, console: Console) -> None:
        """Print it for people."""
        from rich.markup import escape
        from rich.table import Table

        per_class: dict[str, dict[str, Any]] = self.metrics.get("per_class", {})
        if per_class:
            columns = next(iter(per_class.values()))
            table = Table("class", title=escape(f"{self.model['model']} on {self.data}"))
            for column in columns:
                table.add_column(column, justify="right")
            for name, row in per_class.items():
                table.add_row(escape(name), *(_cell(row[column]) for column in columns))
            console.print(table)
        for name in self.headline:
            if name in self.metrics:
                console.print(f"{name}: [bold]{_cell(self.metrics[name])}[/]")
        loss = f"loss {self.metrics['loss']:.4f}, " if "loss" in self.metrics else ""
        console.print(
            f"{loss}{self.metrics['samples']:,} pictures ({self.split}), "
            f"{self.images_per_second:.0f} a second",
            highlight=False,
            markup=False,
        )
        for path, reason in self.unreadable.items():
            console.print(f"left out: {path}: {reason}", markup=False, soft_wrap=True)
        if self.robustness:
            self.robustness.print(console)


def evaluate(
    model: str | Path,
    data: str | Path,
    split: str = "val",
    batch_size: int = 32,
    threads: int | None = None,
    output: str | Path | None = None,
    robustness: bool = False,
) -> Evaluation:
    """Evaluate a network on labelled pictures.

    Classes are matched by their names, or where that fails by their synonyms, without regard to
    case and underscores; the data may have fewer than the network knows.

    Args:
        model: whatever ``load_predictor`` takes; an exported file needs its runtime alone.
        data: a folder of class folders, with ``train/`` and ``val/`` or without; for a detector,
            boxes as COCO, YOLO or Pascal VOC have them, see ``read_boxes``; for segmentation,
            pictures and masks, see ``read_masks``.
        split: ``"val"``, ``"train"``, ``"test"`` or ``"all"``. In a folder without a split
            of its own, ``val`` and ``train`` are the two sides that training made of it, if the
            network was trained on this very folder; otherwise all of it is ``val``.
        batch_size: pictures run at a time.
        threads: threads that compute; by default as many as the runtime finds good.
        output: a file to write the result to, as JSON; it must not be there yet.
        robustness: evaluate on corrupted and on resized pictures too, see ``robustness`` in
            ``verbs/robustness.py``; on 500 pictures at most.

    Raises:
        UserError: when the model or the data cannot be used, when the data have a class that the
            network does not know, or when there is something at ``output``. A picture that cannot
            be read is no error: it is among ``unreadable``.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be 1 or more.")
    if output is not None and Path(output).exists():
        raise UserError(f"{output}: it exists. Choose another file for the result.")
    from mobilevit.deployment.runtimes import load_predictor
    from mobilevit.files import check_writable, write_text
    from mobilevit.tasks import get_task
    from mobilevit.verbs.labelled import find_labelled, judge
    from mobilevit.verbs.robustness import measure_robustness

    if output is not None:
        check_writable(Path(output))
    predictor = load_predictor(model, threads)
    labelled = find_labelled(predictor, data, split)
    started = time.perf_counter()
    metrics, unreadable = judge(predictor, labelled, batch_size)
    seconds = time.perf_counter() - started
    evaluation = Evaluation(
        predictor.describe(),
        str(data),
        labelled.split,
        metrics,
        unreadable,
        seconds,
        measure_robustness(predictor, labelled, batch_size=batch_size) if robustness else None,
        get_task(predictor.contract.task).headline,
    )
    if output:
        text = json.dumps(evaluation.to_dict(), indent=2, ensure_ascii=False)
        write_text(Path(output), text + "\n")
    return evaluation


def _cell(value: float | int | None) -> str:
    """Return a count, or a share in percent, as people read it."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.1%}"
