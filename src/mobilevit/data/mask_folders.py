"""Pictures and masks in folders of their own, or side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mobilevit.data.class_lists import find_list, read_list
from mobilevit.data.folders import is_picture, pictures
from mobilevit.data.raw_boxes import Problems, split_of
from mobilevit.data.raw_masks import (
    MASK_WITHOUT_PICTURE,
    PICTURE_WITHOUT_MASK,
    MaskSet,
    make_set,
    no_list,
)
from mobilevit.errors import UserError

PICTURES = ("images", "imgs")
"""Names of a folder of pictures."""

MASKS = ("masks", "labels", "annotations")
"""Names of a folder of masks; the first that holds pictures is it."""

ENDINGS = ("_mask", "_label", "_gt", "_L")
"""What the name of a mask may have behind that of its picture."""


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
    these two in each; or pictures and masks side by side. A mask has the name of its picture,
    with another ending of the file or with one of ``ENDINGS``, which it must have where they lie
    side by side. The classes stand in one of ``class_lists.FILES`` in the folder or beside the
    pictures to train on.

    Raises:
        UserError: when there is no list of the classes or a broken one, or none to train on.
    """
    places = _places(data)
    if "train" not in places:
        raise UserError(f"{data}: has {', '.join(places)}, but no 'train' folder to train on.")
    problems = Problems()
    pairs = {split: list(_pairs(place, problems)) for split, place in places.items()}
    file = find_list((data, places["train"].pictures))
    if file is None:
        raise no_list(data, [mask for _, mask in pairs["train"]])
    classes = read_list(file)
    return make_set(pairs, classes, problems)


def _places(data: Path) -> dict[str, _Place]:
    """Return the folders of each split."""
    if place := _place(data):
        folders, masks = _splits(place.pictures), _splits(place.masks)
        splits = {s: _Place(folder, masks.get(s, place.masks)) for s, folder in folders.items()}
        return splits or {"train": place}
    found = {split: _place(folder) for split, folder in _splits(data).items()}
    return {split: place for split, place in found.items() if place}


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
    beside = any(stem.removesuffix(e) in stems - {stem} for stem in stems for e in ENDINGS)
    return _Place(folder, folder) if beside else None


def _has_pictures(folder: Path) -> bool:
    depths = ("*", "*/*", "*/*/*")
    return any(is_picture(file) for depth in depths for file in folder.glob(depth))


def _splits(folder: Path) -> dict[str, Path]:
    """Return the folders right in a folder that are named after splits."""
    folders = [(split_of(entry.name), entry) for entry in sorted(folder.iterdir())]
    return {split: entry for split, entry in folders if split and entry.is_dir()}


def _pairs(place: _Place, problems: Problems) -> Iterator[tuple[Path, Path]]:
    """Yield each picture and its mask.

    Args:
        place: where they lie.
        problems: gathers those without the other.
    """
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
    for picture, mask in found.items():
        if mask:
            yield picture, mask
        elif picture not in used:
            problems.add(PICTURE_WITHOUT_MASK, picture, f"looked for in {place.masks}")
    for mask in pictures(place.masks):
        if mask not in used and mask not in found:
            problems.add(MASK_WITHOUT_PICTURE, mask, f"looked for in {place.pictures}")


def _key(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder).with_suffix(""))
