"""Files that are written whole or not at all, and the one that a MODEL means."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobilevit.errors import UserError, nearest

BEST = "best.safetensors"


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


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, making its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def find_model(model: str | Path) -> Path:
    """Return the file that MODEL means; a run folder means its ``best.safetensors``.

    Raises:
        UserError: when there is none, with the nearest name beside it.
    """
    path = Path(model)
    if path.is_dir():
        if not (path / BEST).is_file():
            raise UserError(
                f"{path}: this folder has no {BEST}. Give a run folder, a .safetensors checkpoint "
                "or an .onnx file."
            )
        return path / BEST
    if not path.is_file():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{path}: there is no such model.{nearest(path.name, beside)}")
    return path
