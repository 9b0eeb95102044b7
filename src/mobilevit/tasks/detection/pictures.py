"""The pictures of a detector: what it was shown, what it finds beside the truth, how well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilevit.data.boxes import Boxes
from mobilevit.data.decoding import read_picture
from mobilevit.data.drawing import MOSAIC, colour_of, draw_boxes, mosaic, tile, titled
from mobilevit.data.folders import Folders, Sample, spread

if TYPE_CHECKING:
    from mobilevit.tasks.detection.predictions import Prediction

NAMED_CLASSES = 20
"""Classes up to which each precision-recall curve is named."""


def draw_batch(
    path: Path, pictures: NDArray[np.float32], labels: Sequence[Boxes], names: Sequence[str]
) -> None:
    """Draw a mosaic of a batch as the network sees it.

    Args:
        path: the PNG to write.
        pictures: (N, 3, H, W) RGB in [0, 1].
        labels: the boxes of the N pictures.
        names: K class names.
    """
    tiles = []
    for picture, boxes in zip(pictures[:MOSAIC], labels, strict=False):
        pixels = np.rint(picture.transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)
        tiles.append(_with_truth(Image.fromarray(pixels), boxes, names))
    mosaic(tiles).save(path, format="PNG")


def draw_mosaic(path: Path, samples: Sequence[Sample[Boxes]], names: Sequence[str]) -> None:
    """Draw up to 16 pictures, spread over all, with their true boxes.

    Args:
        path: the PNG to write.
        samples: readable pictures.
        names: K class names.

    Raises:
        PictureError: when one of them cannot be read.
    """
    tiles = [
        _with_truth(read_picture(sample.path), sample.label, names)
        for sample in spread(samples, MOSAIC)
    ]
    mosaic(tiles).save(path, format="PNG")


def draw_truth_beside(path: Path, found: Sequence[Prediction], folders: Folders[Boxes]) -> None:
    """Draw up to 16 pictures twice, with their true boxes and with those that were found.

    Args:
        path: the PNG to write.
        found: what was found on pictures of ``folders.val``, already without the unsure.
        folders: with the truth.

    Raises:
        PictureError: when one of them cannot be read any more.
    """
    truth = {str(sample.path): sample.label for sample in folders.val}
    tiles = []
    for prediction in spread(found, MOSAIC):
        picture = read_picture(prediction.path)
        left = _with_truth(picture, truth[prediction.path], folders.class_names)
        right = tile(picture, prediction.width, prediction.height)
        scale = right.width / prediction.width
        words = [
            ([edge * scale for edge in b.box], f"{b.name} {b.score:.0%}", b.name)
            for b in prediction.boxes
        ]
        tiles += [titled(left, "truth"), titled(draw_boxes(right, words), "found")]
    mosaic(tiles).save(path, format="PNG")


def draw_precision_recall(path: Path, curves: Mapping[str, NDArray[np.floating[Any]]]) -> None:
    """Draw precision over recall at an overlap of 0.5 for each class, and the mean of them.

    Args:
        path: the PNG to write.
        curves: for each class its precision (101,) at the recalls 0, 0.01 … 1.
    """
    from matplotlib.figure import Figure

    recall = np.linspace(0, 1, 101)
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"Precision and recall at an overlap of 0.5, {len(curves)} classes")
    axes.grid(alpha=0.3)
    named = len(curves) <= NAMED_CLASSES
    for name, precision in sorted(curves.items(), key=lambda item: -item[1].mean()):
        colour = [channel / 255 for channel in colour_of(name)] if named else "0.75"
        width = 1.5 if named else 0.8
        (line,) = axes.plot(recall, precision, color=colour, linewidth=width)
        if named:
            line.set_label(f"{_plain(name)} {precision.mean():.3f}")
    if len(curves) > 1:
        mean = np.mean(list(curves.values()), axis=0)
        axes.plot(recall, mean, color="black", linewidth=2.5, label=f"mean {mean.mean():.3f}")
    if curves:
        figure.legend(loc="outside right upper", fontsize=8, title="average precision")
    figure.savefig(path, dpi=100)


def _with_truth(picture: Image.Image, boxes: Boxes, names: Sequence[str]) -> Image.Image:
    """Return a picture as a part of a mosaic, with its true boxes."""
    shown = tile(picture, boxes.width, boxes.height)
    corners = boxes.corners(ignored=True) * np.array([shown.width, shown.height] * 2)
    words = [
        (place, f"{names[b.label]} (ignored)" if b.ignored else names[b.label], names[b.label])
        for place, b in zip(corners.tolist(), boxes.items, strict=True)
    ]
    return draw_boxes(shown, words)


def _plain(name: str) -> str:
    """Return a name that starts no mathematics, cut short."""
    return (name if len(name) <= 28 else f"{name[:27]}…").replace("$", r"\$")
