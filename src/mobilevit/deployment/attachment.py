"""Text at the end of a file whose own format has no room for it.

A ZIP may follow any other content, and readers of that content do not see it: this is how TFLite
files carry their associated files. What was attached is bound to the content by its hash.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobilevit.errors import UserError

NAME = "mobilevit.json"


def attach(path: Path, entries: Mapping[str, str]) -> None:
    """Add entries to the end of a file, among those that are there already.

    Args:
        path: a file, which is changed in place.
        entries: text by key; a key that is there gets the new text.
    """
    before: Mapping[str, str] = {}
    length = path.stat().st_size
    if zipfile.is_zipfile(path):
        held = _read(path)
        before, length = held["entries"], held["bytes"]
    with path.open("r+b") as file:
        file.truncate(length)
    held = {
        "bytes": length,
        "sha256": _hash(path, length),
        "entries": {**before, **entries},
    }
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(NAME, json.dumps(held, ensure_ascii=False, indent=1))


def read_attached(path: Path) -> dict[str, str]:
    """Return the entries at the end of a file.

    Raises:
        UserError: when there are none, the file is cut off, or they belong to another file.
    """
    again = "Make it from a checkpoint with: mobilevit export MODEL"
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path}: it holds no contract, or was cut off, so how to feed and read it is not "
            f"known. {again}"
        )
    try:
        held = _read(path)
        length, expected = int(held["bytes"]), str(held["sha256"])
        entries = {str(key): str(value) for key, value in held["entries"].items()}
    except (KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: its contract cannot be read ({error!r}). {again}") from error
    if _hash(path, length) != expected:
        raise UserError(
            f"{path}: its contract was made for another file, or the file was changed. {again}"
        )
    return entries


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        held: dict[str, Any] = json.loads(archive.read(NAME))
    return held


def _hash(path: Path, length: int) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(length)).hexdigest()
