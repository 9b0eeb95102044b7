"""The pictures of a run: what the network saw, what it confuses, where it is surely wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

MOSAIC = 16
"""Pictures in a mosaic, at most."""
NAMED_CLASSES = 40
"""Classes up to which a confusion matrix bears names and counts."""


class Mistake(NamedTuple):
    """A picture the network is wrong about, and how sure it is of that."""

    picture: NDArray[np.float32]
    truth: str
    predicted: str
    probability: float


def draw_batch(path: Path, pictures: NDArray[np.float32], titles: Sequence[str]) -> None:
    """Draw a mosaic of a batch.

    Args:
        path: the PNG to write.
        pictures: (N, 3, H, W) RGB in [0, 1].
        titles: N texts.
    """
    _mosaic(path, pictures[:MOSAIC], titles[:MOSAIC], "A training batch as the network sees it")


def draw_mistakes(path: Path, mistakes: Sequence[Mistake]) -> None:
    """Draw the given mistakes, each with the truth, the answer and its probability."""
    _mosaic(
        path,
        [mistake.picture for mistake in mistakes[:MOSAIC]],
        [f"{m.truth}\n→ {m.predicted} {m.probability:.0%}" for m in mistakes[:MOSAIC]],
        "The most confident mistakes" if mistakes else "No mistakes",
    )


def draw_confusion(
    path: Path, confusion: Sequence[Sequence[int]], names: Sequence[str], title: str = ""
) -> None:
    """Draw a confusion matrix, each row as shares of its true class.

    Args:
        path: the PNG to write.
        confusion: (K, K) counts; a row is a true class.
        names: K class names.
        title: to write above it.
    """
    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(4.0 + 0.45 * len(names), 16.0)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    axes.set_title(title)
    if len(names) <= NAMED_CLASSES:
        labels = [_short(name) for name in names]
        axes.set_xticks(range(len(names)), labels, rotation=90, parse_math=False)
        axes.set_yticks(range(len(names)), labels, parse_math=False)
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = str(counts[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    figure.savefig(path, dpi=120)


def _mosaic(path: Path, pictures: Any, titles: Sequence[str], heading: str) -> None:
    columns = 4
    rows = max(1, -(-len(titles) // columns))
    figure = Figure(figsize=(2.2 * columns, 2.5 * rows + 0.4), layout="constrained")
    figure.suptitle(heading)
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, picture, title in zip(figure.axes, pictures, titles, strict=False):
        axes.imshow(np.clip(picture.transpose(1, 2, 0), 0, 1))
        text = "\n".join(_short(line) for line in title.split("\n"))
        axes.set_title(text, fontsize=8, parse_math=False)
    figure.savefig(path, dpi=100)


def _short(text: str, most: int = 28) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
