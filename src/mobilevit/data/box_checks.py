"""What can be wrong with the boxes on pictures that can be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mobilevit.data.boxes import Boxes
from mobilevit.data.findings import Finding, Severity, counted, listed

if TYPE_CHECKING:
    from mobilevit.data.scan import Entry

COUNTED = 100
"""Detections of a class in a picture, the best of them, that COCO's evaluation looks at."""

_TINY = 8
_EDGES = (_TINY, 16, 32, 96, 192)
_SIZES = ("under 8", "8 to 16", "16 to 32", "32 to 96", "96 to 192", "192 and more")
_TOO_MANY_TINY = 0.2
_SAME_SHAPE = 0.01


def box_sizes(entries: Sequence[Entry], size: int) -> dict[str, dict[str, int]]:
    """Count boxes by split and by the square root of their area in pixels.

    Args:
        entries: readable pictures with boxes.
        size: side in pixels of the square that pictures are stretched to.
    """
    found: dict[str, dict[str, int]] = {}
    for entry in entries:
        row = found.setdefault(entry.split, dict.fromkeys(_SIZES, 0))
        sides = np.diff(entry.sample.label.corners().reshape(-1, 2, 2), axis=1)  # (N, 1, 2)
        for place in np.digitize(np.sqrt(sides.prod(axis=(1, 2))) * size, _EDGES):
            row[_SIZES[place]] += 1
    return found


def check_boxes(
    entries: Sequence[Entry],
    counts: Mapping[str, Mapping[str, int]],
    size: int,
) -> Iterator[Finding]:
    """Yield what is wrong with the boxes of readable pictures.

    Args:
        entries: the pictures.
        counts: boxes by split and class.
        size: side in pixels of the square that pictures are stretched to.
    """
    yield from _check_counts(counts)
    yield from _check_sizes(entries, size)
    yield from check_shapes(entries)
    crowded = [e for e in entries if e.split != "train" and is_crowded(e.sample.label)]
    if crowded:
        yield Finding(
            "warning",
            "uncounted-boxes",
            f"{counted(len(crowded), 'picture')} to validate or test on with more than {COUNTED} "
            f"boxes of a class: COCO's evaluation looks at the best {COUNTED} detections only, so "
            "that not all of them can be found. Cut the pictures into smaller ones.",
            _paths(crowded),
        )


def is_crowded(boxes: Boxes) -> bool:
    """Return whether there are more boxes of a class than are counted."""
    return max(Counter(boxes.labels().tolist()).values(), default=0) > COUNTED


def _check_counts(counts: Mapping[str, Mapping[str, int]]) -> Iterator[Finding]:
    for split, use in (("train", "train"), ("val", "validate")):
        empty = [name for name, count in counts[split].items() if not count]
        if len(empty) == len(counts[split]):
            yield Finding(
                "error",
                "no-boxes",
                f"no box to {use} on lies on a picture that can be read. Label some pictures.",
            )
        elif empty:
            so = "learnt" if split == "train" else "measured"
            yield Finding(
                "warning",
                "class-without-boxes",
                f"no box to {use} on in {counted(len(empty), 'class', 'classes')}, never {so}: "
                f"{listed(empty)}.",
            )


def _check_sizes(entries: Sequence[Entry], size: int) -> Iterator[Finding]:
    row = box_sizes(entries, size).get("train", {})
    tiny, boxes = row.get(_SIZES[0], 0), sum(row.values())
    if tiny > _TOO_MANY_TINY * boxes:
        yield Finding(
            "warning",
            "tiny-boxes",
            f"{tiny:,} of {boxes:,} boxes to train on are smaller than {_TINY} pixels when "
            f"pictures are stretched to {size}: they will hardly be found. Train at a larger size, "
            "or cut the pictures into smaller ones.",
        )


def check_shapes(entries: Sequence[Entry]) -> Iterator[Finding]:
    """Compare the sizes that the labels state with those of the upright pictures."""
    turned, scaled, other = [], [], []
    for entry in entries:
        boxes, record = entry.sample.label, entry.record
        stated, real = (boxes.width, boxes.height), (record.width, record.height)
        if stated == real:
            continue
        if record.turned and stated == real[::-1]:
            turned.append(entry)
        elif abs(stated[0] * real[1] / (stated[1] * real[0]) - 1) < _SAME_SHAPE:
            scaled.append(entry)
        else:
            other.append(entry)
    if turned:
        yield _mismatch(
            "error",
            turned,
            "have boxes for the picture as it lies in the file, not as its EXIF orientation turns "
            "it upright, so that they lie beside their objects. Turn the pixels and label anew, "
            "or remove the orientation from the files.",
        )
    if other:
        yield _mismatch(
            "error",
            other,
            "have labels for a picture of another shape, so that the boxes lie beside their "
            "objects. Correct the width and height in the labels, or label the pictures anew.",
        )
    if scaled:
        yield _mismatch(
            "info",
            scaled,
            "were made larger or smaller after they were labelled; their boxes are scaled with "
            "them.",
        )


def _mismatch(severity: Severity, entries: Sequence[Entry], what: str) -> Finding:
    boxes, record = entries[0].sample.label, entries[0].record
    example = (
        f"{entries[0].sample.path.name} is {record.width}×{record.height}, its label says "
        f"{boxes.width}×{boxes.height}"
    )
    message = f"{counted(len(entries), 'picture')} ({example}) {what}"
    return Finding(severity, "size-mismatch", message, _paths(entries))


def _paths(entries: Sequence[Entry]) -> tuple[str, ...]:
    return tuple(str(entry.sample.path) for entry in entries)
