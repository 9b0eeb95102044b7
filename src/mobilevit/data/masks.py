"""The class of every pixel of a picture: what readers make, and what everything else takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilevit.data.decoding import PictureError

IGNORED = 255
"""What a pixel is given that is neither learnt nor measured."""

LARGEST_NUMBER = 2**24 - 1
"""That a number of a mask may be: red, green and blue are 255."""

_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG")
_MOST_UNLISTED = 20
_LARGEST_TABLE = 65_535
_MODES = ("1", "L", "LA", "P", "I", "I;16", "I;16B", "RGB", "RGBA")

Polygon = bytes
"""An outline, as ``outline`` makes it."""


def outline(points: Sequence[float] | Sequence[tuple[float, float]]) -> Polygon:
    """Return an outline as compact as a data set of many needs it: float32 x, y, x, y ….

    Args:
        points: x, y, x, y … or pairs of them, in pixels.
    """
    return np.asarray(points, np.float32).tobytes()


class Pixels(NamedTuple):
    """How many pixels of a mask are what.

    Attributes:
        classes: pixels by the index of their class, ``IGNORED`` among them.
        unlisted: pixels by a number that is no class, nor sure to be ignored; the most frequent.
    """

    classes: dict[int, int]
    unlisted: dict[int, int]


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A picture of numbers: a number for every pixel of another picture, each of a class.

    Attributes:
        path: a picture of one channel, whose numbers count as they are stored (a palette is only
            for the eye), or of red, green and blue, which make the number R + 256 G + 65,536 B.
        indices: for a number the index of its class, or ``IGNORED``; a number that is not in it
            is ignored too, but a mistake.
        width: of the mask, in pixels.
        height: likewise.
        spare: numbers that are ignored, but may be so by mistake.
        coloured: whether its numbers are best told as colours.
    """

    path: Path
    indices: Mapping[int, int]
    width: int
    height: int
    spare: frozenset[int] = frozenset()
    coloured: bool = False

    def read(self) -> NDArray[np.uint8]:
        """Return the index of every pixel's class, or ``IGNORED`` (height, width).

        Raises:
            PictureError: when the file cannot be read.
        """
        numbers = read_numbers(self.path)
        classes: NDArray[np.uint8]
        if max(self.indices, default=0) > _LARGEST_TABLE:
            known = np.array(sorted(self.indices), np.uint32)
            indices = np.array([self.indices[n] for n in known.tolist()], np.uint8)
            places = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
            classes = np.where(known[places] == numbers, indices[places], np.uint8(IGNORED))
            return classes
        table = np.full(max(self.indices, default=-1) + 2, IGNORED, np.uint8)
        for number, index in self.indices.items():
            table[number] = index
        classes = table[np.minimum(numbers, len(table) - 1)]
        return classes

    def count(self) -> Pixels:
        """Return how many of its pixels are what.

        Raises:
            PictureError: when the file cannot be read.
        """
        values, counts = np.unique(read_numbers(self.path), return_counts=True)
        classes: Counter[int] = Counter()
        unlisted: Counter[int] = Counter()
        for number, count in zip(values.tolist(), counts.tolist(), strict=True):
            if number not in self.indices or number in self.spare:
                unlisted[number] = count
            classes[self.indices.get(number, IGNORED)] += count
        return Pixels(dict(classes), dict(unlisted.most_common(_MOST_UNLISTED)))

    def classes(self) -> list[int]:
        """Return the indices that its pixels may have."""
        return sorted(set(self.indices.values()) - {IGNORED})

    def relabelled(self, indices: Sequence[int]) -> MaskFile:
        """Return the mask with ``indices[i]`` in place of the class ``i``."""
        changed = {n: i if i == IGNORED else indices[i] for n, i in self.indices.items()}
        return replace(self, indices=changed)

    def __str__(self) -> str:
        return f"{self.path.name} {sorted(self.indices.items())}"


@dataclass(frozen=True, slots=True)
class MaskShapes:
    """Outlines of what is on a picture, as COCO's polygons are.

    Attributes:
        shapes: outlines, see ``outline``, and the index of what is inside, or ``IGNORED``; a
            later one lies over those before it.
        width: of the picture, in pixels.
        height: likewise.
        background: the index of all that is in no shape, or ``IGNORED``.
    """

    shapes: tuple[tuple[Polygon, int], ...]
    width: int
    height: int
    background: int = IGNORED

    def read(self) -> NDArray[np.uint8]:
        """Return the index of every pixel's class, or ``IGNORED`` (height, width).

        A pixel is in a shape where its centre is.
        """
        mask = np.full((self.height, self.width), self.background, np.uint8)
        for polygon, index in self.shapes:
            _fill(mask, polygon, index)
        return mask

    def count(self) -> Pixels:
        """Return how many of its pixels are what."""
        values, counts = np.unique(self.read(), return_counts=True)
        return Pixels(dict(zip(values.tolist(), counts.tolist(), strict=True)), {})

    def classes(self) -> list[int]:
        """Return the indices that its pixels may have."""
        return sorted({self.background, *(index for _, index in self.shapes)} - {IGNORED})

    def relabelled(self, indices: Sequence[int]) -> MaskShapes:
        """Return the mask with ``indices[i]`` in place of the class ``i``."""
        table = {i: IGNORED if i == IGNORED else indices[i] for i in (*self.classes(), IGNORED)}
        shapes = tuple((polygon, table[index]) for polygon, index in self.shapes)
        return replace(self, shapes=shapes, background=table[self.background])


Mask = MaskFile | MaskShapes
"""What is known of the pixels of a picture."""


class Header(NamedTuple):
    """What a mask's file tells before its pixels are read.

    Attributes:
        width: in pixels.
        height: in pixels.
        format: Pillow's name of the file's format.
        mode: Pillow's name of its pixels.
        palette: its red, green, blue, red …; empty where it has none.
    """

    width: int
    height: int
    format: str
    mode: str
    palette: tuple[int, ...]

    @property
    def coloured(self) -> bool:
        """Whether each pixel has a red, a green and a blue."""
        return self.mode in ("RGB", "RGBA")


def number_of(colour: Sequence[int]) -> int:
    """Return the number that red, green and blue make, see ``MaskFile``."""
    red, green, blue = colour
    return red + 256 * green + 65536 * blue


def colour_of(number: int) -> str:
    """Return the red, green and blue that make a number, in words."""
    return f"{number % 256} {number // 256 % 256} {number // 65536}"


def read_header(path: Path) -> Header:
    """Read what a mask's file tells before its pixels.

    Raises:
        PictureError: when it cannot be read, or its pixels are no numbers.
    """
    with _opened(path) as image:
        palette = image.getpalette() if image.mode == "P" else None
        return Header(*image.size, image.format or "", image.mode, tuple(palette or ()))


def read_numbers(path: Path) -> NDArray[np.uint32]:
    """Return the number of every pixel of a mask (H, W), see ``MaskFile``.

    Transparency is passed over.

    Raises:
        PictureError: when it cannot be read, or its pixels are no numbers.
    """
    with _opened(path) as image:
        pixels = np.asarray(image).astype(np.uint32)
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] == 2:
        return pixels[..., 0]
    numbers: NDArray[np.uint32] = pixels[..., :3] @ np.array([1, 256, 65536], np.uint32)
    return numbers


def _fill(mask: NDArray[np.uint8], polygon: Polygon, index: int) -> None:
    """Give an index to the pixels with their centre in a polygon, by the even-odd rule.

    Each edge toggles, in the rows whose centres it crosses, all pixels to its right.
    """
    points = np.frombuffer(polygon, np.float32).reshape(-1, 2).astype(np.float64) - 0.5
    ends = np.roll(points, -1, axis=0)
    downward = points[:, 1:] <= ends[:, 1:]
    upper, lower = np.where(downward, points, ends), np.where(downward, ends, points)
    first, last = (np.clip(np.ceil(y[:, 1]).astype(int), 0, len(mask)) for y in (upper, lower))
    edges = np.repeat(np.arange(len(points)), last - first)
    if not edges.size:
        return
    rows = np.arange(len(edges)) - np.repeat(np.cumsum(last - first) - last, last - first)
    x, y = upper[edges].T
    slopes = (lower[edges, 0] - x) / (lower[edges, 1] - y)
    columns = np.clip(np.ceil(x + (rows - y) * slopes).astype(int), 0, mask.shape[1])
    top, left, right = rows.min(), columns.min(), columns.max()
    inside = np.zeros((rows.max() + 1 - top, right + 1 - left), bool)
    np.logical_xor.at(inside, (rows - top, columns - left), True)
    np.logical_xor.accumulate(inside, axis=1, out=inside)
    mask[top : rows.max() + 1, left:right][inside[:, :-1]] = index


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a mask.

    Raises:
        PictureError: when it cannot be read, here or inside, or its pixels are no numbers.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.mode not in _MODES:
                raise PictureError(
                    f"{path}: the mask is of kind {image.mode}, which is no whole numbers. Save it "
                    "as an 8-bit grey, palette or RGB PNG."
                )
            yield image
    except PictureError:
        raise
    except Exception as error:
        raise PictureError(f"{path}: the mask cannot be read ({error}).") from error
