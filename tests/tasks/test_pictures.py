from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevit.tasks.classification.pictures import (
    MOSAIC,
    Mistake,
    draw_batch,
    draw_confusion,
    draw_mistakes,
)


def ink(path: Path) -> int:
    """Return how many pixels are not white, and that it is a picture at all."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return int((np.asarray(image.convert("L")) < 250).sum())


@pytest.mark.parametrize("count", [1, 3, MOSAIC, MOSAIC + 5])
def test_a_batch_of_any_length(tmp_path: Path, count: int) -> None:
    pictures = np.zeros((count, 3, 24, 32), np.float32)
    draw_batch(tmp_path / "batch.png", pictures, [f"class {i}" for i in range(count)])
    assert ink(tmp_path / "batch.png") > 5000


def test_a_batch_shows_the_colours_it_is_given(tmp_path: Path) -> None:
    pictures = np.zeros((2, 3, 8, 8), np.float32)
    pictures[0, 0] = 1.2  # beyond the range, as some augmentations leave it
    pictures[1, 2] = 1.0
    draw_batch(tmp_path / "batch.png", pictures, ["red", "blue"])
    with Image.open(tmp_path / "batch.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(2**20)}
    assert {(255, 0, 0), (0, 0, 255)} <= colours


def test_mistakes(tmp_path: Path) -> None:
    picture = np.full((3, 16, 16), 0.5, np.float32)
    mistakes = [Mistake(picture, "Apfel", "x" * 80, p / 20) for p in range(20)]
    draw_mistakes(tmp_path / "some.png", mistakes)
    draw_mistakes(tmp_path / "none.png", [])
    assert ink(tmp_path / "some.png") > ink(tmp_path / "none.png") > 0


@pytest.mark.parametrize("classes", [2, 10, 40, 41, 300])
def test_confusion_of_any_number_of_classes(tmp_path: Path, classes: int) -> None:
    counts = np.eye(classes, dtype=int) * 5
    counts[0] = 0  # a class without pictures
    names = [f"a very long name of a class, number {i}" for i in range(classes)]
    draw_confusion(tmp_path / "confusion.png", counts.tolist(), names)
    assert ink(tmp_path / "confusion.png") > 500


@pytest.mark.parametrize("name", ["price $5 and $6", "a_b^c", "犬", "\\frac", "<b>", ""])
def test_any_name_is_drawn_as_it_is(tmp_path: Path, name: str) -> None:
    """A dollar sign starts mathematics in matplotlib, and a glyph may be missing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        draw_confusion(tmp_path / "confusion.png", [[1, 0], [0, 1]], [name, "b"])
        picture = np.zeros((3, 8, 8), np.float32)
        draw_mistakes(tmp_path / "mistakes.png", [Mistake(picture, name, "$x^$", 0.5)])
        draw_batch(tmp_path / "batch.png", picture[None], [name])
