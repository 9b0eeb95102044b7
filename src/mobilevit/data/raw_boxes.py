"""What box files say, whatever their format, and how it becomes boxes one can trust."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mobilevit.data.boxes import Box, Boxes
from mobilevit.data.decoding import Picture, PictureError
from mobilevit.data.findings import Finding, Severity
from mobilevit.data.folders import Sample

MOST_BOXES = 3000
"""Boxes on a picture that SSDLite's 3,232 anchors at 320 pixels can still tell apart."""

LARGEST_SIDE = 1_000_000
"""Pixels; a label that says more of a picture's width or height is not believed."""

ROUNDING = 1.0
"""Pixels that formats and tools differ in where a box ends."""


class Kind(NamedTuple):
    """A kind of problem.

    Attributes:
        severity: see ``Finding``.
        check: see ``Finding``.
        what: what is counted.
        way_out: what its owner can do, or what was done.
    """

    severity: Severity
    check: str
    what: str
    way_out: str


ABSOLUTE_COORDINATES = Kind(
    *("error", "absolute-coordinates"),
    "lines with numbers of 2 and more, where YOLO has shares from 0 to 1",
    "They look like pixels: divide them by the picture's width and height.",
)
BROKEN_BOX = Kind(
    *("error", "broken-box"),
    "boxes with a number that is not finite, or with a negative width or height",
    "Correct them, or remove them.",
)
BROKEN_LABEL = Kind(
    *("error", "broken-label"),
    "labels that cannot be understood",
    "Correct them, or remove them.",
)
CLASS_MISMATCH = Kind(
    *("error", "class-mismatch"),
    "classes that the split to train on does not have, or has under another name",
    "Give all splits the same classes.",
)
DUPLICATE_CLASS = Kind(
    *("error", "duplicate-class"),
    "names that several classes with boxes have",
    "Rename one of them, or give all boxes the same class.",
)
TOO_MANY_BOXES = Kind(
    *("error", "too-many-boxes"),
    f"pictures with more than {MOST_BOXES:,} boxes, more than a detector has places for",
    "Cut them into tiles, or remove them.",
)
UNKNOWN_CLASS = Kind(
    *("error", "unknown-class"),
    "boxes of a class that is not in the list of classes",
    "Add the class to the list, or correct the boxes.",
)
UNKNOWN_PICTURE = Kind(
    *("error", "unknown-picture"),
    "labels, or lines of a list, for a picture that there is not",
    "Add the pictures, or remove the lines.",
)
DUPLICATE_BOX = Kind(
    *("warning", "duplicate-box"),
    "boxes that stand twice on their picture with the same class",
    "Each is taken once.",
)
LABEL_WITHOUT_PICTURE = Kind(
    *("warning", "label-without-picture"),
    "labels whose picture was not found",
    "They are left out; put the pictures there to use them.",
)
CLIPPED_BOX = Kind(
    *("warning", "outside-picture"),
    "boxes that reach outside their picture",
    "They are cut at its edge.",
)
OUTSIDE_BOX = Kind(
    *("warning", "outside-picture"),
    "boxes that lie wholly outside their picture",
    "They are left out.",
)
PICTURE_WITHOUT_LABEL = Kind(
    *("warning", "picture-without-label"),
    "pictures without a label file",
    "They are left out; a picture without objects needs a file without objects.",
)
UNREADABLE_PICTURE = Kind(
    *("warning", "unreadable-picture"),
    "pictures whose size cannot be read",
    "They are left out.",
)
ZERO_AREA = Kind(
    *("warning", "zero-area"),
    "boxes without width or height",
    "They are left out.",
)


class Problems:
    """Gathers problems of many files, and makes one finding of each kind."""

    def __init__(self) -> None:
        self._counts: dict[Kind, int] = {}
        self._examples: dict[Kind, str] = {}
        self._files: dict[Kind, dict[Path, None]] = {}

    def add(self, kind: Kind, file: Path, example: str = "") -> None:
        """Count a problem.

        Args:
            kind: what kind of problem.
            file: where it is.
            example: which it is and its value, for the message if it is the first of its kind.
        """
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._examples.setdefault(kind, f"{file.name}: {example}" if example else str(file))
        self._files.setdefault(kind, {})[file] = None

    def findings(self) -> tuple[Finding, ...]:
        """Return one finding for each kind of problem."""
        return tuple(
            Finding(
                kind.severity,
                kind.check,
                f"{kind.what}: {count:,}, for example {self._examples[kind]}. {kind.way_out}",
                tuple(map(str, self._files[kind])),
            )
            for kind, count in self._counts.items()
        )


class RawBox(NamedTuple):
    """A box as a file has it, in pixels; nothing is known of its numbers.

    Attributes:
        left: see ``Box``.
        top: see ``Box``.
        right: see ``Box``.
        bottom: see ``Box``.
        label: index of its class.
        number: how its owner finds it in the file: COCO's id, YOLO's line, VOC's place.
        ignored: see ``Box``.
        area: see ``Box``.
        outlines: of the object in it, as COCO has them, if the file does.
    """

    left: float
    top: float
    right: float
    bottom: float
    label: int
    number: object
    ignored: bool = False
    area: float | None = None
    outlines: Any = None


@dataclass
class RawPicture:
    """A picture that is there, and what a file says of it.

    Attributes:
        path: the picture.
        file: the file with its boxes.
        size: width and height in pixels, as the file says; ``None`` where it does not.
        image_id: see ``Boxes``.
        boxes: its boxes.
    """

    path: Path
    file: Path
    size: tuple[int, int] | None
    image_id: int | None = None
    boxes: list[RawBox] = field(default_factory=list)


@dataclass
class RawSet:
    """A data set as its files have it.

    Attributes:
        class_names: see ``Folders``.
        class_ids: the user's own numbers of the classes.
        splits: the pictures by split: ``"train"``, and ``"val"`` and ``"test"`` if there.
        problems: what was wrong so far.
    """

    class_names: tuple[str, ...]
    class_ids: tuple[int, ...]
    splits: dict[str, list[RawPicture]]
    problems: Problems


def clean(pictures: Sequence[RawPicture], problems: Problems) -> list[Sample[Boxes]]:
    """Make samples of what files say of pictures; what is wrong is repaired or left out.

    Args:
        pictures: of one split. A size that is missing is read from the picture.
        problems: gathers what was wrong.
    """
    sizes = measure([p.path for p in pictures if p.size is None], problems)
    samples = []
    for picture in pictures:
        size = picture.size or sizes.get(picture.path)
        if size is None:
            continue
        boxes = tuple(_clean_boxes(picture, size, problems))
        if len(boxes) > MOST_BOXES:
            problems.add(TOO_MANY_BOXES, picture.path, f"{len(boxes):,} boxes")
        samples.append(Sample(picture.path, Boxes(boxes, *size, picture.image_id)))
    return samples


def measure(paths: Iterable[Path], problems: Problems) -> dict[Path, tuple[int, int]]:
    """Read width and height of upright pictures; those that cannot be read are not in it."""
    paths = list(dict.fromkeys(paths))
    sizes = {}
    with ThreadPoolExecutor() as pool:
        for path, size in zip(paths, pool.map(_size, paths), strict=True):
            if isinstance(size, PictureError):
                problems.add(UNREADABLE_PICTURE, path, str(size).removeprefix(f"{path}: "))
            else:
                sizes[path] = size
    return sizes


def _size(path: Path) -> tuple[int, int] | PictureError:
    try:
        with Picture(path) as picture:
            return picture.width, picture.height
    except PictureError as error:
        return error


def _clean_boxes(picture: RawPicture, size: tuple[int, int], problems: Problems) -> Iterable[Box]:
    """Yield the boxes on a picture that are boxes, each once and inside the picture."""
    width, height = size
    seen: set[Box] = set()
    for raw in picture.boxes:
        left, top, right, bottom = raw[:4]
        box = Box(
            *(max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))),
            *(raw.label, raw.ignored),
        )
        kind: Kind | None = None
        if not all(map(math.isfinite, raw[:4])) or right < left or bottom < top:
            kind = BROKEN_BOX
        elif right == left or bottom == top:
            kind = ZERO_AREA
        elif box.right <= box.left or box.bottom <= box.top:
            kind = OUTSIDE_BOX
        elif box in seen:
            kind = DUPLICATE_BOX
        else:
            seen.add(box)
            yield box._replace(area=raw.area)
            if any(abs(a - b) > ROUNDING for a, b in zip(raw[:4], box[:4], strict=True)):
                kind = CLIPPED_BOX
        if kind:
            corners = ", ".join(
                f"{side} {value:g}" for side, value in zip(RawBox._fields[:4], raw[:4], strict=True)
            )
            example = f"box {raw.number} on {picture.path.name}, {width}×{height} ({corners})"
            problems.add(kind, picture.file, example)
