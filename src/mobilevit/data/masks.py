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
from PIL import Image, ImageDraw

from mobilevit.data.decoding import PictureError

IGNORED = 255
"""What a pixel is given that is neither learnt nor measured."""

LARGEST_NUMBER = 2**24 - 1
"""That a number of a mask may be: red, green and blue are 255."""

_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG")
_MOST_UNLISTED = 20
_MODES = ("1", "L", "LA", "P", "I", "I;16", "I;16B", "RGB", "RGBA")

Polygon = tuple[tuple[float, float], ...]


class Pixels(NamedTuple):
    """How many pixels of a mask are what.

    Attributes:
        classes: pixels by the index of their class, ``IGNORED`` among them.
        unlisted: pixels by a number that is no class, nor to be ignored; the most frequent.
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
    """

    path: Path
    indices: Mapping[int, int]
    width: int
    height: int

    def read(self) -> NDArray[np.uint8]:
        """Return the index of every pixel's class, or ``IGNORED`` (height, width).

        Raises:
            PictureError: when the file cannot be read.
        """
        table = np.full(max(self.indices, default=-1) + 2, IGNORED, np.uint8)
        for number, index in self.indices.items():
            table[number] = index
        classes: NDArray[np.uint8] = table[np.minimum(read_numbers(self.path), len(table) - 1)]
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
            if number not in self.indices:
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
        shapes: outlines and the index of what is inside, or ``IGNORED``; each in pixels, a later
            one lies over those before it.
        width: of the picture, in pixels.
        height: likewise.
        background: the index of all that is in no shape, or ``IGNORED``.
    """

    shapes: tuple[tuple[Polygon, int], ...]
    width: int
    height: int
    background: int = IGNORED

    def read(self) -> NDArray[np.uint8]:
        """Return the index of every pixel's class, or ``IGNORED`` (height, width)."""
        mask = Image.new("L", (self.width, self.height), self.background)
        draw = ImageDraw.Draw(mask)
        for outline, index in self.shapes:
            draw.polygon(outline, fill=index)
        return np.asarray(mask, np.uint8)

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
        shapes = tuple((outline, table[index]) for outline, index in self.shapes)
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


def number_of(colour: Sequence[int]) -> int:
    """Return the number that red, green and blue make, see ``MaskFile``."""
    red, green, blue = colour
    return red + 256 * green + 65536 * blue


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
