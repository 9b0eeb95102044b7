from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mobilevit.data.corruptions import STRENGTHS, corrupt
from mobilevit.errors import UserError

ALL = [(name, strength) for name in STRENGTHS for strength in range(1, 6)]


def picture(height: int = 64, width: int = 64) -> np.ndarray:
    """A coloured disc on a gradient, (3, H, W)."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    ImageDraw.Draw(image).ellipse((width / 4, height / 4, width * 3 / 4, height * 3 / 4), "#b4501e")
    return np.asarray(image).transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def grey(side: int, value: float = 0.5) -> np.ndarray:
    return np.full((3, side, side), value, np.float32)


@pytest.mark.parametrize(("name", "strength"), ALL)
def test_a_corrupted_picture_is_a_picture_of_8_bit(name, strength):
    image = picture(48, 80)
    before = image.copy()
    found = corrupt(image, name, strength, "a.jpg")
    assert np.array_equal(image, before)
    assert (found.shape, found.dtype) == (image.shape, np.float32)
    assert found.min() >= 0
    assert found.max() <= 1
    assert np.array_equal(found, np.rint(found * 255).astype(np.float32) / np.float32(255))
    assert not np.array_equal(found, image)


@pytest.mark.parametrize("name", STRENGTHS)
def test_more_strength_is_farther_from_the_picture(name):
    image = picture()
    errors = [np.square(corrupt(image, name, i, "a.jpg") - image).mean() for i in range(1, 6)]
    assert errors == sorted(errors)
    assert errors[4] > 1.5 * errors[0]


@pytest.mark.parametrize(("name", "strength"), ALL)
def test_the_same_picture_is_corrupted_the_same_way_again(name, strength):
    image = picture()
    np.random.seed(1)
    one = corrupt(image, name, strength, "dog/1.jpg")
    np.random.seed(2)
    assert np.array_equal(corrupt(image, name, strength, "dog/1.jpg"), one)
    same = np.array_equal(corrupt(image, name, strength, "dog/2.jpg"), one)
    assert same == (name != "noise")


def test_noise_has_the_deviation_of_the_table_scaled_with_the_side():
    for side in (112, 224):
        noise = corrupt(grey(side), "noise", 1, "a.jpg") - grey(side)
        assert noise.std() == pytest.approx(0.08 * side / 224, rel=0.03)
        assert abs(noise.mean()) < 0.003


def test_noise_is_the_same_pattern_at_every_strength():
    weak, strong = (corrupt(grey(64), "noise", i, "a.jpg") - grey(64) for i in (1, 3))
    assert np.corrcoef(weak.ravel(), strong.ravel())[0, 1] > 0.99


def test_blur_spreads_as_far_as_the_table_says_for_the_size():
    for side in (112, 224):
        image = np.zeros((3, side, side), np.float32)
        image[:, :, side // 2 :] = 1
        edge = corrupt(image, "blur", 4, "a.jpg")[0, side // 2].astype(np.float64)
        spread = np.diff(edge)
        places = np.arange(len(spread))
        centre = (spread * places).sum()
        deviation = np.sqrt((spread * (places - centre) ** 2).sum())
        assert deviation == pytest.approx(4 * side / 224, rel=0.15)


def test_brightness_keeps_hue_and_saturation():
    image = np.array([0.4, 0.2, 0.1], np.float32).reshape(3, 1, 1).repeat(8, 1).repeat(8, 2)
    found = corrupt(image, "brightness", 2, "a.jpg")[:, 0, 0]
    assert found == pytest.approx([0.6, 0.3, 0.15], abs=1 / 255)
    assert corrupt(grey(8, 0), "brightness", 5, "a.jpg") == pytest.approx(0.5, abs=1 / 255)
    assert corrupt(grey(8, 0.9), "brightness", 5, "a.jpg") == pytest.approx(1)


def test_jpeg_is_what_pillow_writes_at_the_quality_of_the_table(tmp_path):
    image = picture()
    pixels = np.rint(image * 255).astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=7)
    expected = np.asarray(Image.open(tmp_path / "a.jpg")).transpose(2, 0, 1)
    assert np.array_equal(np.rint(corrupt(image, "jpeg", 5, "a.jpg") * 255), expected)


def test_what_it_refuses():
    with pytest.raises(UserError, match=r"unknown corruption 'nois'\. Did you mean 'noise'"):
        corrupt(picture(), "nois", 1, "a.jpg")
    for strength in (0, 6, -1):
        with pytest.raises(UserError, match=f"is {strength}; it must be"):
            corrupt(picture(), "blur", strength, "a.jpg")


def test_it_needs_no_torch():
    code = "import sys, mobilevit.data.corruptions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
