"""Boxes as YOLO has them: a text file for each picture, and one YAML file about all of them.

Labelling tools leave the YAML file out and write the names of the classes into ``classes.txt``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from mobilevit.data.boxes import Boxes
from mobilevit.data.folders import Sample, is_picture, pictures
from mobilevit.data.raw_boxes import (
    ABSOLUTE_COORDINATES,
    BROKEN_LABEL,
    LABEL_WITHOUT_PICTURE,
    PICTURE_WITHOUT_LABEL,
    UNKNOWN_CLASS,
    UNKNOWN_PICTURE,
    Kind,
    Problems,
    RawBox,
    RawPicture,
    RawSet,
    measure,
)
from mobilevit.errors import UserError

PICTURES = "images/{split}"
"""The folder of a split's pictures in a folder that is written."""

BACKGROUND = Kind(
    *("info", PICTURE_WITHOUT_LABEL.check),
    "pictures without a label file",
    "They count as pictures without objects.",
)
POLYGON = Kind(
    *("info", "polygon"),
    "lines with a polygon instead of a box",
    "The box around each is taken.",
)

_NOTHING = ("", "~", "null", "Null", "NULL")
_SPLITS = ("train", "val", "test")
_CLASSES = "classes.txt"
_NAMES = re.compile(r"^names\s*:", re.MULTILINE)
_PLACES = re.compile(r"^(train|val|test)\s*:", re.MULTILINE)


class _Loader(yaml.BaseLoader):
    """Takes every word as it stands: a class may be called ``no`` or ``1``. No key comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            keys = [key.value for key, _ in node.value]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.constructor.ConstructorError(
                problem=f"the key '{twice}' comes twice", problem_mark=node.start_mark
            )
        return mapping


def is_yolo(path: Path) -> bool:
    """Tell whether a path is such a YAML file, or a folder that holds one or only the labels."""
    return bool(_yaml_files(path)) or _has_labels(path)


def read(data: Path) -> RawSet:
    """Read a YAML file, or a folder without one.

    A YAML file has ``names`` and ``train``, and perhaps ``val``, ``test``, ``path`` and ``nc``.
    Each split is a folder, a text file that lists pictures, or a list of these. The label of the
    picture ``images/x/1.jpg`` is ``labels/x/1.txt``, or the text file beside it. A folder without
    such a file has ``images``, with the splits in it or without, ``labels``, and ``classes.txt``
    beside them or in ``labels``: a name in each line, from the number 0.

    Raises:
        UserError: when the YAML file is broken or names what there is not, or when a folder
            without one has no names of classes.
    """
    files = _yaml_files(data)
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UserError(f"{data}: has several YAML files with names of classes: {names}. Give one.")
    problems = Problems()
    if files:
        settings = _load(files[0])
        classes = _classes(settings, files[0])
        found = {
            split: _pictures(settings, split, files[0], problems)
            for split in _SPLITS
            if settings.get(split)
        }
        if "train" not in found:
            raise UserError(
                f"{files[0]}: has no 'train' that says where the pictures to train on are."
            )
    else:
        classes = _listed_classes(data)
        folders = {split: data / PICTURES.format(split=split) for split in _SPLITS}
        found = {split: pictures(folder) for split, folder in folders.items() if folder.is_dir()}
        if "train" not in found:
            found = {"train": pictures(data / "images")}
    numbers = {number: label for label, number in enumerate(classes)}
    splits = {split: _read_labels(paths, numbers, problems) for split, paths in found.items()}
    _check_labels({_label(path) for paths in found.values() for path in paths}, problems)
    return RawSet(tuple(classes.values()), tuple(classes), splits, problems)


def write(
    target: Path,
    class_names: Sequence[str],
    splits: Mapping[str, Sequence[tuple[str, Sample[Boxes]]]],
) -> None:
    """Write ``labels/{split}/*.txt`` and ``data.yaml``; ignored boxes have no place there.

    Args:
        target: a folder that is there.
        class_names: of the classes.
        splits: names of the pictures in ``PICTURES``, and the samples, by split.
    """
    for split, samples in splits.items():
        folder = target / "labels" / split
        folder.mkdir(parents=True)
        for name, sample in samples:
            file = folder / f"{PurePosixPath(name).stem}.txt"
            file.write_text(_lines(sample.label), encoding="utf-8")
    places = {split: PICTURES.format(split=split) for split in splits}
    settings = {**places, "nc": len(class_names), "names": dict(enumerate(class_names))}
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    (target / "data.yaml").write_text(text, encoding="utf-8")


def _lines(boxes: Boxes) -> str:
    """Write boxes with 8 digits: a 5,000th of a pixel on pictures of 40,000."""
    lines = []
    for box in boxes.items:
        if not box.ignored:
            x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
            shares = (
                *(x / boxes.width, y / boxes.height),
                *((box.right - box.left) / boxes.width, (box.bottom - box.top) / boxes.height),
            )
            lines.append(f"{box.label} {' '.join(f'{share:.8f}' for share in shares)}\n")
    return "".join(lines)


def _yaml_files(path: Path) -> list[Path]:
    """Return the YAML files with names of classes; ``data.yaml`` before all others.

    In a folder, which may be about something else, one has to say where pictures lie as well.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if _is_yaml(file, _NAMES, _PLACES))
        return [file for file in files if file.stem == "data"][:1] or files
    return [path] if _is_yaml(path, _NAMES) else []


def _has_labels(path: Path) -> bool:
    """Tell whether a folder has pictures in ``images`` and boxes in ``labels``."""
    if not (path / "images").is_dir() or not (path / "labels").is_dir():
        return False
    return any(_is_label(file) for file in (path / "labels").rglob("*.txt"))


def _listed_classes(data: Path) -> dict[int, str]:
    """Return the names of the classes of a folder without a YAML file by their numbers."""
    files = (data / _CLASSES, data / "labels" / _CLASSES)
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UserError(
            f"{data}: has boxes as YOLO's in labels/, but neither data.yaml nor {files[0]}. Write "
            "the latter, the name of a class in each line: that of the number 0 first."
        )
    names = file.read_text(encoding="utf-8-sig", errors="replace").strip().splitlines()
    if not all(name.strip() for name in names):
        raise UserError(f"{file}: needs the name of a class in each line, but has an empty one.")
    return {number: name.strip() for number, name in enumerate(names)}


def _is_yaml(path: Path, *keys: re.Pattern[str]) -> bool:
    if path.suffix.lower() not in (".yaml", ".yml") or not path.is_file():
        return False
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    return all(key.search(text) for key in keys)


def _load(file: Path) -> dict[str, Any]:
    """Read a YAML file, without the keys that have no value."""
    try:
        settings = yaml.load(file.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{file}: this is no YAML: {error.problem} in line {line}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{file}: this is no YAML in UTF-8 ({error}).") from error
    if not isinstance(settings, dict):
        raise UserError(f"{file}: needs keys such as 'train' and 'names', but has none.")
    return {key: value for key, value in settings.items() if value not in _NOTHING}


def _classes(settings: Mapping[str, Any], file: Path) -> dict[int, str]:
    """Return the names of the classes by their numbers, in their order."""
    names: Any = settings.get("names", [])
    if isinstance(names, list):
        names = dict(enumerate(names))
    try:
        classes = {int(number): name for number, name in names.items()}
        count = int(settings.get("nc", len(classes)))
    except (AttributeError, ValueError) as error:
        raise UserError(
            f"{file}: 'names' has to be a list of classes, or a mapping of whole numbers to "
            f"classes, and 'nc' their number ({error})."
        ) from error
    if not classes or not all(isinstance(name, str) and name for name in classes.values()):
        raise UserError(f"{file}: every class in 'names' needs a name, and there has to be one.")
    if count != len(classes):
        raise UserError(
            f"{file}: 'nc' is {count}, but 'names' has {len(classes)} classes. Correct one of them."
        )
    return dict(sorted(classes.items()))


def _pictures(
    settings: Mapping[str, Any], split: str, file: Path, problems: Problems
) -> list[Path]:
    """Return the pictures of a split that are there."""
    root = file.parent / str(settings.get("path", ""))
    roots = [root, file.parent] if root.is_dir() else [file.parent]
    values = settings[split]
    found: list[Path] = []
    for value in [values] if isinstance(values, str) else values:
        if not isinstance(value, str):
            raise UserError(f"{file}: '{split}' has to be a path, or a list of paths.")
        # Roboflow writes ../train/images for train/images
        names = (value, value.removeprefix("../"))
        places = [folder / name for folder in roots for name in names]
        place = next((place for place in places if place.exists()), None)
        if place is None:
            raise UserError(
                f"{file}: '{split}' is '{value}', which is not there; looked for "
                f"{' and '.join(map(str, dict.fromkeys(places)))}. Correct it"
                f"{'.' if split == 'train' else ', or remove the line.'}"
            )
        if place.suffix.lower() == ".txt" and place.is_file():
            found += _listed(place, roots, problems)
        else:
            found += pictures(place)
    return list(dict.fromkeys(found))


def _listed(file: Path, roots: Sequence[Path], problems: Problems) -> list[Path]:
    """Return the pictures that a text file lists, one in each line."""
    found = []
    for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        if not (name := line.strip()):
            continue
        places = [root / name for root in (file.parent, *roots)]
        path = next((place for place in places if place.is_file()), None)
        if path:
            found.append(path)
        elif _label(places[0]).is_file():
            problems.add(LABEL_WITHOUT_PICTURE, file, f"'{name}'")
        else:
            problems.add(UNKNOWN_PICTURE, file, f"'{name}'")
    return found


def _label(picture: Path) -> Path:
    """Return the label file of a picture, whether it is there or not."""
    beside = picture.with_suffix(".txt")
    apart = _swapped(beside, "images", "labels")
    return beside if beside.is_file() and not apart.is_file() else apart


def _swapped(path: Path, old: str, new: str) -> Path:
    """Return a path with another name for the last of its folders that is called ``old``."""
    parts = list(path.parts)
    if old in parts:
        parts[len(parts) - 1 - parts[::-1].index(old)] = new
    return Path(*parts)


def _read_labels(
    paths: Sequence[Path], labels: Mapping[int, int], problems: Problems
) -> list[RawPicture]:
    sizes = measure(paths, problems)
    found = []
    for path, size in sizes.items():
        picture = RawPicture(path, _label(path), size)
        found.append(picture)
        try:
            text = picture.file.read_text(encoding="utf-8-sig", errors="replace")
        except FileNotFoundError:
            problems.add(BACKGROUND, path)
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                _read_line(line, number, picture, size, labels, problems)
    return found


def _read_line(
    line: str,
    number: int,
    picture: RawPicture,
    size: tuple[int, int],
    labels: Mapping[int, int],
    problems: Problems,
) -> None:
    """Add the box of a line, class x y width height or class x y x y x y …, to its picture."""
    where = f"line {number}: '{line.strip()[:80]}'"
    try:
        category, *values = map(float, line.split())
    except ValueError:
        problems.add(BROKEN_LABEL, picture.file, where)
        return
    polygon = len(values) >= 6 and len(values) % 2 == 0
    if len(values) != 4 and not polygon:
        problems.add(BROKEN_LABEL, picture.file, where)
    elif category not in labels:
        problems.add(UNKNOWN_CLASS, picture.file, where)
    elif any(math.isfinite(value) and value >= 2 for value in values):
        problems.add(ABSOLUTE_COORDINATES, picture.file, where)
    else:
        if polygon:
            problems.add(POLYGON, picture.file, where)
            (left, right), (top, bottom) = ((min(v), max(v)) for v in (values[::2], values[1::2]))
        else:
            x, y, w, h = values
            left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        width, height = size
        picture.boxes.append(
            RawBox(
                *(left * width, top * height, right * width, bottom * height),
                *(labels[int(category)], f"in line {number}"),
            )
        )


def _check_labels(used: Iterable[Path], problems: Problems) -> None:
    """Find label files without a picture in the folders of those that are used."""
    for folder in sorted({file.parent for file in used if file.parent.is_dir()}):
        beside = [folder, _swapped(folder, "labels", "images")]
        stems = {
            f.stem for place in beside if place.is_dir() for f in place.iterdir() if is_picture(f)
        }
        for file in sorted(folder.glob("*.txt")):
            if file.stem not in stems and _is_label(file):
                problems.add(LABEL_WITHOUT_PICTURE, file)


def _is_label(file: Path) -> bool:
    """Tell labels from lists of pictures or classes, and from notes: they begin with numbers."""
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        words = next(lines, "").split()
    try:
        return len([float(word) for word in words]) > 4
    except ValueError:
        return False
