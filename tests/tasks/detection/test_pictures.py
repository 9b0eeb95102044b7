from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevit.data.box_sets import read_boxes
from mobilevit.data.boxes import Box, Boxes
from mobilevit.data.drawing import MOSAIC, TILE, colour_of
from mobilevit.data.folders import Folders, Sample
from mobilevit.tasks.detection.pictures import (
    draw_batch,
    draw_mosaic,
    draw_precision_recall,
    draw_truth_beside,
)
from mobilevit.tasks.detection.predictions import FoundBox, Prediction

NAMES = ("cat", "犬 $x^$")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def has(image: np.ndarray, name: str) -> np.ndarray:
    """Return in which columns there is the colour of a class."""
    return (image == colour_of(name)).all(axis=2).any(axis=0)


@pytest.fixture
def sample(tmp_path: Path) -> Sample[Boxes]:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (80, 60), (120, 120, 120)).save(path)
    boxes = (Box(8, 6, 40, 30, 0), Box(48, 36, 72, 54, 1, ignored=True))
    return Sample(path, Boxes(boxes, 80, 60))


@pytest.mark.parametrize("count", [1, 3, MOSAIC + 5])
def test_a_batch_shows_its_boxes_in_place(tmp_path, count):
    pictures = np.full((count, 3, 32, 32), 0.5, np.float32)
    labels = [Boxes((Box(16, 16, 32, 32, 0),), 32, 32)] * count
    draw_batch(tmp_path / "batch.png", pictures, labels, NAMES)
    image = pixels(tmp_path / "batch.png")
    columns = np.nonzero(has(image, "cat"))[0] - 8  # behind the gap
    assert columns.min() == TILE // 2
    assert columns.max() == (min(count, 4) - 1) * (TILE + 8) + TILE - 1
    assert image.shape[0] == 8 + -(-min(count, MOSAIC) // 4) * (TILE + 8)


def test_a_mosaic_of_pictures_shows_the_ignored_too(tmp_path, sample):
    draw_mosaic(tmp_path / "mosaic.png", [sample] * 20, NAMES)
    image = pixels(tmp_path / "mosaic.png")
    assert has(image, NAMES[0]).any()
    assert has(image, NAMES[1]).any()
    assert image.shape[:2] == (8 + 4 * 308, 8 + 4 * 408)


def test_the_truth_is_left_and_what_was_found_is_right(tmp_path, sample):
    found = Prediction(str(sample.path), 80, 60, (FoundBox("fox", 3, 0.8, (8, 6, 40, 30)),))
    folders = Folders(NAMES, (), (sample,), tmp_path)
    draw_truth_beside(tmp_path / "beside.png", [found], folders)
    image = pixels(tmp_path / "beside.png")
    assert np.nonzero(has(image, "cat"))[0].max() < TILE + 8
    columns = np.nonzero(has(image, "fox"))[0] - TILE - 16
    assert (columns.min(), columns.max()) == (40, 199)
    draw_truth_beside(tmp_path / "none.png", [], folders)
    assert (pixels(tmp_path / "none.png") == 255).all()


@pytest.mark.parametrize("classes", [0, 1, 3, 21])
def test_curves_of_any_number_of_classes(tmp_path, classes):
    curves = {f"{NAMES[1]} {i} {'long ' * 20}": np.linspace(1, 0, 101) for i in range(classes)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        draw_precision_recall(tmp_path / "curves.png", curves)
        draw_precision_recall(tmp_path / "none.png", {})
    drawn, empty = pixels(tmp_path / "curves.png"), pixels(tmp_path / "none.png")
    assert (drawn.shape == empty.shape and (drawn == empty).all()) == (classes == 0)


def test_real_boxes(tmp_path, shared_data):
    folders = read_boxes(shared_data / "coco")
    draw_mosaic(tmp_path / "mosaic.png", folders.train, folders.class_names)
    assert has(pixels(tmp_path / "mosaic.png"), "person").sum() > 100
