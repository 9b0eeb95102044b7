"""Labelled pictures, and folders of class folders: which picture has which label, on which side."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from mobilevit.data.decoding import EXTENSIONS, FOREIGN
from mobilevit.data.findings import Finding
from mobilevit.errors import UserError, nearest

Label = TypeVar("Label")
"""What is known of a picture: the index of its class (``int``), its ``Boxes`` or its ``Mask``."""
Item = TypeVar("Item")

_LAYOUT = (
    "Arrange the pictures as DATA/<class>/<picture>, or as DATA/train/<class>/<picture> and "
    "DATA/val/<class>/<picture>."
)
_CLUTTER = {"__macosx", "thumbs.db", "desktop.ini", "@eadir"}
_FINGERPRINTED = 1 << 20
_NUMBER = re.compile(r"(\d+)")
_SPLIT = re.compile(r"(?:(train)(?:ing)?|(val)(?:id(?:ation)?)?|(test)(?:ing)?)[\d_-]*")
_MADE_HERE = ({"run.json", "recipe.yaml"}, {"pictures.json", "results.json"})
"""What lies in the folder of a training or of a study, whose pictures are none to learn from."""


@dataclass(frozen=True, slots=True)
class Sample(Generic[Label]):
    """A picture and its label: the index of its class in ``Folders.class_names``, boxes, a mask."""

    path: Path
    label: Label


@dataclass(frozen=True)
class Folders(Generic[Label]):
    """Labelled pictures, in two splits or three.

    Attributes:
        class_names: of class folders sorted, of boxes and masks as the user's files have them; a
            class without pictures is among them.
        train: the pictures to train on; of class folders by class and then by path.
        val: the pictures to validate on, in the same order.
        source: the folder, or the file, they were found in.
        ignored: files that are no pictures by their ending, and pictures outside a class folder.
        test: pictures that are neither trained nor validated on, if the data have such a split.
        class_ids: the user's own numbers of the classes, where they are not 0, 1, 2 …
        findings: what was wrong with the labels when they were read.
    """

    class_names: tuple[str, ...]
    train: tuple[Sample[Label], ...]
    val: tuple[Sample[Label], ...]
    source: Path
    ignored: tuple[Path, ...] = ()
    test: tuple[Sample[Label], ...] = ()
    class_ids: tuple[int, ...] = ()
    findings: tuple[Finding, ...] = ()


def read_folders(data: str | Path, val_fraction: float | None = 0.2) -> Folders[int]:
    """Find the labelled pictures of a folder.

    With ``train/`` and ``val/`` in the folder, each holds one folder per class; see ``split_of``
    for other names. A ``test/`` whose class folders are known is kept apart, or validated on where
    there is no ``val/``. With ``train/`` alone, or with class folders right in ``data``, every
    picture is put on one side by a hash of its content: a new picture moves no other, and copies of
    a picture stay on one side. Pictures may lie deeper in a class folder; links are followed;
    hidden files, trainings and studies are passed over.

    Args:
        data: the folder.
        val_fraction: the share of pictures to validate on, between 0 and 1, where the folder has
            no such split of its own; none: all come as ``train``, which may be of one class.

    Raises:
        UserError: when the folder is missing or not arranged like that, has fewer than two
            classes or no pictures, when ``val/`` has a class that ``train/`` has not, or when a
            split comes out empty.
    """
    data = Path(data)
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise UserError(f"val_fraction is {val_fraction}; it must lie between 0 and 1.")
    splits = _find_splits(data)
    train = splits["train"]
    classes, ignored = _read_classes(train)
    names = _checked_names(train, classes, ignored, least=1 if val_fraction is None else 2)
    kept, held_out, test = _samples(classes, names), [], []
    if val := splits.get("val", splits.get("test")):
        classes, loose = _read_classes(val)
        for name in classes:
            if name not in names:
                raise UserError(
                    f"{val / name}: '{name}' is a class to validate on, but none of the "
                    f"{len(names)} to train on in {train}.{nearest(name, names)} "
                    "Rename the folder, remove it, or add its pictures to train on."
                )
        held_out = _samples(classes, names)
        ignored += loose
        if not held_out:
            raise UserError(
                f"{val}: holds no pictures in class folders. Add some, or remove the folder: "
                "a share of the pictures to train on is then held out."
            )
    elif val_fraction is not None:
        samples = kept
        kept, held_out = split_by_content(samples, val_fraction)
        if not kept or not held_out:
            raise UserError(
                f"{train}: all of its {len(samples)} pictures fell on one side when a share of "
                f"{val_fraction} was to be held out. Add pictures, change val_fraction, or make "
                "train/ and val/ folders yourself."
            )
    if train != data:
        folders, loose = _listing(data)
        ignored += loose
        for folder in folders:
            if folder in (train, val):
                continue
            classes, loose = _read_classes(folder)
            if folder == splits.get("test") and classes.keys() <= set(names):
                test = _samples(classes, names)
            else:  # such as a test set without labels
                loose += [file for files in classes.values() for file in files]
            ignored += loose
    return Folders(names, tuple(kept), tuple(held_out), data, tuple(ignored), tuple(test))


def split_of(name: str) -> str | None:
    """Return which split a name means, ``"train"``, ``"val"`` or ``"test"``, or nothing.

    Capitals do not matter, nor numbers behind it: ``Training``, ``valid``, ``val2017``.
    """
    match = _SPLIT.fullmatch(name.lower())
    return match[match.lastindex or 0] if match else None


def split_folders(
    folder: Path, counts: Callable[[Path], object] = lambda _: True
) -> dict[str, Path]:
    """Return the folders right in a folder that are named after splits.

    Args:
        folder: the folder.
        counts: tells of such a folder whether it holds what it should.

    Raises:
        UserError: when two of them mean the same split.
    """
    found: dict[str, Path] = {}
    for entry in _listing(folder)[0]:
        split = split_of(entry.name)
        if split and counts(entry):
            if split in found:
                raise UserError(
                    f"{folder}: both '{found[split].name}' and '{entry.name}' could be its split "
                    f"'{split}'. Put them together, or move one away."
                )
            found[split] = entry
    return found


def data_hash(samples: Iterable[Sample[Any]], root: Path) -> str:
    """Return a hash of the samples' names and labels, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for sample in samples:
        line = f"{Path(os.path.relpath(sample.path, root)).as_posix()}\t{sample.label}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def hold_back(folders: Folders[Label], fraction: float) -> Folders[Label]:
    """Return the pictures to train on, split anew by their content; val is left out of it.

    Args:
        folders: the pictures.
        fraction: the share of ``folders.train`` that becomes ``val``.

    Raises:
        UserError: when a side comes out empty.
    """
    kept, held_out = split_by_content(folders.train, fraction)
    if not kept or not held_out:
        raise UserError(
            f"{folders.source}: all of its {len(folders.train)} pictures to train on fell on one "
            f"side when a share of {fraction} was to be held back. Add pictures, or change it."
        )
    return replace(folders, train=tuple(kept), val=tuple(held_out))


def pictures(paths: str | Path | Sequence[str | Path], foreign: bool = False) -> list[Path]:
    """Find the pictures that files, folders and patterns name.

    Args:
        paths: files (taken whatever their ending), folders (searched to their depth), and
            patterns like ``"photos/*.jpg"``.
        foreign: find what ends like ``FOREIGN`` too, to say that it cannot be read.

    Returns:
        Each picture once, in natural order: ``2.jpg`` before ``10.jpg``.

    Raises:
        UserError: when one of ``paths`` names nothing, with the nearest name there is.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    found = {file for path in paths for file in _named(Path(path), foreign)}
    return sorted(found, key=_natural)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most so many of the items, evenly spread over all of them."""
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def fingerprint(path: Path, whole: bool = False) -> str:
    """Return a hash of a file's size and of its first 1 MiB, or of all of it.

    Raises:
        OSError: when the file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        digest.update(str(os.fstat(file.fileno()).st_size).encode())
        while block := file.read(_FINGERPRINTED):
            digest.update(block)
            if not whole:
                break
    return digest.hexdigest()


def missing(path: Path) -> UserError:
    """Return the error for a path that names nothing, with the nearest name there is."""
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return UserError(f"{path}: no such file or folder.{nearest(path.name, beside)}")


def is_picture(path: Path) -> bool:
    """Return whether a file counts as a picture, by its ending; hidden ones do not."""
    return path.suffix.lower() in EXTENSIONS and not _is_clutter(path.name)


def _find_splits(data: Path) -> dict[str, Path]:
    """Return the folders of classes by split; without splits, all of it is to train on."""
    if not data.exists():
        siblings = _listing(data.parent)[0] if data.parent.is_dir() else []
        near = nearest(data.name, [folder.name for folder in siblings])
        raise UserError(f"{data}: no such folder.{near}")
    if not data.is_dir():
        raise UserError(f"{data}: is a file, not a folder. {_LAYOUT}")
    folders = _listing(data)[0]
    named = [split_of(folder.name) for folder in folders]
    if "train" in named:
        return split_folders(data)
    if folders and all(named):
        names = ", ".join(f"'{folder.name}'" for folder in folders)
        raise UserError(f"{data}: has {names} but no 'train' folder. {_LAYOUT}")
    return {"train": data}


def _read_classes(root: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """Return the pictures of each class folder, and every other file."""
    folders, ignored = _listing(root)
    classes: dict[str, list[Path]] = {}
    for folder in folders:
        files = sorted(_files(folder))
        classes[folder.name] = [file for file in files if is_picture(file)]
        ignored += [file for file in files if not is_picture(file)]
    return classes, ignored


def _checked_names(
    root: Path, classes: dict[str, list[Path]], ignored: Sequence[Path], least: int
) -> tuple[str, ...]:
    """Return the names of the classes, or say what is wrong with the folder."""
    names = tuple(classes)
    if not names:
        loose = sum(map(is_picture, ignored))
        what = f"{loose} pictures lie loose in it" if loose else "it is empty"
        raise UserError(f"{root}: has no class folders, {what}. {_LAYOUT}")
    if len(names) < least:
        inner = root / names[0]
        deeper = f" Did you mean '{inner}'?" if len(_listing(inner)[0]) > 1 else ""
        raise UserError(
            f"{root}: has one class only, '{names[0]}'; it takes two to tell apart.{deeper} "
            f"{_LAYOUT}"
        )
    for name in names:
        if name != os.fsencode(name).decode(errors="replace"):
            raise UserError(f"{root}: {name!r}, a class folder's name, is no UTF-8. Rename it.")
    if not any(classes.values()):
        raise UserError(
            f"{root}: its {len(names)} class folders hold no pictures, that is, no files that "
            f"end in {', '.join(sorted(EXTENSIONS))}."
        )
    return names


def _samples(classes: dict[str, list[Path]], names: Sequence[str]) -> list[Sample[int]]:
    labels = {name: label for label, name in enumerate(names)}
    return [Sample(path, labels[name]) for name, paths in classes.items() for path in paths]


def split_by_content(
    samples: Sequence[Sample[Label]], val_fraction: float
) -> tuple[list[Sample[Label]], list[Sample[Label]]]:
    """Put each sample on one side by its picture's content alone; a share goes to the second."""
    with ThreadPoolExecutor() as pool:
        places = list(pool.map(_place, (sample.path for sample in samples)))
    sides: tuple[list[Sample[Label]], list[Sample[Label]]] = ([], [])
    for sample, place in zip(samples, places, strict=True):
        sides[place < val_fraction].append(sample)
    return sides


def _place(path: Path) -> float:
    """Return the place of a picture in [0, 1), the same wherever it lies."""
    try:
        digest = fingerprint(path)
    except OSError:  # such a file is reported, and left out, when the pictures are scanned
        digest = hashlib.blake2b(path.name.encode(errors="surrogateescape")).hexdigest()
    return int(digest[:13], 16) / 16**13


def _listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders and the files right in a folder, sorted, without hidden ones."""
    entries = sorted(path for path in folder.iterdir() if not _is_clutter(path.name))
    folders = [path for path in entries if path.is_dir() and not _is_made_here(path)]
    return folders, [path for path in entries if not path.is_dir()]


def _is_made_here(folder: Path) -> bool:
    """Tell whether a folder is that of a training or study, or holds only such, as ``runs/``."""
    entries = sorted(path for path in folder.iterdir() if not _is_clutter(path.name))
    return _is_run({entry.name for entry in entries}) or (
        bool(entries)
        and all(e.is_dir() and not e.is_symlink() and _is_made_here(e) for e in entries)
    )


def _is_run(names: Iterable[str]) -> bool:
    return any(made.issubset(names) for made in _MADE_HERE)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and below, through links but never in a circle."""
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen or _is_run(files):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not _is_clutter(name)]
        yield from (Path(root, name) for name in files if not _is_clutter(name))


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _CLUTTER


def _named(path: Path, foreign: bool) -> list[Path]:
    """Return the pictures that one file, folder or pattern names."""
    if path.is_file():
        return [path]
    matches = [path]
    if not path.is_dir():
        matches = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207
    files = [file for match in matches for file in (_files(match) if match.is_dir() else [match])]
    endings = FOREIGN if foreign else ()
    found = [file for file in files if is_picture(file) or file.suffix.lower() in endings]
    if found:
        return found
    if matches:
        raise UserError(
            f"{path}: {len(files)} files, none of them a picture. "
            f"Pictures end in {', '.join(sorted(EXTENSIONS))}."
        )
    raise missing(path)


def _natural(path: Path) -> list[list[str | int]]:
    """Return a key that sorts numbers by their value, folder by folder."""
    return [
        [int(piece) if piece.isdecimal() else piece.lower() for piece in _NUMBER.split(part)]
        for part in path.parts
    ]
