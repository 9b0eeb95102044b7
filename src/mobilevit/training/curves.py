"""The curves of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw_curves(path: Path, rows: Sequence[Mapping[str, Any]], primary: str) -> None:
    """Draw loss, metric and learning rate over the epochs.

    Args:
        path: the PNG to write.
        rows: the metrics of each epoch, of ``metrics.jsonl``.
        primary: the metric to draw, ``"top1"``.
    """
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, what in ((left, "loss"), (middle, primary)):
        for part in ("train", "val"):
            if all(f"{part}_{what}" in row for row in rows):
                axes.plot(epochs, [row[f"{part}_{what}"] for row in rows], ".-", label=part)
        axes.set_title(what)
        axes.legend()
    right.plot(epochs, [row["lr"] for row in rows], ".-")
    right.set_title("learning rate at the end of the epoch")
    for axes in figure.axes:
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
