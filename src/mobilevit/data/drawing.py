"""Words, boxes and masks drawn on pictures, legible on any of them."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mobilevit.data.masks import IGNORED

TILE = 400
"""Longer side of a picture in a mosaic, in pixels."""
MOSAIC = 16
"""Pictures in a mosaic, at most."""

_FONTS = ("DejaVuSans.ttf", "arial.ttf", "Arial.ttf")
_GOLDEN = 0.6180339887
_BRIGHTEST = 0.7
_GAP = 8
_SHADES = ((0.75, 1.0), (0.95, 0.7), (0.45, 0.95))  # saturation and value
_STRIPES = np.array([(40, 40, 40), (200, 200, 200)], np.uint8)

Rectangle = tuple[int, int, int, int]


def caption(picture: Image.Image, lines: Sequence[str]) -> Image.Image:
    """Return a copy of a picture with lines of words in its upper left corner.

    Args:
        picture: RGB.
        lines: from top to bottom; with none of them it is a plain copy.
    """
    drawn = picture.copy()
    if lines:
        draw = ImageDraw.Draw(drawn)
        text, font = "\n".join(lines), font_for(picture)
        left, top, right, bottom = draw.multiline_textbbox((4, 4), text, font)
        draw.rectangle((left - 4, top - 4, right + 4, bottom + 4), "black")
        draw.multiline_text((4, 4), text, "white", font)
    return drawn


def draw_boxes(
    picture: Image.Image, boxes: Sequence[tuple[Sequence[float], str, str]]
) -> Image.Image:
    """Return a copy of a picture with boxes drawn on it, each in the colour of its class.

    Args:
        picture: RGB.
        boxes: for each its left, top, right and bottom in pixels, words to put on it, and the name
            of its class; the most important first, for words that would cover others', or the
            centre of a box, are left out.
    """
    drawn = picture.copy()
    draw, font = ImageDraw.Draw(drawn), font_for(picture)
    thickness = max(1, round(min(picture.size) / 160))
    for corners, _, name in reversed(boxes):
        left, top, right, bottom = corners
        edges = (left, top, max(left, right - 1), max(top, bottom - 1))
        draw.rectangle(edges, outline=colour_of(name), width=thickness)
    taken = [_centre(corners) for corners, _, _ in boxes]
    for corners, words, name in boxes:
        place = _place(words, corners, picture.size, font)
        if words and not any(_overlap(place, other) for other in taken):
            taken.append(place)
            fill = colour_of(name)
            draw.rectangle(place, fill)
            ink = "black" if _brightness(*fill) > 110 else "white"
            draw.text((place[0] + 2, place[1]), words, ink, font)
    return drawn


def draw_mask(picture: Image.Image, mask: NDArray[np.uint8]) -> Image.Image:
    """Return a picture under the half transparent colours of its classes.

    Args:
        picture: RGB.
        mask: (H, W) indices of classes, of any size; ``IGNORED`` is striped in grey.
    """
    if mask.shape != (picture.height, picture.width):
        mask = np.asarray(Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST))
    painted = _paint(mask, max(3, min(picture.size) // 60))
    return Image.blend(picture, Image.fromarray(painted), 0.5)


def with_legend(
    picture: Image.Image, entries: Sequence[tuple[int, str]], like: Image.Image | None = None
) -> Image.Image:
    """Return a picture with the colours of classes and words for them below it, on white.

    Args:
        picture: RGB; it is widened where a line of words needs more room.
        entries: for each class its index and its words; with none of them it is a plain copy.
        like: the picture whose size the words are to fit; none: the picture itself.
    """
    if not entries:
        return picture.copy()
    font = font_for(like or picture)
    side = round(font.getbbox("Ég")[3])
    step, margin = side + side // 3, side // 2
    ends = [2 * margin + side + round(font.getlength(words)) for _, words in entries]
    width = max(picture.width, margin + max(ends))
    places, x, y = [], margin, picture.height + margin
    for end in ends:
        if x + end > width:
            x, y = margin, y + step
        places.append((x, y))
        x += end + margin
    whole = Image.new("RGB", (width, y + step), "white")
    whole.paste(picture, (0, 0))
    draw = ImageDraw.Draw(whole)
    for (x, y), (index, words) in zip(places, entries, strict=True):
        swatch = np.full((side, side), index, np.uint8)
        whole.paste(Image.fromarray(_paint(swatch, max(2, side // 4))), (x, y))
        draw.text((x + side + margin // 2, y), words, "black", font)
    return whole


def titled(picture: Image.Image, title: str) -> Image.Image:
    """Return a picture with a line of words above it, on white."""
    font = font_for(picture)
    strip = round(font.getbbox("Ég")[3]) + 4
    whole = Image.new("RGB", (picture.width, picture.height + strip), "white")
    whole.paste(picture, (0, strip))
    ImageDraw.Draw(whole).text((2, 1), title, "black", font)
    return whole


def mosaic(pictures: Sequence[Image.Image], columns: int = 4) -> Image.Image:
    """Return pictures side by side on white, from left to right and from top to bottom."""
    if not pictures:
        return Image.new("RGB", (TILE, TILE), "white")
    shown = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    heights = [max(picture.height for picture in row) + _GAP for row in shown]
    widths = [max(p.width for p in pictures[i::columns]) + _GAP for i in range(len(shown[0]))]
    whole = Image.new("RGB", (sum(widths) + _GAP, sum(heights) + _GAP), "white")
    for i, row in enumerate(shown):
        for j, picture in enumerate(row):
            whole.paste(picture, (_GAP + sum(widths[:j]), _GAP + sum(heights[:i])))
    return whole


def tile(picture: Image.Image, width: float, height: float) -> Image.Image:
    """Return a picture of so many pixels as a part of a mosaic: its longer side is ``TILE``."""
    scale = TILE / max(width, height)
    return picture.resize((max(1, round(width * scale)), max(1, round(height * scale))))


def colour_of(name: str) -> tuple[int, int, int]:
    """Return the colour of a class: the same in all pictures, and dark enough for white paper."""
    hue = crc32(name.encode(errors="surrogateescape")) * _GOLDEN % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.9, 1.0)
    scale = 255 * min(1.0, _BRIGHTEST / _brightness(red, green, blue))
    return round(red * scale), round(green * scale), round(blue * scale)


def class_colour(index: int) -> tuple[int, int, int]:
    """Return the colour of a class in masks: unlike that of every class near it in number."""
    turn, shade = divmod(index, len(_SHADES))
    hue = 0.58 + turn * _GOLDEN + shade / len(_SHADES)
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, *_SHADES[shade])
    return round(255 * red), round(255 * green), round(255 * blue)


def font_for(picture: Image.Image) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Return a font that can be read on a picture of this size."""
    return _font(max(11, round(min(picture.size) / 28)))


@lru_cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Return a font of the system with letters beyond English, or else Pillow's own."""
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def _paint(mask: NDArray[np.uint8], stripe: int) -> NDArray[np.uint8]:
    """Return the colours (H, W, 3) of a mask, with stripes so many pixels wide where ignored."""
    painted = np.array([class_colour(index) for index in range(IGNORED + 1)], np.uint8)[mask]
    ignored = mask == IGNORED
    if ignored.any():
        rows, columns = (np.arange(side) % (2 * stripe) for side in mask.shape)
        second = (rows[:, None] + columns) // stripe % 2
        painted[ignored] = _STRIPES[second[ignored]]
    return painted


def _place(
    words: str,
    corners: Sequence[float],
    size: tuple[int, int],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> Rectangle:
    """Return where the words on a box go: above it, or in it where there is no room above."""
    _, _, width, height = (round(edge) for edge in font.getbbox(words))
    width, height = width + 4, height + 3
    left = max(0, min(round(corners[0]), size[0] - width))
    top = round(corners[1]) - height
    if top < 0:
        top = max(0, min(round(corners[1]), size[1] - height))
    return left, top, left + width, top + height


def _centre(corners: Sequence[float]) -> Rectangle:
    x, y = (corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2
    return int(x), int(y), int(x) + 1, int(y) + 1


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _brightness(red: float, green: float, blue: float) -> float:
    """Return how bright a colour looks (Rec. 601), in the unit of its parts."""
    return 0.299 * red + 0.587 * green + 0.114 * blue
