"""Named corruptions of pictures, each at five strengths, to test how robust a network is."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from mobilevit.errors import UserError, unknown

STRENGTHS: dict[str, tuple[float, float, float, float, float]] = {
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "blur": (1, 2, 3, 4, 6),
    "jpeg": (25, 18, 15, 10, 7),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
}
"""What the strengths 1 to 5 are, for pictures whose shorter side is 224 pixels: the standard
deviation of Gaussian noise (black is 0, white is 1), the standard deviation of a Gaussian blur in
pixels, the quality of a JPEG, and what is added to the HSV value (black is 0, white is 1).

The numbers are those of ImageNet-C (Hendrycks and Dietterich 2019, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations").
"""

_REFERENCE_SIDE = 224


def corrupt(
    image: NDArray[np.float32], corruption: str, strength: int, name: str
) -> NDArray[np.float32]:
    """Corrupt a picture as a network gets it, after resize and crop.

    Noise and blur are those of a picture of 224 pixels that is scaled to this one's size: their
    standard deviations are multiplied by the shorter side / 224. JPEG works on blocks of 8 pixels,
    whatever the size, so it costs a small picture more.

    Args:
        image: (3, H, W) float32 RGB in [0, 1].
        corruption: a key of ``STRENGTHS``.
        strength: 1 to 5.
        name: of the picture. The noise depends on it and on the size of the picture alone, and is
            the same but for its scale at every strength, so every network sees the same pictures.

    Returns:
        (3, H, W) float32 in [0, 1], of 8 bit like every picture that is read.

    Raises:
        UserError: for another corruption or strength.
    """
    if corruption not in STRENGTHS:
        raise unknown("corruption", corruption, STRENGTHS)
    if strength not in range(1, 6):
        raise UserError(f"the strength of a corruption is {strength}; it must be 1, 2, 3, 4 or 5.")
    amount = STRENGTHS[corruption][strength - 1]
    scale = min(image.shape[1:]) / _REFERENCE_SIDE
    if corruption == "noise":
        return _eight_bit(image + _noise(image.shape, name) * np.float32(amount * scale))
    if corruption == "blur":
        return _with_pillow(image, lambda x: x.filter(ImageFilter.GaussianBlur(amount * scale)))
    if corruption == "jpeg":
        return _with_pillow(image, lambda x: _as_jpeg(x, int(amount)))
    return _eight_bit(_brighter(image, amount))


def _noise(shape: tuple[int, ...], name: str) -> NDArray[np.float32]:
    seed = zlib.crc32(name.encode(errors="surrogateescape"))
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _brighter(image: NDArray[np.float32], amount: float) -> NDArray[np.float32]:
    """Add to the value of HSV, which is the largest channel; hue and saturation stay."""
    value = image.max(axis=0)
    brighter = np.minimum(value + np.float32(amount), 1)
    black = value == 0
    scaled: NDArray[np.float32] = image * (brighter / np.where(black, 1, value)) + black * brighter
    return scaled


def _as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file)


def _with_pillow(
    image: NDArray[np.float32], change: Callable[[Image.Image], Image.Image]
) -> NDArray[np.float32]:
    pixels = np.rint(image * 255).astype(np.uint8).transpose(1, 2, 0)
    changed = np.asarray(change(Image.fromarray(np.ascontiguousarray(pixels))))
    scaled: NDArray[np.float32] = changed.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(scaled)


def _eight_bit(image: NDArray[np.float32]) -> NDArray[np.float32]:
    rounded: NDArray[np.float32] = np.rint(np.clip(image, 0, 1) * 255) / np.float32(255)
    return rounded.astype(np.float32, copy=False)
