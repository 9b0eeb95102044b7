"""Boxes as Pascal VOC has them: an XML file for each picture."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

from mobilevit.data.boxes import Boxes
from mobilevit.data.folders import Sample, is_picture, split_folders
from mobilevit.data.raw_boxes import (
    BROKEN_LABEL,
    CLASS_MISMATCH,
    LABEL_WITHOUT_PICTURE,
    LARGEST_SIDE,
    PICTURE_WITHOUT_LABEL,
    UNKNOWN_CLASS,
    UNKNOWN_PICTURE,
    Kind,
    Problems,
    RawBox,
    RawPicture,
    RawSet,
)
from mobilevit.errors import UserError

PICTURES = "JPEGImages"
"""The folder of all pictures in a folder that is written."""

CLASSES = "labels.txt"
"""A file with the names of the classes, one in each line, that a folder may have."""

UNLISTED = Kind(
    *("info", "unlisted-picture"),
    "label files that no list in ImageSets/Main names",
    "They are not used.",
)

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Label(NamedTuple):
    """A picture, its XML file and what is in it."""

    picture: Path
    file: Path
    root: ElementTree.Element


class List(NamedTuple):
    """A list of pictures, and the names in it."""

    file: Path
    names: list[str]


def is_voc(path: Path) -> bool:
    """Tell whether a path is a folder that is laid out like that."""
    if not path.is_dir():
        return False
    return any(
        map(_has_labels, (child(path, "annotations") or path, *_split_folders(path).values()))
    )


def read(data: Path) -> RawSet:
    """Read a folder.

    It has ``Annotations/*.xml``, ``JPEGImages/`` (or ``images/``) and perhaps
    ``ImageSets/Main/{train,val,test,trainval}.txt`` (``trainval`` without ``val`` stands in for a
    ``train`` that is missing); or XML files beside the pictures, in it or in
    its folders ``train``, ``valid`` and ``test``. The classes are those of ``labels.txt`` if it is
    there, else all names on the pictures to train on, sorted.

    Raises:
        UserError: when an XML file is broken, or there are lists but none to train on.
    """
    problems = Problems()
    splits = _find(data, problems)
    classes = _listed(data / CLASSES)
    if not classes:
        names = {_text(thing, "name") for label in splits["train"] for thing in _things(label)}
        classes = sorted(names - {""})
        foreign = CLASS_MISMATCH
    else:
        foreign = UNKNOWN_CLASS
    numbers = {name: number for number, name in enumerate(classes)}
    pictures = {
        split: [_picture(label, numbers, foreign, problems) for label in labels]
        for split, labels in splits.items()
    }
    return RawSet(tuple(classes), tuple(range(len(classes))), pictures, problems)


def write(
    target: Path,
    class_names: Sequence[str],
    splits: Mapping[str, Sequence[tuple[str, Sample[Boxes]]]],
) -> None:
    """Write ``Annotations/``, ``ImageSets/Main/`` and the names of the classes.

    Args:
        target: a folder that is there.
        class_names: of the classes.
        splits: names of the pictures in ``PICTURES``, and the samples, by split.
    """
    (target / "Annotations").mkdir()
    (target / "ImageSets" / "Main").mkdir(parents=True)
    (target / CLASSES).write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")
    for split, samples in splits.items():
        stems = [PurePosixPath(name).stem for name, _ in samples]
        listed = target / "ImageSets" / "Main" / f"{split}.txt"
        listed.write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
        for stem, (name, sample) in zip(stems, samples, strict=True):
            tree = ElementTree.ElementTree(_annotation(name, sample.label, class_names))
            ElementTree.indent(tree)
            tree.write(target / "Annotations" / f"{stem}.xml", encoding="utf-8")


def _annotation(name: str, boxes: Boxes, class_names: Sequence[str]) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    _add(root, {"folder": PICTURES, "filename": name})
    size = {"width": boxes.width, "height": boxes.height, "depth": 3}
    _add(ElementTree.SubElement(root, "size"), size)
    for box in boxes.items:
        thing = ElementTree.SubElement(root, "object")
        _add(thing, {"name": class_names[box.label], "difficult": int(box.ignored)})
        corners = (box.left + 1, box.top + 1, box.right, box.bottom)
        texts = (f"{corner:.6f}".rstrip("0").rstrip(".") for corner in corners)
        _add(ElementTree.SubElement(thing, "bndbox"), dict(zip(_CORNERS, texts, strict=True)))
    return root


def _add(parent: ElementTree.Element, texts: Mapping[str, object]) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = str(text)


def _find(data: Path, problems: Problems) -> dict[str, list[_Label]]:
    """Return the labels of each split."""
    labels = child(data, "annotations")
    if labels is None:
        folders = _split_folders(data) or {"train": data}
        if "train" not in folders:
            raise UserError(f"{data}: has {', '.join(folders)}, but no 'train' folder to train on.")
        return {split: _labels(folder, folder, None, problems) for split, folder in folders.items()}
    pictures = child(data, "jpegimages") or child(data, "images") or data
    listed = read_lists(data / "ImageSets" / "Main", by_stem(pictures))
    if not listed:
        return {"train": _labels(pictures, labels, None, problems)}
    used = {name for one in listed.values() for name in one.names}
    for file in _xml_files(labels):
        if file.stem not in used:
            problems.add(UNLISTED, file)
    return {split: _labels(pictures, labels, one, problems) for split, one in listed.items()}


def read_lists(folder: Path, stems: Container[str]) -> dict[str, List]:
    """Return the lists of a folder by split: ``{train,val,test,trainval}.txt``, if there are some.

    Args:
        folder: the folder.
        stems: of the pictures.

    Raises:
        UserError: when there are some, but none to train on.
    """
    files = {s: folder / f"{s}.txt" for s in ("train", "val", "test", "trainval")}
    listed = {
        split: List(file, _names(file, stems)) for split, file in files.items() if file.is_file()
    }
    if not listed or "train" in listed:
        listed.pop("trainval", None)
        return listed
    if "trainval" not in listed:
        raise UserError(f"{folder}: has {', '.join(listed)}, but no train.txt. Add it.")
    whole = listed.pop("trainval")
    val = set(listed["val"].names if "val" in listed else ())
    train = whole._replace(names=[name for name in whole.names if name not in val])
    return {"train": train} | listed


def _labels(pictures: Path, labels: Path, listed: List | None, problems: Problems) -> list[_Label]:
    """Return what is there of the pictures that a list names, or of all."""
    there = by_stem(pictures)
    files = {file.stem: file for file in _xml_files(labels)}
    found = []
    for name in listed.names if listed else sorted({*there, *files}):
        picture, file = there.get(name), files.get(name)
        if picture and file:
            found.append(_Label(picture, file, _parse(file)))
        elif file:
            problems.add(LABEL_WITHOUT_PICTURE, file, f"no picture '{name}' in {pictures}")
        elif picture:
            problems.add(PICTURE_WITHOUT_LABEL, picture, f"no '{name}.xml' in {labels}")
        elif listed:
            problems.add(UNKNOWN_PICTURE, listed.file, f"'{name}'")
    return found


def _picture(
    label: _Label, numbers: Mapping[str, int], foreign: Kind, problems: Problems
) -> RawPicture:
    """Return a picture and its boxes; the class of one that ``numbers`` lacks is ``foreign``."""
    sides = [_text(label.root, f"size/{side}") for side in ("width", "height")]
    known = all(side.isdecimal() and 0 < float(side) <= LARGEST_SIDE for side in sides)
    size = (int(sides[0]), int(sides[1])) if known else None
    picture = RawPicture(label.picture, label.file, size)
    for place, thing in enumerate(_things(label), 1):
        name = _text(thing, "name")
        corners = [_number(thing, f"bndbox/{corner}") for corner in _CORNERS]
        left, top, right, bottom = corners
        if not name or left is None or top is None or right is None or bottom is None:
            texts = {corner: _text(thing, f"bndbox/{corner}") for corner in _CORNERS}
            problems.add(BROKEN_LABEL, label.file, f"object {place}, name '{name}', {texts}")
        elif name not in numbers:
            problems.add(foreign, label.file, f"object {place}, name '{name}'")
        else:
            difficult = _text(thing, "difficult") == "1"
            box = RawBox(left - 1, top - 1, right, bottom, numbers[name], place, difficult)
            picture.boxes.append(box)
    return picture


def _things(label: _Label) -> list[ElementTree.Element]:
    return label.root.findall("object")


def _parse(file: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise UserError(f"{file}: this is no XML: {error}. Correct or remove it.") from error


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _number(element: ElementTree.Element, path: str) -> float | None:
    try:
        return float(_text(element, path))
    except ValueError:
        return None


def _listed(file: Path) -> list[str]:
    """Return the lines of a text file that say something; none where it is not there."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _names(listed: Path, stems: Container[str]) -> list[str]:
    """Return the names that a list has, without the endings of pictures and the devkit's -1, 0, 1.

    Args:
        listed: the list.
        stems: of the pictures; a line that is one of them is taken as it stands.
    """
    names = []
    for line in _listed(listed):
        word, *rest = line.split(maxsplit=1)
        name = word if rest in (["-1"], ["0"], ["1"]) else line
        stem = name.rpartition(".")[0] if is_picture(Path(name)) else name
        names.append(next((known for known in (line, name) if known in stems), stem))
    return list(dict.fromkeys(names))


def by_stem(pictures: Path) -> dict[str, Path]:
    """Return the pictures right in a folder by their names without ending."""
    return {file.stem: file for file in sorted(pictures.iterdir()) if is_picture(file)}


def child(folder: Path, name: str) -> Path | None:
    """Return the folder of that name, whatever its capitals."""
    return next((f for f in folder.iterdir() if f.name.lower() == name and f.is_dir()), None)


def _split_folders(data: Path) -> dict[str, Path]:
    """Return the folders right in a folder that are named after splits and hold labels."""
    return split_folders(data, _has_labels)


def _xml_files(folder: Path) -> list[Path]:
    """Return the XML files right in a folder, without hidden ones, as macOS leaves behind."""
    return sorted(file for file in folder.glob("*.xml") if not file.name.startswith("."))


def _has_labels(folder: Path) -> bool:
    first = next(iter(_xml_files(folder)), None)
    return first is not None and b"<annotation" in first.read_bytes()[:1000]
