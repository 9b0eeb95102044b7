from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; a test that asks for it is skipped where it is missing."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MOBILEVIT_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; MOBILEVIT_DATA can name another folder")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of drawn shapes, 16 to train and 8 to validate on each; do not change them."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 8)):
        for shape in ("disc", "square", "stripes"):
            (folder / split / shape).mkdir(parents=True)
            for index in range(count):
                draw_shape(shape, random).save(folder / split / shape / f"{index}.jpg", quality=90)
    return folder


def draw_shape(shape: str, random: np.random.Generator) -> Image.Image:
    ground, colour = random.integers(0, 100, 3), random.integers(150, 256, 3)
    image = Image.new("RGB", (96, 80), tuple(map(int, ground)))
    draw = ImageDraw.Draw(image)
    fill = tuple(map(int, colour))
    x, y, size = (int(random.integers(low, high)) for low, high in ((5, 40), (5, 30), (30, 45)))
    if shape == "disc":
        draw.ellipse((x, y, x + size, y + size), fill)
    elif shape == "square":
        draw.rectangle((x, y, x + size, y + size), fill)
    else:
        for left in range(x % 8, 96, 16):
            draw.rectangle((left, 0, left + 7, 80), fill)
    return image
