"""Pictures larger than a network's input, seen tile by tile."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilevit.deployment.preprocess import preprocess
from mobilevit.deployment.runtimes import Predictor
from mobilevit.errors import UserError
from mobilevit.tasks.outputs import check_finite
from mobilevit.tasks.segmentation.predictions import choose, likeliest, resize_logits


def segment(
    predictor: Predictor,
    picture: Image.Image,
    batch_size: int = 1,
    threshold: float | None = None,
    scale: float = 1.0,
    overlap: float = 0.25,
) -> NDArray[np.uint8]:
    """Return the class of every pixel of a picture of any size.

    The picture is cut into tiles that overlap. Where they do, their logits are averaged, those near
    the middle of a tile counting most. A side of the picture that is shorter than a tile's is
    stretched as the contract says, so that a picture no larger than a tile is seen as ever.

    Of the logits those of a batch of tiles are held, those of one tile at the picture's size, and
    those of the rows that tiles share with the ones below: (K, overlap, width of the picture).

    Args:
        predictor: runs the network.
        picture: upright RGB.
        batch_size: tiles run at a time; more take more memory and save a CPU no time.
        threshold: how probable a pixel's class is at least; pixels that are less sure are
            ``IGNORED``. None: every pixel is given its most probable class.
        scale: pixels of the input that one pixel of the picture becomes, along a side; 1: a tile is
            as large as the input.
        overlap: share of a tile's side that the next one covers too, at least; below 1.

    Returns:
        (height, width) indices of classes.

    Raises:
        UserError: when a logit is NaN or infinite, or ``scale`` or ``overlap`` is out of range.
    """
    if not 0 < scale < math.inf:
        raise UserError(f"scale is {scale}; it must be above 0.")
    if not 0 <= overlap < 1:
        raise UserError(f"overlap is {overlap}; it must be 0 or more, and below 1.")
    height, width = (max(1, round(side / scale)) for side in predictor.contract.size)
    height, width = min(height, picture.height), min(width, picture.width)  # of a tile
    tops, by_row = _lay(picture.height, height, overlap)
    lefts, by_column = _lay(picture.width, width, overlap)
    mask = np.empty((picture.height, picture.width), np.uint8)
    if mask.shape == (height, width):
        (logits,) = _logits(predictor, picture, [(0, 0, width, height)], 1)
        return likeliest(logits, mask.shape, threshold)
    shared = height - int(np.diff(tops).min())
    below = np.empty((len(predictor.contract.class_names), shared, picture.width), np.float32)
    above = 0  # rows that a row of tiles shares with the one before
    for i, (top, next_top) in enumerate(itertools.pairwise(tops)):
        beside = np.empty((len(below), height, 0), np.float32)
        boxes = [(left, top, left + width, top + height) for left in lefts[:-1]]
        for j, logits in enumerate(_logits(predictor, picture, boxes, batch_size)):
            columns = slice(lefts[j], lefts[j + 1])
            tile = resize_logits(logits, (height, width)) * by_row[i][:, None] * by_column[j]
            tile[:, :, : beside.shape[2]] += beside
            done, beside = np.split(tile, [columns.stop - columns.start], axis=2)
            done[:, :above] += below[:, :above, columns]
            now, later = np.split(done, [next_top - top], axis=1)
            mask[top:next_top, columns] = choose(now, threshold)
            below[:, : later.shape[1], columns] = later
        above = top + height - next_top
    return mask


def _lay(length: int, tile: int, overlap: float) -> tuple[list[int], list[NDArray[np.float32]]]:
    """Lay tiles along a side of a picture, evenly and from end to end.

    Returns:
        Where each begins, and the length; and for each the weights of its pixels (tile,), which
        fall towards its ends, are nowhere zero, and sum to 1 over the tiles that share a pixel.
    """
    step = max(1, int(tile * (1 - overlap)))
    gaps = math.ceil((length - tile) / step)
    starts = [round(i * (length - tile) / max(gaps, 1)) for i in range(gaps + 1)]
    window = np.sin(np.pi * (np.arange(tile) + 0.5) / tile) ** 2
    total = np.zeros(length)
    for start in starts:
        total[start : start + tile] += window
    weights = [(window / total[start : start + tile]).astype(np.float32) for start in starts]
    return [*starts, length], weights


def _logits(
    predictor: Predictor,
    picture: Image.Image,
    boxes: Sequence[tuple[int, int, int, int]],
    batch_size: int,
) -> Iterator[NDArray[np.float32]]:
    """Give the logits (K, h, w) of parts of a picture, one after the other."""
    contract = replace(predictor.contract, resize=None)
    for start in range(0, len(boxes), batch_size):
        some = boxes[start : start + batch_size]
        images = np.stack([preprocess(picture.crop(box), contract) for box in some])
        outputs = predictor.run(images)
        check_finite(outputs)
        yield from outputs
