"""Files that are read, that are written whole or not at all, and the one that a MODEL means."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from mobilevit.errors import UserError, nearest, unknown
from mobilevit.weights import DEFAULT, list_weights

BEST = "best.safetensors"
WEIGHTS = (BEST, "model.safetensors", "pytorch_model.bin", "model.pt")
"""Names of the weights in a folder, in the order they are looked for."""
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
"""Endings of weights that other libraries pickled."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside ``path`` to write to, and rename it to ``path`` when all went well.

    After an exception nothing is left of it, and what was at ``path`` is untouched.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def publishing(path: Path) -> Iterator[Path]:
    """Give a place of the same name to write to, and put it at ``path`` when all went well.

    What is written may be a file, a folder, or several files beside one another whose names begin
    alike; what was at their places is replaced. After an exception nothing is left of it.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        made, gone = Path(folder) / "made", Path(folder) / "gone"
        made.mkdir()
        gone.mkdir()
        yield made / path.name
        for entry in sorted(made.iterdir()):
            target = path.with_name(entry.name)
            if target.is_dir():
                target.rename(gone / entry.name)
            entry.replace(target)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, making its folder where there is none.

    Names of files in another encoding are escaped, as JSON has it.

    Raises:
        UserError: when the folder cannot be made.
    """
    make_folder(path.parent)
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        UserError: when there is none, it cannot be read, or it is something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: it cannot be read as JSON ({error}).") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: it must be a JSON object.")
    return values


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are not there.

    Raises:
        UserError: when there is a file in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{folder}: it cannot be made a folder, a file is in the way.") from error


def check_writable(path: Path) -> None:
    """Find out whether a file can be written, before the work whose result it is to hold.

    Its folder is made where there is none.

    Raises:
        UserError: when it cannot.
    """
    try:
        make_folder(path.parent)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(
            f"{path}: it cannot be written ({error.strerror}). Choose another place."
        ) from error


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """Give a new folder to write into, whose place is ``folder`` when all went well.

    After an exception nothing is left of it. In a folder that is there already and empty, which
    may be where a disk is mounted, everything is moved to its place at the end.

    Raises:
        UserError: when there is something in ``folder`` already.
    """
    folder = folder.resolve()
    there = folder.exists()
    if there:
        _check_empty(folder)
    make_folder(folder.parent)
    place = folder if there else folder.parent
    with tempfile.TemporaryDirectory(dir=place, prefix=f".{folder.name}.") as hidden:
        made = Path(hidden) / folder.name
        made.mkdir()
        yield made
        if there:
            _check_empty(folder, but=Path(hidden).name)
            for entry in list(made.iterdir()):
                entry.rename(folder / entry.name)
        else:
            made.rename(folder)


def _check_empty(folder: Path, but: str = "") -> None:
    held = [entry.name for entry in folder.iterdir()] if folder.is_dir() else ["a file"]
    if found := sorted({*held} - {but}):
        raise UserError(
            f"{folder}: it exists and is not empty ({found[0]}). Choose another folder."
        )


def choose_weights(files: Iterable[str]) -> str | None:
    """Return which of a folder's files holds the weights, or nothing where it is not clear.

    The ``.bin`` beside an ``.xml`` of the same name is OpenVINO's.
    """
    files = list(files)
    files = [name for name in files if f"{name.removesuffix('.bin')}.xml" not in files]
    for name in WEIGHTS:
        if name in files:
            return name
    others = [
        name for name in files if "/" not in name and name.endswith((".safetensors", *PICKLES))
    ]
    return others[0] if len(others) == 1 else None


def has_weights(path: Path) -> bool:
    """Tell whether ``find_model`` finds a file here."""
    return path.is_file() or (path.is_dir() and choose_weights(_files(path)) is not None)


def find_model(model: str | Path) -> Path:
    """Return the file that MODEL means; a folder means the first of ``WEIGHTS`` in it.

    Raises:
        UserError: when there is none, with the nearest name beside it.
    """
    path = Path(model)
    if path.is_dir():
        weights = choose_weights(_files(path))
        if weights is None:
            raise UserError(
                f"{path}: this folder has no {WEIGHTS[0]}, no {WEIGHTS[1]} and no single file of "
                "weights. Give a run folder, a checkpoint or an .onnx file."
            )
        return path / weights
    if not path.is_file():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        names = [DEFAULT, *list_weights()]
        raise UserError(
            f"{path}: there is no such model.{nearest(path.name, [*beside, *names])} "
            f"Names that come with the package: {', '.join(names)}."
        )
    return path


def list_settings(package: str) -> list[str]:
    """Return the names of the YAML files in a package."""
    return sorted(
        p.name[:-5] for p in resources.files(package).iterdir() if p.name.endswith(".yaml")
    )


def read_settings(name: str | Path, kind: str, package: str) -> dict[str, Any]:
    """Read a YAML file: one of a package by its name, or any by its path.

    Args:
        name: which.
        kind: what it is meant to be, for the errors: ``"recipe"``.
        package: where those with a name are.

    Raises:
        UserError: when there is none of that name, or the file holds no mapping.
    """
    import yaml

    if str(name).endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{path}: there is no such {kind} file.")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: this is no text in UTF-8 ({error}).") from error
    elif str(name) in list_settings(package):
        text = (resources.files(package) / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise unknown(kind, str(name), list_settings(package))
    try:
        _check_keys(yaml.compose(text, yaml.SafeLoader), str(name))
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{name}: this is no YAML ({error}).") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{name}: a {kind} is sections of keys, not {type(values).__name__}.")
    return values


def _check_keys(root: Any, name: str) -> None:
    """Find out whether the keys of a YAML file are words, and none is there twice.

    Args:
        root: node of the file, as ``yaml.compose`` gives it.
        name: of the file, for the errors.

    Raises:
        UserError: when they are not; YAML itself would take the last of two.
    """
    import yaml

    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        keys = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for position, key in enumerate(keys):
            where = f"{name}, line {key.start_mark.line + 1}"
            if key.tag != "tag:yaml.org,2002:str":
                raise UserError(
                    f"{where}: YAML reads the key '{key.value}' as no word; set it in quotes."
                )
            if key.value in (earlier.value for earlier in keys[:position]):
                raise UserError(f"{where}: the key '{key.value}' is there twice. Keep one.")
        waiting += (value for _, value in node.value)


def _files(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.is_file()]
