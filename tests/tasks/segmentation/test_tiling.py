from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mobilevit.data.masks import IGNORED
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.preprocess import preprocess
from mobilevit.errors import UserError
from mobilevit.tasks.segmentation.predictions import likeliest
from mobilevit.tasks.segmentation.tiling import segment

CONTRACT = Contract("segmentation", tuple("abcd"), (16, 24), None, output="pixel_logits")
SIDES = st.integers(1, 90)
OVERLAPS = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 0.9])


class ByColour:
    """A network that tells the class of a pixel from its red, of four classes."""

    contract = CONTRACT

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        assert images.shape[1:] == (3, *self.contract.size)
        red = np.rint(images[:, 0] * 255).astype(int)
        return np.stack([red // 64 == k for k in range(4)], axis=1).astype(np.float32)


class BySurroundings(ByColour):
    """A network whose logits, on a coarser map, hang on all of its input."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.batches.append(len(images))
        coarse = images.reshape(len(images), 3, 4, 4, 4, 6).mean(axis=(3, 5))
        red, green, blue = coarse.transpose(1, 0, 2, 3)
        mean = coarse.mean(axis=(1, 2, 3))[:, None, None] + 0 * red
        return np.stack([red, green, blue, mean], axis=1)


class Constant(ByColour):
    """A network that says the same of every pixel."""

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = np.array([0.3, 0.1, 0.9, 0.2], np.float32)[:, None, None]
        return np.tile(logits, (len(images), 1, 2, 3))


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def predictor(network: type[ByColour]) -> Any:
    return network()


@settings(max_examples=60, deadline=None)
@given(st.integers(16, 90), st.integers(24, 90), OVERLAPS, st.integers(1, 5))
def test_every_pixel_is_given_its_own_class(
    height: int, width: int, overlap: float, batch_size: int
) -> None:
    picture = noise(height, width)
    found = segment(predictor(ByColour), picture, batch_size, overlap=overlap)
    np.testing.assert_array_equal(found, np.asarray(picture)[..., 0] // 64)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, OVERLAPS, st.sampled_from([0.3, 0.5, 1.0, 2.0]))
def test_where_all_tiles_agree_there_are_no_seams(
    height: int, width: int, overlap: float, scale: float
) -> None:
    picture = noise(height, width)
    probability = np.exp(0.9) / np.exp([0.3, 0.1, 0.9, 0.2]).sum()
    for threshold, expected in ((probability - 0.001, 2), (probability + 0.001, IGNORED)):
        network = predictor(Constant)
        found = segment(network, picture, threshold=threshold, scale=scale, overlap=overlap)
        np.testing.assert_array_equal(found, np.full((height, width), expected))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 32), st.integers(1, 48), st.sampled_from([None, 0.26]))
def test_a_picture_no_larger_than_a_tile_is_seen_as_ever(
    height: int, width: int, threshold: float | None
) -> None:
    picture = noise(height, width)
    network = predictor(BySurroundings)
    (logits,) = network.run(preprocess(picture, CONTRACT)[None])
    expected = likeliest(logits, (height, width), threshold)
    found = segment(network, picture, threshold=threshold, scale=0.5)
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=30, deadline=None)
@given(SIDES, SIDES, OVERLAPS, st.integers(1, 7))
def test_how_many_tiles_are_run_at_a_time_changes_nothing(
    height: int, width: int, overlap: float, batch_size: int
) -> None:
    picture = noise(height, width)
    one, other = predictor(BySurroundings), predictor(BySurroundings)
    np.testing.assert_array_equal(
        segment(one, picture, batch_size, overlap=overlap),
        segment(other, picture, 1, overlap=overlap),
    )
    assert max(one.batches) <= batch_size
    assert sum(one.batches) == sum(other.batches) == len(other.batches)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 6), st.integers(0, 4))
def test_the_order_of_the_tiles_does_not_matter(down: int, across: int) -> None:
    """The pictures are such that tiles lie at the same places from either end."""
    picture = noise(16 + 12 * down, 24 + 18 * across)
    network = predictor(BySurroundings)
    found = segment(network, picture, overlap=0.25)
    turned = segment(network, picture.transpose(Image.Transpose.ROTATE_180), overlap=0.25)
    assert (found == turned[::-1, ::-1]).mean() > 0.99  # rounding decides on a tie


def test_tiles_are_averaged_with_the_nearer_ones_first() -> None:
    """Two tiles disagree, each sure of a class of its own: the border lies midway."""

    class Turn(ByColour):
        def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            logits = np.zeros((len(images), 4, 16, 24), np.float32)
            for i in range(len(images)):
                logits[i, i] = 1
            return logits

    found = segment(predictor(Turn), noise(16, 36), batch_size=2, overlap=0.5)
    np.testing.assert_array_equal(found, np.tile(np.repeat([0, 1], 18), (16, 1)))


def test_a_scale_changes_how_much_of_the_picture_a_tile_is() -> None:
    for scale, tiles in ((0.5, 1), (1.0, 4), (2.0, 16)):
        network = predictor(BySurroundings)
        segment(network, noise(32, 48), scale=scale, overlap=0.0)
        assert sum(network.batches) == tiles


@pytest.mark.parametrize(
    "wrong", [{"scale": 0.0}, {"scale": float("nan")}, {"overlap": 1.0}, {"overlap": -0.1}]
)
def test_tiles_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=f"{name} is"):
        segment(predictor(ByColour), noise(20, 30), **wrong)


def test_logits_that_are_no_numbers_are_refused() -> None:
    class Broken(ByColour):
        def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.full((len(images), 4, 2, 2), np.nan, np.float32)

    with pytest.raises(UserError, match="NaN or infinite"):
        segment(predictor(Broken), noise(40, 40))
