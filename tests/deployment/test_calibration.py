from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevit.deployment.calibration import FEWEST, MOST, load_calibration
from mobilevit.deployment.preprocess import load_batch
from mobilevit.errors import UserError


def _draw(folder: Path, count: int, flat: int = 0) -> list[Path]:
    random = np.random.default_rng(0)
    paths = []
    for i in range(count):
        pixels = (
            np.full((40, 60, 3), (200, 30, 0)) if i < flat else random.integers(0, 256, (40, 60, 3))
        )
        paths.append(folder / f"{i:03}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
    return paths


def test_the_pictures_are_as_the_network_sees_them(contract, tmp_path):
    paths = _draw(tmp_path, FEWEST)
    np.testing.assert_array_equal(load_calibration(paths, contract), load_batch(paths, contract))


def test_no_more_are_read_than_needed_and_from_everywhere(contract, tmp_path):
    paths = _draw(tmp_path, MOST // 4) * 10
    images = load_calibration(paths, contract)
    assert len(images) == MOST
    np.testing.assert_array_equal(images[-1], load_batch([paths[int(127 * 2.5)]], contract)[0])


def test_too_few_are_refused(contract, tmp_path):
    paths = _draw(tmp_path, FEWEST)
    paths[3].write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"at least 16; 15 of the 16 here can be read.*--calibrate"):
        load_calibration(paths, contract)


def test_pictures_of_one_colour_are_refused_and_named(contract, tmp_path):
    assert len(load_calibration(_draw(tmp_path, 20, flat=10), contract)) == 20
    with pytest.raises(UserError, match=r"11 of the 20 pictures.* of one colour, as .*000\.png"):
        load_calibration(_draw(tmp_path, 20, flat=11), contract)
    paths = _draw(tmp_path, 30, flat=20)
    paths[0].write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"19 of the 29 pictures.* of one colour, as .*001\.png"):
        load_calibration(paths, contract)
