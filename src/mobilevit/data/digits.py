"""Scikit-learn's handwritten digits as a folder of class folders: real pictures, always at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mobilevit.errors import require

SIDE = 32
"""Side of the pictures written, in pixels; the originals have 8."""


def write_digits(folder: Path) -> None:
    """Write the 1,797 digits (UCI Optical Recognition of Handwritten Digits, 8×8) as PNGs.

    Every third picture of the set goes to ``val/``, the others to ``train/``.

    Args:
        folder: is made, with ``train/0`` … ``val/9`` in it.

    Raises:
        MissingExtraError: without scikit-learn.
    """
    digits = require("sklearn.datasets", "demo").load_digits()
    for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = folder / ("train" if index % 3 else "val") / str(label)
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((pixels * 255 / 16).round().astype(np.uint8))
        enlarged = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        enlarged.save(place / f"{index:04}.png")
