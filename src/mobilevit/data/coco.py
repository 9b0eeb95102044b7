"""Boxes as COCO has them: one JSON file for each split."""

from __future__ import annotations

import errno
import json
import mmap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mobilevit.data.boxes import Boxes
from mobilevit.data.folders import Sample, split_of
from mobilevit.data.raw_boxes import (
    BROKEN_LABEL,
    CLASS_MISMATCH,
    LABEL_WITHOUT_PICTURE,
    LARGEST_SIDE,
    ROUNDING,
    UNKNOWN_CLASS,
    UNKNOWN_PICTURE,
    Kind,
    Problems,
    RawBox,
    RawPicture,
    RawSet,
)
from mobilevit.errors import UserError

PICTURES = "{split}"
"""The folder of a split's pictures in a folder that is written."""

RENUMBERED = Kind(
    *("info", "renumbered-class"),
    "classes that have another id than in train",
    "They are told by their names.",
)
WRONG_AREA = Kind(
    *("warning", "wrong-area"),
    "areas that are negative, not finite, or larger than their box",
    "The area of the box counts instead.",
)

_KEYS = ("images", "annotations", "categories")
_PREFIXES = ("instances_", "panoptic_")
_PANOPTIC = "segments_info"
_ROBOFLOW = "_annotations.coco.json"


def is_coco(path: Path) -> bool:
    """Tell whether a path is such a file, or a folder that holds some."""
    return bool(find_files(path))


def read(data: Path) -> RawSet:
    """Read a JSON file, or those of a folder.

    In a folder, ``annotations/instances_{train,val,test}*.json``, the same without ``instances_``
    or right in the folder, and ``{train,valid,test}/_annotations.coco.json`` are looked for; a
    single file of any other name is taken to train on. Pictures are looked for beside the file,
    in ``images/``, and in folders named after the file or its split.

    Raises:
        UserError: when there is no file to train on or several, or when one is broken.
    """
    files = one_each(data, find_files(data))
    problems = Problems()
    contents = {split: load(file) for split, file in files.items()}
    classes = read_classes(contents["train"], files["train"])
    ids = sorted(classes)
    splits = {}
    for split, content in contents.items():
        own = read_classes(content, files[split]) or classes
        labels = match_classes(own, classes, files[split], problems)
        splits[split] = _pictures(content, files[split], labels, problems)
    return RawSet(tuple(classes[number] for number in ids), tuple(ids), splits, problems)


def write(
    target: Path,
    class_names: Sequence[str],
    class_ids: Sequence[int],
    splits: Mapping[str, Sequence[tuple[str, Sample[Boxes]]]],
) -> None:
    """Write ``annotations/instances_{split}.json``.

    Args:
        target: a folder that is there.
        class_names: of the classes.
        class_ids: their numbers.
        splits: names of the pictures in ``PICTURES``, and the samples, by split.
    """
    (target / "annotations").mkdir()
    categories = [{"id": i, "name": n} for i, n in zip(class_ids, class_names, strict=True)]
    for split, samples in splits.items():
        own = [sample.label.image_id for _, sample in samples]
        keep = None not in own and len(set(own)) == len(own)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, (name, sample) in enumerate(samples, 1):
            boxes = sample.label
            image_id = boxes.image_id if keep else number
            images.append(
                {"id": image_id, "file_name": name, "width": boxes.width, "height": boxes.height}
            )
            for box in boxes.items:
                sides = (box.right - box.left, box.bottom - box.top)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": class_ids[box.label],
                        "bbox": [box.left, box.top, *sides],
                        "area": box.size,
                        "iscrowd": int(box.ignored),
                    }
                )
        content = {"images": images, "annotations": annotations, "categories": categories}
        file = target / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def is_instances(path: Path) -> bool:
    """Tell whether a path is a file of boxes and outlines, each of one thing."""
    return _holds(path, _KEYS) and not is_panoptic(path)


def is_panoptic(path: Path) -> bool:
    """Tell whether a path is a file of segments, whose pixels lie in pictures of their own."""
    return _holds(path, (*_KEYS, _PANOPTIC))


def _holds(path: Path, keys: Iterable[str]) -> bool:
    """Look for keys in a JSON file without parsing it, for it may have hundreds of megabytes."""
    if path.suffix.lower() != ".json" or not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return all(text.find(f'"{key}"'.encode()) >= 0 for key in keys)


def find_files(
    data: Path, is_kind: Callable[[Path], bool] = is_instances
) -> list[tuple[str, Path]]:
    """Return the files that a path holds, or is, each with the split that its name tells.

    Args:
        data: a file or a folder.
        is_kind: tells which files count.
    """
    if data.is_file():
        return [("train", data)] if is_kind(data) else []
    if not data.is_dir():
        return []
    found = [(split_of(file.parent.name), file) for file in sorted(data.glob(f"*/{_ROBOFLOW}"))]
    if not found:
        files = sorted((*data.glob("*.json"), *data.glob("annotations/*.json")))
        found = [(split_of(_bare_name(file)), file) for file in files]
    coco = [(split, file) for split, file in found if is_kind(file)]
    named = [(split, file) for split, file in coco if split]
    return named or [("train", file) for _, file in coco]


def one_each(folder: Path, files: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    """Return the file of each split.

    Raises:
        UserError: when there are several, or none to train on.
    """
    chosen: dict[str, Path] = {}
    for split, file in files:
        if split in chosen:
            raise UserError(
                f"{folder}: both '{chosen[split].relative_to(folder)}' and "
                f"'{file.relative_to(folder)}' could be its split '{split}'. Give one of the two "
                "files instead of the folder, or move one away."
            )
        chosen[split] = file
    if "train" not in chosen:
        names = ", ".join(str(file.relative_to(folder)) for file in chosen.values())
        raise UserError(
            f"{folder}: has {names}, but no file to train on, such as "
            "annotations/instances_train.json. Add it, or give one of the files itself."
        )
    return chosen


def load(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the lists of a file.

    Raises:
        UserError: when it is no such file.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}: this is no JSON: {error.msg} in line {error.lineno}, column {error.colno}. "
            "Export it anew."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: this is no JSON in UTF-8 ({error}). Export it anew.") from error
    for key in _KEYS:
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(
                f"{file}: has no list '{key}' of entries in braces, as COCO's files of instances "
                "have. Export it anew as COCO."
            )
    return {key: content[key] for key in _KEYS}


def read_classes(content: Mapping[str, list[dict[str, Any]]], file: Path) -> dict[int, str]:
    """Return the names of the classes by their numbers.

    Raises:
        UserError: when one of them has none, or the number of another.
    """
    classes: dict[int, str] = {}
    for entry in content["categories"]:
        number, name = entry.get("id"), entry.get("name")
        if not isinstance(number, int) or not isinstance(name, str) or number in classes:
            raise UserError(
                f"{file}: the category {entry} needs an 'id', a whole number that no other has, "
                "and a 'name'."
            )
        classes[number] = name
    return classes


def match_classes(
    own: Mapping[int, str], classes: Mapping[int, str], file: Path, problems: Problems
) -> dict[int, int | None]:
    """Return the index of each class of a split, by its number there.

    Args:
        own: the names of the split's classes by their numbers.
        classes: those to train on.
        file: the split's.
        problems: gathers the classes that have another number, or that train does not have.
    """
    ids = sorted(classes)
    by_name = {name: number for number, name in classes.items()}
    counts, own_counts = Counter(classes.values()), Counter(own.values())
    labels: dict[int, int | None] = {}
    for number, name in own.items():
        labels[number] = None
        in_train = f"in train it is '{classes[number]}'" if number in classes else "not in train"
        if classes.get(number) == name:
            labels[number] = ids.index(number)
        elif counts[name] == own_counts[name] == 1:
            labels[number] = ids.index(by_name[name])
            problems.add(RENUMBERED, file, f"{number} '{name}' (in train {by_name[name]})")
        else:
            problems.add(CLASS_MISMATCH, file, f"{number} '{name}' ({in_train})")
    return labels


def _pictures(
    content: Mapping[str, list[dict[str, Any]]],
    file: Path,
    labels: Mapping[int, int | None],
    problems: Problems,
) -> list[RawPicture]:
    """Return the pictures of a file that are there, and their boxes.

    Args:
        content: of the file.
        file: the file.
        labels: the index of each class by its number; ``None`` for one that is left out.
        problems: gathers what is wrong.
    """
    folders = picture_folders(file)
    pictures: dict[int | str, RawPicture | None] = {}
    for entry in content["images"]:
        number, name = entry.get("id"), entry.get("file_name")
        if not isinstance(number, (int, str)) or not isinstance(name, str) or number in pictures:
            problems.add(BROKEN_LABEL, file, f"image {entry} without a file_name or id of its own")
            continue
        path = find_picture(name, folders)
        if path is None:
            looked = ", ".join(map(str, folders))
            problems.add(LABEL_WITHOUT_PICTURE, file, f"'{name}', looked for in {looked}")
        image_id = number if isinstance(number, int) else None
        pictures[number] = RawPicture(path, file, _size(entry), image_id) if path else None
    for entry in content["annotations"]:
        which, image, category = (entry.get(key) for key in ("id", "image_id", "category_id"))
        bbox = entry.get("bbox")
        values = bbox if isinstance(bbox, list) else []
        sides = [side for value in values if (side := _number(value)) is not None]
        if not len(sides) == len(values) == 4:
            problems.add(BROKEN_LABEL, file, f"annotation {which} with bbox {bbox}")
        elif not isinstance(image, (int, str)) or image not in pictures:
            problems.add(UNKNOWN_PICTURE, file, f"annotation {which} with image_id {image}")
        elif not isinstance(category, int) or category not in labels:
            problems.add(UNKNOWN_CLASS, file, f"annotation {which} with category_id {category}")
        elif (picture := pictures[image]) and (label := labels[category]) is not None:
            left, top, width, height = sides
            area = _number(entry.get("area")) or None
            if area and not 0 < area <= (width + ROUNDING) * (height + ROUNDING):
                example = f"annotation {which} with area {area:g} and bbox {bbox}"
                problems.add(WRONG_AREA, file, example)
                area = None
            picture.boxes.append(
                RawBox(
                    *(left, top, left + width, top + height, label, which),
                    ignored=bool(entry.get("iscrowd")),
                    area=area,
                    outlines=entry.get("segmentation"),
                )
            )
    return [picture for picture in pictures.values() if picture]


def picture_folders(file: Path) -> list[Path]:
    """Return where the pictures of a file may lie."""
    own = _bare_name(file)
    names = ["", own, split_of(own) or own]
    roots = [file.parent, *([file.parent.parent] if file.parent.name == "annotations" else [])]
    folders = [
        root / images / name for root in roots for images in ("", "images") for name in names
    ]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _bare_name(file: Path) -> str:
    name = file.stem
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def find_picture(name: str, folders: Iterable[Path]) -> Path | None:
    """Return the first file of a name, as a JSON file has it, in some folders."""
    places = (folder / name.replace("\\", "/") for folder in folders)
    return next((place for place in places if _is_file(place)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def _size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = entry.get("width"), entry.get("height")
    if not isinstance(width, int) or not isinstance(height, int):
        return None
    return (width, height) if 0 < min(width, height) <= max(width, height) <= LARGEST_SIDE else None


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
