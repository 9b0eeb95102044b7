from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobilevit.data.decoding import PictureError, read_picture
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.preprocess import batches, load_batch, preprocess
from mobilevit.errors import UserError

CONTRACT = Contract("classification", ("a", "b"), size=(64, 64), resize=72)


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def resize_then_crop(picture: Image.Image, resize: int, size: int, kernel) -> np.ndarray:
    """The long way round, for pictures whose sides come out even."""
    factor = resize / min(picture.size)
    width, height = (round(side * factor) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    crop = picture.resize((width, height), kernel).crop((left, top, left + size, top + size))
    return np.asarray(crop, np.float32).transpose(2, 0, 1) / 255


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(144, 288), (360, 216), (36, 36), (72, 100)])
def test_it_is_a_resize_of_the_shorter_side_and_a_centre_crop(shape, kernel):
    picture = noise(*shape)
    x = preprocess(picture, replace(CONTRACT, interpolation=kernel))
    expected = resize_then_crop(picture, 72, 64, Image.Resampling[kernel.upper()])
    assert x.shape == (3, 64, 64)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    np.testing.assert_allclose(x, expected, atol=1.01 / 255)


def test_an_identity_is_exact():
    picture = noise(64, 64)
    x = preprocess(picture, replace(CONTRACT, resize=64))
    np.testing.assert_array_equal((x * 255).round().astype(np.uint8).transpose(1, 2, 0), picture)


def test_channels_are_red_green_blue_between_0_and_1():
    x = preprocess(Image.new("RGB", (100, 80), (255, 51, 0)), CONTRACT)
    np.testing.assert_allclose(x[:, 10, 10], [1.0, 0.2, 0.0], atol=1e-7)


def test_height_and_width_are_not_confused():
    assert preprocess(noise(90, 80), replace(CONTRACT, size=(32, 64))).shape == (3, 32, 64)


@settings(max_examples=50, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size=st.integers(1, 80),
    other=st.integers(1, 80),
    resize=st.integers(1, 100),
)
def test_no_picture_is_padded(width, height, size, other, resize):
    """Whatever the sizes, a white picture stays white to the edges, and a gradient is centred."""
    contract = replace(CONTRACT, size=(size, other), resize=resize)
    x = preprocess(Image.new("RGB", (width, height), "white"), contract)
    assert x.shape == (3, size, other)
    assert (x == 1).all()


def test_an_extreme_picture_is_resized_only_where_it_is_looked_at():
    x = preprocess(Image.new("RGB", (1, 60_000), "white"), CONTRACT)  # 4,320,000 pixels high else
    assert (x == 1).all()


def test_the_centre_stays_in_the_centre():
    picture = Image.new("RGB", (301, 203))
    picture.putpixel((150, 101), (255, 255, 255))
    x = preprocess(picture, CONTRACT)[0]
    np.testing.assert_allclose(x, x[::-1, ::-1], atol=1.01 / 255)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="RGB"):
        preprocess(Image.new("L", (80, 80)), CONTRACT)
    with pytest.raises(UserError, match="Did you mean 'bicubic'"):
        preprocess(noise(80, 80), replace(CONTRACT, interpolation="bicubik"))


def test_batches_keep_the_order_and_name_what_cannot_be_read(photos: Path, tmp_path: Path):
    paths = sorted(photos.glob("val/*/*.jpg"))[:11]
    paths.insert(4, tmp_path / "missing.jpg")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    paths.append(broken)
    found = list(batches(paths, CONTRACT, batch_size=3))
    positions = [position for batch in found for position in batch.positions]
    assert positions == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert [len(batch.images) for batch in found] == [3, 2, 3, 3, 0]
    for batch in found:
        for image, position in zip(batch.images, batch.positions, strict=True):
            np.testing.assert_array_equal(
                image, preprocess(read_picture(paths[position]), CONTRACT)
            )
    unreadable = {path: why for batch in found for path, why in batch.unreadable.items()}
    assert list(unreadable) == [paths[4], broken]
    assert "not a picture" in unreadable[broken]


def test_batches_may_be_left_early_and_may_be_empty(photos: Path):
    paths = sorted(photos.glob("val/*/*.jpg"))
    assert len(next(batches(paths, CONTRACT, batch_size=2)).images) == 2
    assert list(batches([], CONTRACT)) == []


def test_load_batch(photos: Path):
    paths = sorted(photos.glob("val/*/*.jpg"))[:3]
    assert load_batch(paths, CONTRACT).shape == (3, 3, 64, 64)
    with pytest.raises(PictureError, match=r"none\.jpg"):
        load_batch([photos / "none.jpg"], CONTRACT)
