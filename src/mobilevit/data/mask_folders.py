"""Pictures and masks in folders of their own, or side by side."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from mobilevit.data.class_lists import find_list, read_list
from mobilevit.data.folders import is_picture, pictures, split_folders
from mobilevit.data.raw_boxes import Problems
from mobilevit.data.raw_masks import (
    MASK_WITHOUT_PICTURE,
    PICTURE_WITHOUT_MASK,
    MaskSet,
    make_set,
    no_list,
)
from mobilevit.errors import UserError

PICTURES = ("images", "imgs", "image", "img")
"""Names of a folder of pictures."""

MASKS = ("masks", "labels", "annotations", "mask", "label", "annotation", "gt")
"""Names of a folder of masks; the first that holds pictures is it."""

ENDINGS = ("_mask", "_label", "_gt", "_L")
"""What the name of a mask may have behind that of its picture."""

_BESIDE = re.compile(r"[_-]?(masks?|labels?|annot(ations?)?|gt)")


class _Place(NamedTuple):
    """The folders of the pictures and of the masks of a split; they may be the same one."""

    pictures: Path
    masks: Path


def is_folders(path: Path) -> bool:
    """Tell whether a path is a folder that is laid out like that."""
    return path.is_dir() and bool(_places(path))


def read(data: Path) -> MaskSet:
    """Read a folder.

    It has ``images/`` and ``masks/`` (other names see ``PICTURES`` and ``MASKS``), each with
    ``train/``, ``val/`` and ``test/`` in it or without; or ``train/``, ``val/`` and ``test/`` with
    these two in each; or ``train/`` and ``train_masks/`` (or ``train_labels/``, ``trainannot/``),
    and so for the others; or pictures and masks side by side. A mask has the name of its picture,
    with another ending of the file or with one of ``ENDINGS``, which it must have where they lie
    side by side. The classes stand in one of ``class_lists.FILES`` in the folder, beside the
    pictures to train on or in the folder above these.

    Raises:
        UserError: when there is no list of the classes or a broken one, or none to train on.
    """
    places = _places(data)
    if "train" not in places:
        raise UserError(f"{data}: has {', '.join(places)}, but no 'train' folder to train on.")
    problems = Problems()
    found = {split: _masks_of(place) for split, place in places.items()}
    _report(places, found, problems)
    pairs = {split: [(p, m) for p, m in masks.items() if m] for split, masks in found.items()}
    beside = places["train"].pictures
    file = find_list((data, beside, beside.parent))
    if file is None:
        raise no_list(data, [mask for _, mask in pairs["train"]])
    classes = read_list(file)
    return make_set(pairs, classes, problems)


def _places(data: Path) -> dict[str, _Place]:
    """Return the folders of each split."""
    if place := _place(data):
        folders, masks = split_folders(place.pictures), split_folders(place.masks)
        splits = {s: _Place(folder, masks.get(s, place.masks)) for s, folder in folders.items()}
        return splits or {"train": place}
    folders = split_folders(data, _place_of)
    return {s: place for s, folder in folders.items() if (place := _place_of(folder))}


def _place_of(folder: Path) -> _Place | None:
    return _place(folder) or _beside(folder)


def _place(folder: Path) -> _Place | None:
    """Return the folders of pictures and masks in a folder, or itself if both lie right in it."""
    entries = sorted(folder.iterdir())
    folders = {entry.name.lower(): entry for entry in entries if entry.is_dir()}
    images = [folders[name] for name in PICTURES if name in folders]
    masks = [folders[name] for name in MASKS if name in folders]
    for masks_ in masks if images else ():
        if _has_pictures(masks_):
            return _Place(images[0], masks_)
    stems = {entry.stem for entry in entries if is_picture(entry)}
    beside = any(s.endswith(e) and s.removesuffix(e) in stems for s in stems for e in ENDINGS)
    return _Place(folder, folder) if beside else None


def _beside(folder: Path) -> _Place | None:
    """Return a folder of pictures and that of their masks, named after it, next to it."""
    name = folder.name.lower()
    for entry in sorted(folder.parent.iterdir()):
        lower = entry.name.lower()
        is_named = lower.startswith(name) and _BESIDE.fullmatch(lower, len(name))
        if is_named and entry.is_dir() and _has_pictures(entry) and _has_pictures(folder):
            return _Place(folder, entry)
    return None


def _has_pictures(folder: Path) -> bool:
    depths = ("*", "*/*", "*/*/*")
    return any(is_picture(file) for depth in depths for file in folder.glob(depth))


def _masks_of(place: _Place) -> dict[Path, Path | None]:
    """Return the mask of each picture of a place, as far as there is one; a mask has none."""
    masks: dict[str, Path] = {}
    for file in pictures(place.masks):
        masks.setdefault(_key(file, place.masks), file)
    endings = ENDINGS if place.pictures == place.masks else ("", *ENDINGS)
    found: dict[Path, Path | None] = {}
    for picture in pictures(place.pictures):
        key = _key(picture, place.pictures)
        names = (key + ending for ending in endings)
        found[picture] = next((masks[name] for name in names if name in masks), None)
    used = set(found.values())
    return {picture: mask for picture, mask in found.items() if mask or picture not in used}


def _report(
    places: dict[str, _Place], found: dict[str, dict[Path, Path | None]], problems: Problems
) -> None:
    """Gather the pictures and the masks without the other; a mask may serve several splits."""
    known: set[Path | None] = set()
    for split, masks in found.items():
        known.update(masks.keys(), masks.values())
        for picture, mask in masks.items():
            if mask is None:
                problems.add(PICTURE_WITHOUT_MASK, picture, f"looked for in {places[split].masks}")
    for place in places.values():
        for mask in pictures(place.masks):
            if mask not in known:
                known.add(mask)
                problems.add(MASK_WITHOUT_PICTURE, mask, f"looked for in {place.pictures}")


def _key(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder).with_suffix(""))
