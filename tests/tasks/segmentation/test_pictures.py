from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevit.data.drawing import MOSAIC, TILE, class_colour
from mobilevit.data.folders import Folders, Sample
from mobilevit.data.masks import IGNORED, Mask, MaskFile, MaskShapes, outline
from mobilevit.deployment.contract import Contract
from mobilevit.tasks.segmentation.pictures import (
    ROWS,
    draw_batch,
    draw_confusion,
    draw_mosaic,
    draw_truth_beside,
)
from mobilevit.tasks.segmentation.predictions import Prediction

NAMES = ("sky", "犬 $x^$", "car")
CONTRACT = Contract("segmentation", NAMES, (32, 32), None, output="pixel_logits")
GAP = 8


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def under(image: np.ndarray, index: int, grey: int = 120) -> np.ndarray:
    """Return where a grey picture is under the colour of a class."""
    return (np.abs(image - (np.array(class_colour(index)) + grey) / 2) < 2).all(axis=2)


def named(image: np.ndarray, index: int) -> bool:
    """Tell whether a class's own colour is there, as in a legend."""
    return bool((image == class_colour(index)).all(axis=2).any())


@pytest.fixture
def sample(tmp_path: Path) -> Sample[Mask]:
    """A grey picture; its left half is of class 0, a stripe on the right is ignored."""
    path = tmp_path / "photo.png"
    Image.new("RGB", (80, 60), (120, 120, 120)).save(path)
    halves = (outline([(0, 0), (40, 0), (40, 60), (0, 60)]), 0)
    stripe = (outline([(60, 0), (80, 0), (80, 60), (60, 60)]), IGNORED)
    return Sample(path, MaskShapes((halves, stripe), 80, 60, background=1))


@pytest.mark.parametrize("count", [1, 3, MOSAIC + 5])
def test_a_batch_shows_its_classes_in_place(tmp_path: Path, count: int) -> None:
    pictures = np.full((count, 3, 32, 32), 120 / 255, np.float32)
    masks = np.zeros((count, 32, 32), np.uint8)
    masks[:, :, 16:] = 2
    draw_batch(tmp_path / "batch.png", pictures, masks, NAMES)
    image = pixels(tmp_path / "batch.png")
    columns = np.nonzero(under(image, 2).any(axis=0))[0] - GAP
    assert columns.min() == TILE // 2
    assert columns.max() == (min(count, 4) - 1) * (TILE + GAP) + TILE - 1
    rows = np.nonzero(under(image, 0).any(axis=1))[0] - GAP
    assert rows.max() == (-(-min(count, MOSAIC) // 4) - 1) * (TILE + GAP) + TILE - 1
    assert [named(image, index) for index in range(3)] == [True, False, True]


def test_a_mosaic_shows_what_is_true_and_what_is_ignored(
    tmp_path: Path, sample: Sample[Mask]
) -> None:
    draw_mosaic(tmp_path / "mosaic.png", [sample] * 20, NAMES)
    image = pixels(tmp_path / "mosaic.png")
    first = image[GAP : GAP + 300, GAP : GAP + TILE]
    assert under(first, 0)[:, :195].all()
    assert under(first, 1)[:, 205:295].all()
    stripes = first[:, 305:].reshape(-1, 3)
    assert len(np.unique(stripes, axis=0)) == 2
    assert (np.ptp(stripes, axis=1) == 0).all()
    assert image.shape[0] > 4 * 308 + GAP
    assert image.shape[1] == 4 * 408 + GAP


def test_picture_truth_and_answer_stand_side_by_side(tmp_path: Path, sample: Sample[Mask]) -> None:
    answer = np.full((60, 80), 2, np.uint8)
    answer[:, :40] = 0
    folders = Folders(NAMES, (), (sample,), tmp_path)
    found = [Prediction.of(sample.path, answer, CONTRACT)] * 20
    draw_truth_beside(tmp_path / "beside.png", found, folders)
    image = pixels(tmp_path / "beside.png")
    for index, places in ((0, (1, 2)), (1, (1,)), (2, (2,))):
        columns = np.nonzero(under(image, index).any(axis=0))[0]
        assert {(column - GAP) // (TILE + GAP) for column in columns} == set(places)
    rows = under(image, 0).any(axis=1)
    assert np.count_nonzero(np.diff(rows.astype(int)) == 1) == ROWS
    draw_truth_beside(tmp_path / "none.png", [], folders)
    assert (pixels(tmp_path / "none.png") == 255).all()


@pytest.mark.parametrize("classes", [1, 3, 21, 150])
def test_confusion_of_any_number_of_classes(tmp_path: Path, classes: int) -> None:
    counts = np.eye(classes, dtype=np.int64) * 10**9
    counts[0] = 0  # a class without pixels
    draw_confusion(tmp_path / "confusion.png", counts, [f"class {i}" for i in range(classes)])
    blue = pixels(tmp_path / "confusion.png")
    dark = (blue[..., 2] > blue[..., 0] + 40).sum()
    assert (dark > 500) == (classes > 1)


def test_real_masks(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "camvid"
    names = (folder / "classes.txt").read_text().split()
    samples = [
        Sample(
            folder / "images" / "val" / f"{path.stem}.jpg",
            MaskFile(path, {i: i for i in range(11)}, 480, 360),
        )
        for path in sorted((folder / "masks" / "val").iterdir())[:3]
    ]
    draw_mosaic(tmp_path / "mosaic.png", samples, names)
    image = pixels(tmp_path / "mosaic.png")
    assert all(named(image, names.index(name)) for name in ("sky", "road", "car", "bicyclist"))
