"""Data sets of pictures with boxes: COCO, YOLO and Pascal VOC, read and written alike."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from mobilevit.data import coco, voc, yolo
from mobilevit.data.boxes import Box, Boxes
from mobilevit.data.findings import Finding, by_severity
from mobilevit.data.folders import Folders, Sample, missing, split_by_content
from mobilevit.data.raw_boxes import DUPLICATE_CLASS, LABEL_WITHOUT_PICTURE, RawSet, clean
from mobilevit.errors import UserError, unknown
from mobilevit.files import making

BoxFormat = Literal["coco", "yolo", "voc"]
FORMATS: tuple[BoxFormat, ...] = get_args(BoxFormat)

TOLERANCE = 0.01
"""Pixels that a box may be off after it was written and read."""

_READERS = {"coco": coco.read, "yolo": yolo.read, "voc": voc.read}
_PICTURES = {"coco": coco.PICTURES, "yolo": yolo.PICTURES, "voc": voc.PICTURES}


@contextmanager
def reading() -> Iterator[None]:
    """Turn what the system refuses to read into a ``UserError``."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}). Mend or remove it."
        ) from error


@reading()
def box_format(data: str | Path) -> BoxFormat | None:
    """Return which format of boxes a path holds, or nothing; files are not read whole.

    Args:
        data: a JSON file as COCO's, a YAML file as YOLO's, or a folder with the files of either or
            with those of Pascal VOC, or with YOLO's ``images`` and ``labels``.

    Raises:
        UserError: when a file or folder cannot be read.
    """
    data = Path(data)
    if coco.is_coco(data):
        return "coco"
    if yolo.is_yolo(data):
        return "yolo"
    if voc.is_voc(data):
        return "voc"
    return None


@reading()
def read_boxes(data: str | Path, val_fraction: float | None = 0.2) -> Folders[Boxes]:
    """Find the pictures of a data set, and the boxes on them.

    What is wrong with single boxes and labels is repaired or left out, and told in ``findings``;
    where one of them is an error, nothing should be trained on the rest.

    Args:
        data: what ``box_format`` knows; how each is laid out say ``coco.read``, ``yolo.read`` and
            ``voc.read``.
        val_fraction: the share of pictures to validate on, by their content, where the data have
            no such split of their own; none: all come as ``train``.

    Raises:
        UserError: when there are no such data, when a file of them is broken or cannot be read,
            or when a split comes out empty.
    """
    data = Path(data)
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise UserError(f"val_fraction is {val_fraction}; it must lie between 0 and 1.")
    format = box_format(data)
    if format is None:
        raise _no_boxes(data)
    raw = distinct(_READERS[format](data), data)
    splits = {split: clean(found, raw.problems) for split, found in raw.splits.items()}
    train, val = splits["train"], splits.get("val", [])
    findings = raw.problems.findings()
    if all(box.ignored for sample in train for box in sample.label.items):
        message = f"the {len(train):,} pictures to train on have no boxes. Label some of them."
        if not train:
            lost = next((f.message for f in findings if f.check == LABEL_WITHOUT_PICTURE.check), "")
            message = f"none of the pictures to train on was found. {lost}"
        findings += (Finding("error", "no-boxes", message, (str(data),)),)
    if train and not val and val_fraction is not None:
        train, val = split_by_content(train, val_fraction)
        if not train or not val:
            raise UserError(
                f"{data}: all of its pictures fell on one side when a share of {val_fraction} was "
                "to be held out. Add pictures, change val_fraction, or make a split yourself."
            )
    return Folders(
        raw.class_names,
        tuple(train),
        tuple(val),
        data,
        test=tuple(splits.get("test", ())),
        class_ids=() if raw.class_ids == tuple(range(len(raw.class_ids))) else raw.class_ids,
        findings=by_severity(findings),
    )


def write_boxes(
    folders: Folders[Boxes], target: str | Path, format: BoxFormat
) -> tuple[Finding, ...]:
    """Write pictures and boxes into a new folder, and read it back to prove it.

    Args:
        folders: what to write; its pictures are copied.
        target: the folder to make.
        format: ``"coco"``, ``"yolo"`` or ``"voc"``.

    Returns:
        What the format has no place for.

    Raises:
        UserError: when there is something in the target, when a picture cannot be copied, or when
            what is read back is not the same to ``TOLERANCE``; nothing is left of it then.
    """
    if format not in FORMATS:
        raise unknown("format of boxes", format, FORMATS)
    splits = _named(folders)
    with making(Path(target)) as folder:
        for split, samples in splits.items():
            place = folder / _PICTURES[format].format(split=split)
            place.mkdir(parents=True, exist_ok=True)
            for name, sample in samples:
                _copy(sample.path, place / name)
        if format == "coco":
            ids = folders.class_ids or tuple(range(len(folders.class_names)))
            coco.write(folder, folders.class_names, ids, splits)
        elif format == "yolo":
            yolo.write(folder, folders.class_names, splits)
        else:
            voc.write(folder, folders.class_names, splits)
        _prove(folder, folders.class_names, splits, format)
    return _losses(folders, format)


def storable(boxes: Boxes, format: BoxFormat) -> list[Box]:
    """Return the boxes that a format has a place for."""
    return [box for box in boxes.items if format != "yolo" or not box.ignored]


def splits_of(folders: Folders[Boxes]) -> dict[str, tuple[Sample[Boxes], ...]]:
    """Return the samples by split, without splits that are empty."""
    splits = {"train": folders.train, "val": folders.val, "test": folders.test}
    return {split: samples for split, samples in splits.items() if samples}


def distinct(raw: RawSet, data: Path) -> RawSet:
    """Drop classes without boxes that have the name of another, such as a supercategory."""
    pictures = [picture for split in raw.splits.values() for picture in split]
    used = {box.label for picture in pictures for box in picture.boxes}
    kept: dict[str, list[int]] = {}
    for label, name in sorted(enumerate(raw.class_names), key=lambda pair: pair[0] not in used):
        if label in used or name not in kept:
            kept.setdefault(name, []).append(label)
    for name, same in kept.items():
        if len(same) > 1:
            numbers = " and ".join(str(raw.class_ids[label]) for label in same)
            raw.problems.add(DUPLICATE_CLASS, data, f"'{name}' is the name of {numbers}")
    labels = sorted(label for same in kept.values() for label in same)
    for picture in pictures:
        picture.boxes = [box._replace(label=labels.index(box.label)) for box in picture.boxes]
    return replace(
        raw,
        class_names=tuple(raw.class_names[label] for label in labels),
        class_ids=tuple(raw.class_ids[label] for label in labels),
    )


def _no_boxes(data: Path) -> UserError:
    if not data.exists():
        return missing(data)
    return UserError(
        f"{data}: holds no boxes that could be read. Give a JSON file of COCO or a folder with "
        "annotations/instances_train.json, a YAML file of YOLO with names, train and val or its "
        "folder, or a folder of Pascal VOC with Annotations/ and JPEGImages/."
    )


def _named(folders: Folders[Boxes]) -> dict[str, list[tuple[str, Sample[Boxes]]]]:
    """Return the samples by split, each with a name whose stem no other has."""
    used: set[str] = set()
    named: dict[str, list[tuple[str, Sample[Boxes]]]] = {}
    for split, samples in splits_of(folders).items():
        named[split] = []
        for sample in samples:
            stem, count = sample.path.stem, 1
            while stem.lower() in used:
                count += 1
                stem = f"{sample.path.stem}-{count}"
            used.add(stem.lower())
            named[split].append((stem + sample.path.suffix, sample))
    return named


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise UserError(f"{source}: cannot be copied ({error.strerror}).") from error


def _prove(
    target: Path,
    class_names: Sequence[str],
    splits: Mapping[str, Sequence[tuple[str, Sample[Boxes]]]],
    format: BoxFormat,
) -> None:
    """Read a written folder and compare.

    Raises:
        UserError: when it is not what was to be written.
    """
    back = read_boxes(target, None)
    if back.class_names != tuple(class_names):
        raise UserError(f"As {format} the classes are read back as {', '.join(back.class_names)}.")
    read = splits_of(back)
    for split, samples in splits.items():
        found = {sample.path.name: sample.label for sample in read.get(split, ())}
        for name, sample in samples:
            label = found.get(name)
            if label is None or not _same(sample.label, label, format):
                raise UserError(
                    f"{sample.path}: as {format} it is read back with other boxes or another size: "
                    f"{_told(label)} for {_told(sample.label)}. The size in the labels may not be "
                    "that of the picture."
                )


def _told(boxes: Boxes | None) -> str:
    return f"{len(boxes.items)} on {boxes.width}×{boxes.height}" if boxes else "nothing"


def _same(before: Boxes, after: Boxes, format: BoxFormat) -> bool:
    kept = storable(before, format)
    return (
        (before.width, before.height) == (after.width, after.height)
        and len(kept) == len(after.items)
        and all(map(_same_box, kept, after.items))
    )


def _same_box(before: Box, after: Box) -> bool:
    return before[4:6] == after[4:6] and all(
        math.isclose(a, b, rel_tol=0, abs_tol=TOLERANCE)
        for a, b in zip(before[:4], after[:4], strict=True)
    )


def _losses(folders: Folders[Boxes], format: BoxFormat) -> tuple[Finding, ...]:
    if format == "coco":
        return ()
    labels = [s.label for samples in splits_of(folders).values() for s in samples]
    boxes = [box for label in labels for box in label.items]
    losses = []
    if folders.class_ids:
        losses.append(("class-ids", "the numbers of the classes; they now count from 0"))
    if any(label.image_id is not None for label in labels):
        losses.append(("image-ids", "the numbers of the pictures; their names are kept"))
    if any(box.area is not None for box in boxes):
        losses.append(("areas", "the areas of the objects; those of the boxes will count"))
    if format == "yolo" and (count := sum(box.ignored for box in boxes)):
        what = f"crowds and difficult boxes; left out: {count:,}"
        losses.append(("ignored-boxes", what))
    return tuple(
        Finding("info", check, f"{format} has no place for {what}.") for check, what in losses
    )
