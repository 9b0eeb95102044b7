"""The pictures of a segmenter: what it was shown, what it finds beside the truth, how well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilevit.data.decoding import read_picture
from mobilevit.data.drawing import MOSAIC, draw_mask, mosaic, tile, titled, with_legend
from mobilevit.data.folders import Folders, Sample, spread
from mobilevit.data.masks import IGNORED, Mask

if TYPE_CHECKING:
    from mobilevit.tasks.segmentation.predictions import Prediction

ROWS = 8
"""Pictures that are drawn beside their truth, at most."""


def draw_batch(
    path: Path, pictures: NDArray[np.float32], masks: NDArray[np.uint8], names: Sequence[str]
) -> None:
    """Draw a mosaic of a batch as the network sees it, under the colours it is to learn.

    Args:
        path: the PNG to write.
        pictures: (N, 3, H, W) RGB in [0, 1].
        masks: (N, H, W) indices of classes.
        names: K class names.
    """
    shown = []
    for picture, mask in zip(pictures[:MOSAIC], masks, strict=False):
        pixels = np.rint(picture.transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)
        shown.append(draw_mask(_tile(Image.fromarray(pixels)), mask))
    _save(path, shown, masks[:MOSAIC], names)


def draw_mosaic(path: Path, samples: Sequence[Sample[Mask]], names: Sequence[str]) -> None:
    """Draw up to 16 pictures, spread over all, under the colours of their true classes.

    Args:
        path: the PNG to write.
        samples: readable pictures with readable masks.
        names: K class names.

    Raises:
        PictureError: when one of them cannot be read.
    """
    shown, masks = [], []
    for sample in spread(samples, MOSAIC):
        masks.append(sample.label.read())
        shown.append(draw_mask(_tile(read_picture(sample.path)), masks[-1]))
    _save(path, shown, masks, names)


def draw_truth_beside(path: Path, found: Sequence[Prediction], folders: Folders[Mask]) -> None:
    """Draw up to 8 pictures, spread over all, each beside the truth and what was found.

    Args:
        path: the PNG to write.
        found: what was found on pictures of ``folders.val``.
        folders: with the truth.

    Raises:
        PictureError: when a picture or its mask cannot be read any more.
    """
    truths = {str(sample.path): sample.label for sample in folders.val}
    shown, masks = [], []
    for prediction in spread(found, ROWS):
        truth, answer = truths[prediction.path].read(), prediction.mask
        picture = _tile(read_picture(prediction.path))
        right = (truth == answer)[truth != IGNORED]
        score = f", {right.mean():.0%} right" if right.size else ""
        shown += [
            titled(picture, "picture"),
            titled(draw_mask(picture, truth), "truth"),
            titled(draw_mask(picture, answer), f"found{score}"),
        ]
        masks += [truth, answer]
    _save(path, shown, masks, folders.class_names, columns=3)


def draw_confusion(path: Path, confusion: NDArray[np.int64], names: Sequence[str]) -> None:
    """Draw a confusion matrix of pixels, each row in percent of its true class.

    Args:
        path: the PNG to write.
        confusion: (K, K) counts; a row is a true class.
        names: K class names.
    """
    from mobilevit.tasks.classification.pictures import draw_confusion as draw

    percent = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    draw(path, percent.round().astype(int).tolist(), names, "Percent of the true pixels")


def _tile(picture: Image.Image) -> Image.Image:
    return tile(picture, picture.width, picture.height)


def _save(
    path: Path,
    shown: Sequence[Image.Image],
    masks: Iterable[NDArray[np.uint8]],
    names: Sequence[str],
    columns: int = 4,
) -> None:
    """Write a mosaic with a legend of the classes that are in the masks."""
    there = np.zeros(IGNORED + 1, bool)
    for mask in masks:
        there |= np.bincount(mask.ravel(), minlength=len(there)) > 0
    words = [*names, *["?"] * (IGNORED - len(names)), "ignored"]
    entries = [(int(index), words[index]) for index in np.nonzero(there)[0]]
    whole = with_legend(mosaic(shown, columns), entries, shown[0] if shown else None)
    whole.save(path, format="PNG")
