"""From a picture to the array a network takes, exactly as the contract says."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilevit.data.decoding import PictureError, read_picture
from mobilevit.deployment.contract import Contract
from mobilevit.errors import unknown

KERNELS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
"""Pillow's kernels by the names that a contract knows."""


@dataclass(frozen=True)
class Batch:
    """Some of a list of pictures, ready for a network.

    Attributes:
        images: (N, 3, H, W) float32 in [0, 1]; N is 0 where none of them could be read.
        positions: for each of the N pictures its place in the list.
        unreadable: the pictures left out, and why.
    """

    images: NDArray[np.float32]
    positions: list[int]
    unreadable: dict[Path, str]


def preprocess(picture: Image.Image, contract: Contract) -> NDArray[np.float32]:
    """Resize and crop one picture.

    Where the contract has no ``resize``, the whole picture is stretched to its ``size``. Otherwise
    the picture is scaled by one factor, the one that makes its shorter side ``contract.resize``
    pixels; a larger factor where a crop of ``contract.size`` would not fit otherwise, so that
    nothing is ever padded. The crop is the centre of the scaled picture. No side and no offset is
    rounded on the way: the crop is a rectangle in the coordinates of the picture, and only what
    lies in it is resampled (antialiased, by Pillow, to 8 bit). So a picture of 10,000 by 10 pixels
    costs no more than any other.

    Args:
        picture: upright RGB, any size.
        contract: what the network expects.

    Returns:
        (3, H, W) float32 in [0, 1].

    Raises:
        ValueError: when the picture is not RGB.
        UserError: when the contract names a kernel that is not known.
    """
    if picture.mode != "RGB":
        raise ValueError(f"the picture must be RGB, it is {picture.mode}")
    if contract.interpolation not in KERNELS:
        raise unknown("interpolation", contract.interpolation, KERNELS)
    height, width = contract.size
    box = None
    if contract.resize is not None:
        shorter = contract.resize / min(picture.size)
        scale = max(shorter, width / picture.width, height / picture.height)
        left, right = _centre(picture.width, width / scale)
        top, bottom = _centre(picture.height, height / scale)
        box = (left, top, right, bottom)
    crop = picture.resize((width, height), KERNELS[contract.interpolation], box=box)
    channels_first = np.ascontiguousarray(np.asarray(crop).transpose(2, 0, 1))
    scaled: NDArray[np.float32] = channels_first.astype(np.float32) / np.float32(255)
    return scaled


def load_batch(paths: Sequence[str | Path], contract: Contract) -> NDArray[np.float32]:
    """Read pictures into one (N, 3, H, W) float32 array in [0, 1].

    Raises:
        PictureError: for the first that cannot be read.
    """
    return np.stack([preprocess(read_picture(path), contract) for path in paths])


def batches(
    paths: Sequence[Path], contract: Contract, batch_size: int = 16, workers: int | None = None
) -> Iterator[Batch]:
    """Read pictures in threads, one batch ahead of whoever takes them.

    Args:
        paths: the pictures; those that cannot be read are reported in their batch and left out.
        contract: what the network expects.
        batch_size: pictures read for one batch, 1 or more.
        workers: threads; by default one for each core, 8 at the most.
    """
    ahead: deque[tuple[int, list[Future[NDArray[np.float32]]]]] = deque()

    def first() -> Batch:
        start, futures = ahead.popleft()
        return _collect(paths[start : start + len(futures)], start, futures, contract)

    with ThreadPoolExecutor(workers or min(os.cpu_count() or 1, 8)) as pool:
        for start in range(0, len(paths), batch_size):
            chosen = paths[start : start + batch_size]
            ahead.append((start, [pool.submit(_load, path, contract) for path in chosen]))
            if len(ahead) > 1:
                yield first()
        while ahead:
            yield first()


def _load(path: Path, contract: Contract) -> NDArray[np.float32]:
    return preprocess(read_picture(path), contract)


def _collect(
    paths: Sequence[Path],
    start: int,
    futures: list[Future[NDArray[np.float32]]],
    contract: Contract,
) -> Batch:
    images: list[NDArray[np.float32]] = []
    positions: list[int] = []
    unreadable: dict[Path, str] = {}
    for position, (path, future) in enumerate(zip(paths, futures, strict=True), start):
        try:
            images.append(future.result())
            positions.append(position)
        except PictureError as error:
            unreadable[path] = str(error).removeprefix(f"{path}: ")
    empty = np.zeros((0, 3, *contract.size), np.float32)
    return Batch(np.stack(images) if images else empty, positions, unreadable)


def _centre(length: int, part: float) -> tuple[float, float]:
    """Return where the middle ``part`` of an interval begins and ends."""
    start = max((length - part) / 2, 0.0)
    return start, min(start + part, float(length))
