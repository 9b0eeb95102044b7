"""From a segmenter's logits to the class of every pixel."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilevit.data.drawing import class_colour, draw_mask, with_legend
from mobilevit.data.masks import IGNORED
from mobilevit.deployment.contract import Contract
from mobilevit.errors import UserError
from mobilevit.files import replacing
from mobilevit.tasks.outputs import check_finite

_HELD = 1 << 22
"""Logits of one picture at its own size that are held at a time."""
_KINDS = {"u1": 0xFF, "<u2": 0xFFFF, "<u4": 0xFFFFFF}
"""The largest number of a pixel in 8 and in 16 bits, and in red, green and blue."""


@dataclass(frozen=True)
class FoundClass:
    """A class that pixels of a picture are of.

    Attributes:
        name: of the class.
        class_id: the user's own number of the class, else its index from 0.
        pixels: how many.
        share: of all pixels of the picture, from 0 to 1.
    """

    name: str
    class_id: int
    pixels: int
    share: float


@dataclass(frozen=True)
class Prediction:
    """The class of every pixel of a picture.

    Attributes:
        path: the picture.
        width: of the upright picture, in pixels.
        height: likewise.
        classes: what was found, the largest first.
        class_names: the name of each of the K classes.
        class_ids: the user's own number of each class.
        packed: the mask, compressed, for those of many pictures are kept at a time.
        top: classes that ``summary`` tells, at most; none: all.
    """

    path: str
    width: int
    height: int
    classes: tuple[FoundClass, ...]
    class_names: tuple[str, ...]
    class_ids: tuple[int, ...]
    packed: bytes
    top: int | None = None

    @classmethod
    def of(
        cls, path: str | Path, mask: NDArray[np.uint8], contract: Contract, top: int | None = None
    ) -> Prediction:
        """Make one of a mask (height, width) of indices of the contract's classes.

        Pixels whose class is not known are ``IGNORED``.
        """
        names = contract.class_names
        ids = contract.class_ids or tuple(range(len(names)))
        pixels = _count(mask)[: len(names)]
        found = tuple(
            FoundClass(names[i], ids[i], int(pixels[i]), float(pixels[i] / mask.size))
            for i in np.argsort(-pixels, kind="stable")
            if pixels[i]
        )
        height, width = mask.shape
        packed = zlib.compress(mask.tobytes(), level=1)
        return cls(str(path), width, height, found, names, ids, packed, top)

    @property
    def mask(self) -> NDArray[np.uint8]:
        """The index of every pixel's class, ``IGNORED`` where it is not known (height, width)."""
        indices = np.frombuffer(zlib.decompress(self.packed), np.uint8)
        return indices.reshape(self.height, self.width)

    @property
    def unsure(self) -> float:
        """The share of the pixels whose class is not known, from 0 to 1."""
        return 1 - sum(found.pixels for found in self.classes) / (self.width * self.height)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON, without the mask."""
        return {
            "path": self.path,
            "width": self.width,
            "height": self.height,
            "classes": [asdict(found) for found in self.classes],
            "unsure": self.unsure,
        }

    def summary(self) -> str:
        """Return the classes and their shares of the picture as one line for people."""
        if not self.classes:
            return "nothing sure enough"
        said = [f"{found.name} {_percent(found.share)}" for found in self.classes[: self.top]]
        return ", ".join(said + [f"not sure {_percent(self.unsure)}"] * (self.unsure > 0))

    def draw(self, picture: Image.Image) -> Image.Image:
        """Return a copy of the picture under the colours of its classes, named below it."""
        mask = self.mask
        shares = _count(mask) / mask.size
        words = [*self.class_names, *["?"] * (IGNORED - len(self.class_names)), "not sure"]
        there = np.argsort(-shares, kind="stable")[: np.count_nonzero(shares)].tolist()
        entries = [(index, f"{words[index]} {_percent(shares[index])}") for index in there]
        return with_legend(draw_mask(picture, mask), entries)

    def save_mask(self, path: str | Path) -> None:
        """Write the mask as a PNG whose numbers are the user's own of the classes.

        It has 8 bits and a palette of the colours that ``draw`` has. Where a class has a number
        above 255 it has 16 bits, and above 65,535 it is red, green and blue, which make the number
        R + 256 G + 65,536 B: all of them ``MaskFile`` reads. Pixels whose class is not known have
        the largest such number that is no class's: as a rule 255.

        Args:
            path: the file to write; another of this name is replaced.

        Raises:
            UserError: when a class's number is too large for that.
        """
        with replacing(Path(path)) as beside:
            _as_numbers(self.mask, self.class_ids).save(beside, format="PNG")


def decode(
    outputs: NDArray[np.floating[Any]],
    contract: Contract,
    paths: Sequence[str | Path],
    top: int | None = None,
    threshold: float | None = None,
) -> list[Prediction]:
    """Return a prediction for each picture, at the picture's own size.

    Args:
        outputs: logits (N, K, h, w), as the contract says.
        contract: of the network.
        paths: the N pictures, whose headers are read for their sizes.
        top: classes that a prediction's summary tells, at most; none: all.
        threshold: how probable a pixel's class is at least; pixels that are less sure are
            ``IGNORED``. None: every pixel is given its most probable class.

    Raises:
        UserError: when an output is NaN or infinite.
    """
    from mobilevit.data.decoding import Picture

    check_finite(outputs)
    predictions = []
    for path, logits in zip(paths, outputs, strict=True):
        with Picture(path) as picture:
            size = picture.height, picture.width
        mask = likeliest(logits, size, threshold)
        predictions.append(Prediction.of(path, mask, contract, top))
    return predictions


def resize_logits(
    logits: NDArray[np.floating[Any]], size: tuple[int, int], rows: slice | None = None
) -> NDArray[np.float32]:
    """Resize logits bilinearly; to a larger size as torch's ``interpolate`` does it by default.

    Args:
        logits: (K, h, w).
        size: height and width to make of them.
        rows: the part to compute, ``slice(top, bottom)`` below the height; none: all.

    Returns:
        (K, height, width), or (K, bottom - top, width).
    """
    height, width = size
    top, bottom = (rows.start, rows.stop) if rows else (0, height)
    scale = logits.shape[1] / height
    box = (0, top * scale, logits.shape[2], min(bottom * scale, logits.shape[1]))
    resized = np.empty((len(logits), bottom - top, width), np.float32)
    for one, into in zip(logits.astype(np.float32), resized, strict=True):
        into[:] = Image.fromarray(one).resize(
            (width, bottom - top), Image.Resampling.BILINEAR, box=box
        )
    return resized


def likeliest(
    logits: NDArray[np.floating[Any]], size: tuple[int, int], threshold: float | None = None
) -> NDArray[np.uint8]:
    """Return the class of every pixel of a picture.

    Args:
        logits: (K, h, w) of the whole picture.
        size: the picture's height and width.
        threshold: how probable the class is at least, from 0 to 1; none: that does not matter.

    Returns:
        (height, width); ``IGNORED`` where no class is that probable.
    """
    mask = np.empty(size, np.uint8)
    step = max(1, _HELD // (len(logits) * size[1]))
    for top in range(0, size[0], step):
        rows = slice(top, min(top + step, size[0]))
        mask[rows] = choose(resize_logits(logits, size, rows), threshold)
    return mask


def choose(logits: NDArray[np.float32], threshold: float | None = None) -> NDArray[np.uint8]:
    """Return the most probable class of every pixel (H, W) of logits (K, H, W).

    Args:
        logits: of any part of a picture.
        threshold: how probable it is at least, or else ``IGNORED``; none: that does not matter.
    """
    classes: NDArray[np.uint8] = logits.argmax(axis=0).astype(np.uint8)
    if threshold:
        probability = 1 / np.exp(logits - logits.max(axis=0)).sum(axis=0)
        classes[probability < threshold] = IGNORED
    return classes


def _as_numbers(mask: NDArray[np.uint8], class_ids: Sequence[int]) -> Image.Image:
    """Return a mask as a picture of the user's numbers, see ``Prediction.save_mask``."""
    highest = max(class_ids)
    kind = next((kind for kind in _KINDS if highest <= _KINDS[kind]), None)
    if kind is None or min(class_ids) < 0:
        raise UserError(
            f"a mask can hold the numbers 0 to {_KINDS['<u4']:,}, but those of the classes are "
            f"{min(class_ids):,} to {highest:,}. Give the classes other numbers."
        )
    unknown = next(n for n in range(_KINDS[kind], -1, -1) if n not in class_ids)
    table = np.full(IGNORED + 1, unknown, kind)
    table[: len(class_ids)] = class_ids
    numbers = table[mask]
    if kind == "<u4":
        return Image.fromarray(numbers.view(np.uint8).reshape(*mask.shape, 4)[..., :3])
    image = Image.fromarray(numbers)
    if kind == "u1":
        palette = np.full((256, 3), 200, np.uint8)
        for index, class_id in enumerate(class_ids):
            palette[class_id] = class_colour(index)
        image.putpalette(palette.tobytes())
    return image


def _count(mask: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return the pixels (256,) of each index."""
    return np.array(Image.fromarray(mask).histogram(), np.intp)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "<1%"
