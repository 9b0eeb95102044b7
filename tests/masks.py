"""Tiny data sets with masks, written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from boxes import picture, text

SIZE = (40, 32)


def mask(path: Path, numbers: ArrayLike = (0, 1), mode: str | None = None) -> Path:
    """Write a mask of 40×32, whose columns have the numbers or colours in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = np.asarray(numbers)
    image = Image.fromarray(np.tile(_columns(columns), (SIZE[1], *[1] * columns.ndim)), mode)
    if mode == "P":
        image.putpalette([128, 64, 32, 0, 0, 0, 10, 20, 30] + [200] * 759)
    image.save(path)
    return path


def _columns(values: np.ndarray) -> np.ndarray:
    kind = np.uint8 if values.max() < 256 else np.uint16
    return np.resize(values, (1, SIZE[0], *values.shape[1:])).astype(kind)


def folder(
    data: Path, names: Sequence[str] = ("a", "b"), numbers: ArrayLike = (0, 1), split: str = "."
) -> Path:
    """Write pictures, masks and a list of a cat and a dog."""
    for name in names:
        picture(data / "images" / split / f"{name}.jpg", SIZE)
        mask(data / "masks" / split / f"{name}.png", numbers)
    text(data / "classes.txt", "cat\ndog\n")
    return data
