"""Data sets of pictures with masks: a class for every pixel, however the files have it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from mobilevit.data import mask_coco, mask_folders, mask_voc
from mobilevit.data.box_sets import reading
from mobilevit.data.findings import Finding, by_severity
from mobilevit.data.folders import Folders, hold_back, missing
from mobilevit.data.masks import Mask
from mobilevit.data.raw_masks import MaskSet
from mobilevit.errors import UserError

MaskFormat = Literal["folders", "voc", "coco", "panoptic"]

_READERS: dict[MaskFormat, Callable[[Path], MaskSet]] = {
    "folders": mask_folders.read,
    "voc": mask_voc.read,
    "coco": mask_coco.read_outlines,
    "panoptic": mask_coco.read_segments,
}


@reading()
def mask_format(data: str | Path) -> MaskFormat | None:
    """Return which format of masks a path holds, or nothing; files are not read whole.

    Where there are several, it is the one that says most: Pascal VOC's, COCO's panoptic segments,
    COCO's outlines, then folders of pictures and masks.

    Raises:
        UserError: when a file or folder cannot be read.
    """
    data = Path(data)
    if mask_voc.is_voc(data):
        return "voc"
    if mask_coco.has_segments(data):
        return "panoptic"
    if mask_coco.has_outlines(data):
        return "coco"
    if mask_folders.is_folders(data):
        return "folders"
    return None


@reading()
def read_masks(data: str | Path, val_fraction: float | None = 0.2) -> Folders[Mask]:
    """Find the pictures of a data set, and the masks that tell the class of every pixel.

    Of the masks the headers are read only: what is wrong with their pixels tells ``scan``.

    Args:
        data: what ``mask_format`` knows; how each is laid out say ``mask_folders.read``,
            ``mask_voc.read``, ``mask_coco.read_outlines`` and ``mask_coco.read_segments``.
        val_fraction: the share of pictures to validate on, by their content, where the data have
            no such split of their own; none: all come as ``train``.

    Raises:
        UserError: when there are no such data, when a file of them is broken or cannot be read,
            or when a split comes out empty.
    """
    data = Path(data)
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise UserError(f"val_fraction is {val_fraction}; it must lie between 0 and 1.")
    format = mask_format(data)
    if format is None:
        raise _no_masks(data)
    found = _READERS[format](data)
    findings = found.problems.findings()
    train, val, test = (tuple(found.splits.get(split, ())) for split in ("train", "val", "test"))
    if not train:
        message = "no picture to train on has a mask. Add some."
        findings += (Finding("error", "no-masks", message, (str(data),)),)
    if len(found.class_names) == 1:
        message = f"'{found.class_names[0]}' is the only class, so that every pixel would be it. "
        message += "Add another, such as background."
        findings += (Finding("error", "one-class", message),)
    counted_from_0 = found.class_ids == tuple(range(len(found.class_ids)))
    folders = Folders(
        found.class_names,
        train,
        val,
        data,
        test=test,
        class_ids=() if counted_from_0 else found.class_ids,
        findings=by_severity(findings),
    )
    if train and not val and val_fraction is not None:
        return hold_back(folders, val_fraction)
    return folders


def _no_masks(data: Path) -> UserError:
    if not data.exists():
        return missing(data)
    return UserError(
        f"{data}: holds no masks that could be read. Give a folder with images/ and masks/, a "
        "folder of Pascal VOC with JPEGImages/ and SegmentationClass/, or COCO's JSON file of "
        "polygons or of panoptic segments or its folder."
    )
