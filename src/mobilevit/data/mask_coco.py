"""Masks as COCO has them: outlines of things, or numbers of segments in pictures of their own."""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from mobilevit.data import coco
from mobilevit.data.box_sets import distinct
from mobilevit.data.folders import Sample
from mobilevit.data.masks import (
    IGNORED,
    LARGEST_NUMBER,
    Header,
    Mask,
    MaskFile,
    MaskShapes,
    Polygon,
    outline,
)
from mobilevit.data.raw_boxes import (
    BROKEN_LABEL,
    LABEL_WITHOUT_PICTURE,
    UNKNOWN_PICTURE,
    Kind,
    Problems,
    RawBox,
    RawPicture,
    measure,
)
from mobilevit.data.raw_masks import PICTURE_WITHOUT_MASK, MaskSet, make_samples

BACKGROUND = "background"
"""The class of all that is in no outline."""

BACKGROUND_NUMBER = Kind(
    *("info", "background-number"),
    "sets with a category of the number 0, which background has elsewhere",
    "Masks that are written here have that number.",
)
NO_OUTLINE = Kind(
    *("warning", "object-without-outline"),
    "objects without an outline of points",
    "The boxes around them are ignored.",
)
NO_OUTLINES = Kind(
    *("warning", "split-without-outlines"),
    "files with boxes but no outlines",
    "They are left out.",
)
UNKNOWN_SEGMENT = Kind(
    *("error", "unknown-class"),
    "segments of a class that is not in the list of classes",
    "Add the class to the list, or correct the segments.",
)

_OUTLINE = re.compile(rb'"segmentation"\s*:\s*\[\s*\[')


def has_outlines(path: Path) -> bool:
    """Tell whether a path is a file with outlines, or a folder that holds one."""
    return any(_has_outlines(file) for _, file in coco.find_files(path))


def has_segments(path: Path) -> bool:
    """Tell whether a path is a file of panoptic segments, or a folder that holds one."""
    return bool(coco.find_files(path, coco.is_panoptic))


def read_outlines(data: Path) -> MaskSet:
    """Read a JSON file of things with outlines, or those of a folder, see ``coco.read``.

    The first class is ``BACKGROUND``, with the first number that is free, unless one of the
    categories is called that. Of things that lie over one another the smaller one counts. Crowds,
    and things that have no outline of points, are ignored in the box around them, except where
    other things lie.

    Raises:
        UserError: see ``coco.read``.
    """
    raw = distinct(coco.read(data), data)
    names, ids = raw.class_names, raw.class_ids
    lower = [name.lower() for name in names]
    if BACKGROUND in lower:
        first, background = 0, lower.index(BACKGROUND)
    else:
        first, background = 1, 0
        names = (BACKGROUND, *names)
        number = next(n for n in count() if n not in ids)
        ids = (number, *ids)
        if number:
            raw.problems.add(BACKGROUND_NUMBER, data, f"{number} stands for {BACKGROUND}")
    splits: dict[str, list[Sample[Mask]]] = {}
    for split, pictures in raw.splits.items():
        boxes = [box for picture in pictures for box in picture.boxes]
        if boxes and not any(_has_points(box) for box in boxes):
            raw.problems.add(NO_OUTLINES, pictures[0].file)
            continue
        sizes = measure([p.path for p in pictures if p.size is None], raw.problems)
        splits[split] = [
            Sample(p.path, MaskShapes(_shapes(p, size, first, raw.problems), *size, background))
            for p in pictures
            if (size := p.size or sizes.get(p.path))
        ]
    return MaskSet(names, ids, splits, raw.problems)


def read_segments(data: Path) -> MaskSet:
    """Read a JSON file of panoptic segments, or those of a folder.

    In a folder, ``annotations/panoptic_{train,val,test}*.json`` or the same right in it are
    looked for; the pictures of segments lie in a folder of the file's name without its ending,
    beside it or above, the other pictures where ``coco.read`` looks for them. Pixels of 0 and
    crowds are ignored.

    Raises:
        UserError: see ``coco.read``.
    """
    files = coco.one_each(data, coco.find_files(data, coco.is_panoptic))
    problems = Problems()
    contents = {split: coco.load(file) for split, file in files.items()}
    classes = coco.read_classes(contents["train"], files["train"])
    ids = sorted(classes)
    splits = {}
    for split, content in contents.items():
        own = coco.read_classes(content, files[split]) or classes
        labels = coco.match_classes(own, classes, files[split], problems)
        splits[split] = _segments(content, files[split], labels, problems)
    return MaskSet(tuple(classes[number] for number in ids), tuple(ids), splits, problems)


def _has_outlines(file: Path) -> bool:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return _OUTLINE.search(text) is not None


def _has_points(box: RawBox) -> bool:
    return isinstance(box.outlines, list) and bool(box.outlines) and not box.ignored


def _shapes(
    picture: RawPicture, size: tuple[int, int], first: int, problems: Problems
) -> tuple[tuple[Polygon, int], ...]:
    """Return what is on a picture, from below to above.

    Args:
        picture: with its boxes.
        size: its width and height.
        first: the index of the class that is the first in the file.
        problems: gathers what is wrong.
    """
    ignored: list[tuple[Polygon, int]] = []
    shapes: list[tuple[Polygon, int]] = []
    for box in sorted(picture.boxes, key=_area, reverse=True):
        left, top, right, bottom = box[:4]
        if not _has_points(box):
            if not box.ignored:
                problems.add(NO_OUTLINE, picture.file, f"annotation {box.number}")
            corners = [left, top, right, top, right, bottom, left, bottom]
            ignored += [(polygon, IGNORED) for polygon in _polygon(corners, size)]
            continue
        for points in box.outlines:
            found = [(polygon, box.label + first) for polygon in _polygon(points, size)]
            if not found:
                example = f"annotation {box.number} with an outline that is no list of points"
                problems.add(BROKEN_LABEL, picture.file, example)
            shapes += found
    return (*ignored, *shapes)


def _area(box: RawBox) -> float:
    return box.area or (box.right - box.left) * (box.bottom - box.top)


def _polygon(points: Any, size: tuple[int, int]) -> Iterator[Polygon]:
    """Yield the outline that x, y, x, y … make inside a picture, if they make one."""
    numbers = points if isinstance(points, list) else []
    known = all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers)
    if known and len(numbers) >= 6 and len(numbers) % 2 == 0:
        yield outline([min(max(n, 0), size[i % 2]) for i, n in enumerate(numbers)])


def _segments(
    content: Mapping[str, list[dict[str, Any]]],
    file: Path,
    labels: Mapping[int, int | None],
    problems: Problems,
) -> list[Sample[Mask]]:
    """Return the pictures of a file that are there, and their masks.

    Args:
        content: of the file.
        file: the file.
        labels: the index of each class by its number; ``None`` for one that is left out.
        problems: gathers what is wrong.
    """
    folders = coco.picture_folders(file)
    mask_folders = [folder / file.stem for folder in (file.parent, file.parent.parent)]
    names = {
        number: str(entry.get("file_name"))
        for entry in content["images"]
        if isinstance(number := entry.get("id"), (int, str))
    }
    without = dict(names)
    tables: dict[Path, Mapping[int, int]] = {}
    pairs: list[tuple[Path, Path]] = []
    for entry in content["annotations"]:
        image, name = entry.get("image_id"), str(entry.get("file_name"))
        if not isinstance(image, (int, str)) or image not in names:
            problems.add(UNKNOWN_PICTURE, file, f"image_id {image} of {name}")
            continue
        without.pop(image, None)
        picture = coco.find_picture(names[image], folders)
        mask = coco.find_picture(name, mask_folders)
        if picture is None:
            looked = ", ".join(map(str, folders))
            problems.add(LABEL_WITHOUT_PICTURE, file, f"'{names[image]}', looked for in {looked}")
        elif mask is None:
            problems.add(PICTURE_WITHOUT_MASK, picture, f"no '{name}' in {mask_folders[0]}")
        else:
            pairs.append((picture, mask))
            tables[mask] = _table(entry, file, labels, problems)
    for name in without.values():
        if picture := coco.find_picture(name, folders):
            problems.add(PICTURE_WITHOUT_MASK, picture, f"no annotation in {file}")

    def label(mask: Path, header: Header) -> MaskFile:
        return MaskFile(mask, tables[mask], header.width, header.height)

    return make_samples(pairs, label, problems)


def _table(
    entry: Mapping[str, Any], file: Path, labels: Mapping[int, int | None], problems: Problems
) -> dict[int, int]:
    """Return the index of the class of every segment of a picture."""
    table = {0: IGNORED}
    segments = entry.get("segments_info")
    for segment in segments if isinstance(segments, list) else [{}]:
        number, category = segment.get("id"), segment.get("category_id")
        example = f"segment {number} of {entry.get('file_name')} with category_id {category}"
        if not isinstance(number, int) or not 0 < number <= LARGEST_NUMBER:
            problems.add(BROKEN_LABEL, file, example)
            continue
        table[number] = IGNORED
        if not isinstance(category, int) or category not in labels:
            problems.add(UNKNOWN_SEGMENT, file, example)
        elif not segment.get("iscrowd"):
            index = labels[category]
            table[number] = IGNORED if index is None else index
    return table
