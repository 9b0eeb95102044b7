"""Masks as Pascal VOC has them: pictures with a palette, and lists of which are for what."""

from __future__ import annotations

from pathlib import Path

from mobilevit.data.class_lists import ClassList, find_list, make_list, read_list
from mobilevit.data.masks import IGNORED
from mobilevit.data.raw_boxes import UNKNOWN_PICTURE, Kind, Problems
from mobilevit.data.raw_masks import (
    MASK_WITHOUT_PICTURE,
    PICTURE_WITHOUT_MASK,
    MaskSet,
    make_set,
    no_list,
    numbers_of_some,
)
from mobilevit.data.voc import by_stem, child, read_lists

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""Pascal VOC's own, by their numbers; 255 is the border between things, which is ignored."""

OWN_CLASSES = Kind(
    *("warning", "voc-classes"),
    "folders without a list of classes",
    "Those of Pascal VOC are taken; if they are other ones, list them in labels.txt.",
)


def is_voc(path: Path) -> bool:
    """Tell whether a path is a folder that is laid out like that."""
    return path.is_dir() and child(path, "segmentationclass") is not None


def read(data: Path) -> MaskSet:
    """Read a folder.

    It has ``JPEGImages/`` (or ``images/``), ``SegmentationClass/`` and perhaps
    ``ImageSets/Segmentation/{train,val,test,trainval}.txt`` (``trainval`` without ``val`` stands
    in for a ``train`` that is missing); without these, all pictures with a mask are to train on.
    The classes stand in one of ``class_lists.FILES``; where there is none they are ``CLASSES``,
    if no number looked at is another.

    Raises:
        UserError: when there are lists but none to train on, or the classes are not known.
    """
    problems = Problems()
    pictures = by_stem(child(data, "jpegimages") or child(data, "images") or data)
    masks = by_stem(child(data, "segmentationclass") or data)
    listed = read_lists(data / "ImageSets" / "Segmentation", {*pictures, *masks})
    names = {split: one.names for split, one in listed.items()} or {"train": [*pictures, *masks]}
    pairs: dict[str, list[tuple[Path, Path]]] = {}
    for split, stems in names.items():
        pairs[split] = []
        for stem in dict.fromkeys(stems):
            picture, mask = pictures.get(stem), masks.get(stem)
            if picture and mask:
                pairs[split].append((picture, mask))
            elif mask:
                problems.add(MASK_WITHOUT_PICTURE, mask)
            elif picture:
                problems.add(PICTURE_WITHOUT_MASK, picture)
            else:
                problems.add(UNKNOWN_PICTURE, listed[split].file, f"'{stem}'")
    return make_set(pairs, _classes(data, [mask for _, mask in pairs["train"]], problems), problems)


def _classes(data: Path, masks: list[Path], problems: Problems) -> ClassList:
    """Return the classes that are listed, or else Pascal VOC's own."""
    if file := find_list((data,)):
        return read_list(file)
    if not set().union(*numbers_of_some(masks)) <= {*range(len(CLASSES)), IGNORED}:
        raise no_list(data, masks)
    problems.add(OWN_CLASSES, data)
    return make_list(dict(enumerate(CLASSES)), ignored=(IGNORED,))
