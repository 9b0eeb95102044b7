from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mobilevit.data.drawing import class_colour
from mobilevit.data.masks import IGNORED, MaskFile
from mobilevit.deployment.contract import Contract
from mobilevit.errors import UserError
from mobilevit.tasks.segmentation import predictions
from mobilevit.tasks.segmentation.predictions import Prediction, decode, likeliest, resize_logits

NAMES = ("sky", "road", "car")
CONTRACT = Contract("segmentation", NAMES, (32, 32), None, output="pixel_logits")
OWN = Contract("segmentation", NAMES, (32, 32), None, output="pixel_logits", class_ids=(7, 24, 26))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "street.jpg"
    Image.new("RGB", (80, 60), (100, 100, 100)).save(path)
    return path


def halves() -> np.ndarray:
    """Logits (1, 3, 2, 4): the left half is road, the right half surely sky."""
    logits = np.zeros((1, 3, 2, 4), np.float32)
    logits[:, 1, :, :2] = 1
    logits[:, 0, :, 2:] = 9
    return logits


@pytest.mark.parametrize(
    ("small", "large"),
    [((23, 30), (360, 480)), ((1, 1), (7, 5)), ((32, 32), (33, 99)), ((5, 3), (5, 3))],
)
def test_logits_are_enlarged_as_torch_does_it(
    small: tuple[int, int], large: tuple[int, int]
) -> None:
    logits = np.random.default_rng(0).normal(size=(4, *small)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None], large, mode="bilinear", align_corners=False
    )[0].numpy()
    np.testing.assert_allclose(resize_logits(logits, large), theirs, atol=5e-5)


@pytest.mark.parametrize("size", [(50, 40), (7, 11)])
def test_parts_of_resized_logits_are_those_of_the_whole(size: tuple[int, int]) -> None:
    logits = np.random.default_rng(0).normal(size=(3, 16, 12)).astype(np.float32)
    whole = resize_logits(logits, size)
    for top in range(0, size[0], 3):
        rows = slice(top, min(top + 3, size[0]))
        np.testing.assert_allclose(resize_logits(logits, size, rows), whole[:, rows], atol=1e-5)


def test_the_class_of_a_pixel_is_the_likeliest(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(0).normal(size=(5, 9, 12)).astype(np.float32)
    expected = resize_logits(logits, (70, 90)).argmax(axis=0)
    np.testing.assert_array_equal(likeliest(logits, (70, 90)), expected)
    monkeypatch.setattr(predictions, "_HELD", 5 * 90 * 4)
    np.testing.assert_array_equal(likeliest(logits, (70, 90)), expected)


def test_pixels_that_are_not_sure_are_ignored() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 20, 30)).astype(np.float32)
    probabilities = torch.from_numpy(logits).softmax(0).max(0)
    mask = likeliest(logits, (20, 30), 0.4)
    unsure = (probabilities.values < 0.4).numpy()
    assert 0 < unsure.sum() < unsure.size
    np.testing.assert_array_equal(mask == IGNORED, unsure)
    np.testing.assert_array_equal(mask[~unsure], probabilities.indices.numpy()[~unsure])


def test_masks_come_at_the_pictures_size_with_the_users_numbers(picture: Path) -> None:
    (found,) = decode(halves(), OWN, [picture])
    assert (found.path, found.width, found.height) == (str(picture), 80, 60)
    assert found.mask.shape == (60, 80)
    assert found.mask.dtype == np.uint8
    assert (found.mask[:, :30] == 1).all()
    assert (found.mask[:, 50:] == 0).all()
    said = json.loads(json.dumps(found.to_dict()))
    assert [(c["name"], c["class_id"]) for c in said["classes"]] == [("sky", 7), ("road", 24)]
    assert sum(c["pixels"] for c in said["classes"]) == 80 * 60
    assert sum(c["share"] for c in said["classes"]) == pytest.approx(1)


def test_a_turned_photo_is_measured_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (80, 60))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    (found,) = decode(halves(), CONTRACT, [tmp_path / "turned.jpg"])
    assert found.mask.shape == (80, 60)


def test_a_line_tells_the_largest_classes_first() -> None:
    mask = np.repeat(np.array([1, 0, 2], np.uint8), [700, 297, 3]).reshape(10, 100)
    assert Prediction.of("a.jpg", mask, OWN).summary() == "road 70%, sky 30%, car <1%"
    cut = Prediction.of("a.jpg", mask, OWN, top=2)
    assert cut.summary() == "road 70%, sky 30%"
    assert len(cut.to_dict()["classes"]) == 3
    assert cut.to_dict()["unsure"] == 0


def test_the_share_that_is_not_sure_is_told() -> None:
    mask = np.repeat(np.array([1, 0, IGNORED], np.uint8), [500, 250, 250]).reshape(10, 100)
    found = Prediction.of("a.jpg", mask, OWN, top=1)
    assert found.summary() == "road 50%, not sure 25%"
    assert found.to_dict()["unsure"] == found.unsure == 0.25


def test_nothing_sure_is_said(picture: Path) -> None:
    (found,) = decode(np.zeros((1, 3, 2, 2), np.float32), CONTRACT, [picture], None, 0.5)
    assert found.summary() == "nothing sure enough"
    assert (found.to_dict()["classes"], found.to_dict()["unsure"]) == ([], 1.0)
    assert (found.mask == IGNORED).all()


def test_logits_that_are_no_numbers_are_refused(picture: Path) -> None:
    with pytest.raises(UserError, match="NaN or infinite"):
        decode(np.full_like(halves(), np.inf), CONTRACT, [picture])


@pytest.mark.parametrize(
    ("ids", "mode", "unknown"),
    [
        ((), "P", 255),
        ((7, 24, 255), "P", 254),
        ((0, 256, 1000), "I;16", 65535),
        ((0, 70000, 0xFFFFFF), "RGB", 0xFFFFFE),
    ],
)
def test_a_saved_mask_is_read_as_it_was(
    tmp_path: Path, ids: tuple[int, ...], mode: str, unknown: int
) -> None:
    mask = np.random.default_rng(0).choice([0, 1, 2, IGNORED], (6, 9)).astype(np.uint8)
    contract = Contract("segmentation", NAMES, (32, 32), None, class_ids=ids)
    Prediction.of("a.jpg", mask, contract).save_mask(tmp_path / "mask.png")
    numbers = ids or (0, 1, 2)
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode in (mode, {"I;16": "I"}.get(mode, mode))
    indices = {number: index for index, number in enumerate(numbers)}
    read = MaskFile(tmp_path / "mask.png", indices, 9, 6).read()
    np.testing.assert_array_equal(read, mask)
    only = MaskFile(tmp_path / "mask.png", {unknown: 0}, 9, 6).read()
    np.testing.assert_array_equal(only == 0, mask == IGNORED)


def test_a_saved_mask_looks_as_it_is_drawn(tmp_path: Path) -> None:
    mask = np.array([[1, IGNORED]], np.uint8)
    Prediction.of("a.jpg", mask, OWN).save_mask(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert image.convert("RGB").getpixel((0, 0)) == class_colour(1)


@pytest.mark.parametrize("ids", [(0, 1, 1 << 24), (-1, 0, 1)])
def test_numbers_that_no_mask_can_hold_are_refused(tmp_path: Path, ids: tuple[int, ...]) -> None:
    contract = Contract("segmentation", NAMES, (32, 32), None, class_ids=ids)
    prediction = Prediction.of("a.jpg", np.zeros((2, 2), np.uint8), contract)
    with pytest.raises(UserError, match="numbers 0 to 16,777,215"):
        prediction.save_mask(tmp_path / "mask.png")
    assert not list(tmp_path.iterdir())


def test_answers_are_drawn_over_the_picture_and_named_below(picture: Path) -> None:
    logits = halves()
    logits[..., 0] = 0
    (found,) = decode(logits, CONTRACT, [picture], None, 0.5)
    with Image.open(picture) as image:
        before = image.convert("RGB")
        drawn = found.draw(before)
    assert drawn.width >= 80
    assert drawn.height > 60
    half = [(a + b) // 2 for a, b in zip(before.getpixel((70, 30)), class_colour(0), strict=True)]
    assert drawn.getpixel((70, 30)) == pytest.approx(half, abs=1)
    stripes = {drawn.getpixel((x, 30)) for x in range(10)}
    assert len(stripes) == 2
    assert all(max(colour) - min(colour) < 3 for colour in stripes)
    below = np.asarray(drawn)[60:]
    assert (below == class_colour(0)).all(axis=2).any()
    assert not (below == class_colour(2)).all(axis=2).any()


def test_no_torch_is_needed() -> None:
    code = (
        "import sys, mobilevit.tasks.segmentation, mobilevit.tasks.segmentation.tiling;"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
