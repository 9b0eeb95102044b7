from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from mobilevit.data.drawing import (
    TILE,
    caption,
    class_colour,
    colour_of,
    draw_boxes,
    draw_mask,
    mosaic,
    tile,
    titled,
    with_legend,
)
from mobilevit.data.masks import IGNORED


def grey(width: int = 200, height: int = 150) -> Image.Image:
    return Image.new("RGB", (width, height), (90, 90, 90))


def mask(picture: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """Return which pixels have a colour."""
    return (np.asarray(picture) == colour).all(axis=2)


def test_the_edges_lie_inside_the_box_and_nothing_else_is_changed():
    drawn = draw_boxes(grey(), [((50, 40, 90, 100), "", "cell")])
    found = mask(drawn, colour_of("cell"))
    rows, columns = np.nonzero(found)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (50, 40, 89, 99)
    assert not found[45:95, 55:85].any()
    assert (found | mask(drawn, (90, 90, 90))).all()


def test_the_picture_itself_is_not_drawn_on():
    picture = grey()
    draw_boxes(picture, [((5, 5, 90, 90), "a", "a")])
    caption(picture, ["a"])
    titled(picture, "a")
    assert mask(picture, (90, 90, 90)).all()


@pytest.mark.parametrize("size", [(1, 1), (20, 300), (64, 48), (1600, 1200)])
@pytest.mark.parametrize(
    "shares", [(0, 0, 1, 1), (-0.5, -0.5, 2, 2), (0.9, 0.9, 1, 1), (0.5, 0.5, 0.5, 0.5)]
)
def test_boxes_anywhere_on_pictures_of_any_size(size, shares):
    corners = [share * side for share, side in zip(shares, size * 2, strict=True)]
    drawn = draw_boxes(grey(*size), [(corners, "Größe 犬 99%", "a")])
    assert drawn.size == size
    assert mask(drawn, colour_of("a")).any() or shares[0] < 0


def test_words_grow_with_the_picture_and_stay_on_it():
    def ink(side: int, corners: tuple[float, ...]) -> int:
        drawn = draw_boxes(grey(side, side), [(corners, "word", "a")])
        return int((~mask(drawn, colour_of("a")) & ~mask(drawn, (90, 90, 90))).sum())

    for side in (200, 1000):
        middle = ink(side, (side * 0.4, side * 0.4, side * 0.9, side * 0.9))
        assert ink(side, (side * 0.95, 0, side, side * 0.9)) == middle
        assert ink(side, (-10, side * 0.5, side, side)) == middle
    assert ink(1000, (0, 0, 1000, 1000)) > 4 * ink(200, (0, 0, 200, 200)) > 0


def test_words_that_would_cover_others_or_the_centre_of_a_box_are_left_out():
    first, same = ((50, 50, 150, 140), "first", "a"), ((52, 52, 150, 140), "second", "b")
    both = draw_boxes(grey(), [first, same])
    bare = draw_boxes(grey(), [first, (same[0], "", "b")])
    assert both == bare
    above = ((60, 35, 80, 49), "", "b")  # its centre lies where the first's words would go
    assert draw_boxes(grey(), [first, above]) == draw_boxes(grey(), [(first[0], "", "a"), above])


def test_colours_are_the_names_own_and_visible_on_white():
    names = [f"class {i}" for i in range(80)]
    assert colour_of("RBC") == colour_of("RBC")
    assert len({colour_of(name) for name in names}) > 70
    for name in names:
        red, green, blue = colour_of(name)
        assert 0.299 * red + 0.587 * green + 0.114 * blue < 190
    cells = [np.array(colour_of(name)) for name in ("RBC", "WBC", "Platelets")]
    assert all(np.abs(a - b).max() > 60 for a, b in itertools.combinations(cells, 2))


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_a_mosaic_shows_each_picture_whole(count):
    colours = [(10 * i + 10, 0, 200) for i in range(count)]
    pictures = [Image.new("RGB", (30 + i, 20 + 2 * i), colour) for i, colour in enumerate(colours)]
    whole = mosaic(pictures)
    for picture, colour in zip(pictures, colours, strict=True):
        assert mask(whole, colour).sum() == picture.width * picture.height


def test_a_tile_has_the_shape_it_is_asked_for():
    assert tile(grey(64, 64), 800, 600).size == (TILE, TILE * 3 // 4)
    assert tile(grey(64, 64), 1, 9000).size == (1, TILE)


def test_classes_near_in_number_have_colours_that_can_be_told_apart():
    colours = np.array([class_colour(index) for index in range(21)], int)
    apart = np.abs(colours[:, None] - colours[None]).sum(axis=2)
    assert (apart + 1000 * np.eye(21) > 50).all()
    assert len({class_colour(index) for index in range(IGNORED)}) == IGNORED


def test_a_mask_shows_the_picture_below_and_stripes_where_it_is_ignored():
    picture = grey(40, 30)
    picture.paste("white", (0, 0, 40, 10))
    painted = np.array([[0, 1], [0, 1], [0, IGNORED]], np.uint8)  # enlarged to the picture
    drawn = np.asarray(draw_mask(picture, painted)).astype(int)
    for index, columns in ((0, slice(20)), (1, slice(20, 40))):
        for ground, rows in ((255, slice(10)), (90, slice(10, 20))):
            expected = (np.array(class_colour(index)) + ground) // 2
            assert np.abs(drawn[rows, columns] - expected).max() <= 1
    striped = drawn[20:, 20:]
    assert (np.ptp(striped, axis=2) == 0).all()
    assert len(np.unique(striped)) == 2
    assert mask(picture, (90, 90, 90)).sum() == 40 * 20


def test_a_legend_is_below_the_picture_and_hides_nothing():
    picture = grey()
    named = with_legend(picture, [(index, f"class {index}") for index in range(12)])
    assert mask(named.crop((0, 0, 200, 150)), (90, 90, 90)).all()
    below = named.crop((0, 150, *named.size))
    assert all(mask(below, class_colour(index)).sum() > 50 for index in range(12))
    rows = [np.nonzero(mask(below, class_colour(index)))[0].min() for index in range(12)]
    assert rows == sorted(rows)
    assert len(set(rows)) > 2
    assert named.width == 200


def test_a_legend_has_room_for_its_longest_words():
    tiny = with_legend(grey(8, 8), [(0, "a"), (1, "a name that is long " * 3)])
    ink = np.asarray(tiny.convert("L")) < 128
    assert tiny.width > 200
    assert not ink[8:, -2:].any()
    plain = with_legend(grey(8, 8), [])
    assert plain.size == (8, 8)


def test_the_words_of_a_legend_fit_the_picture_that_is_named():
    large = grey(1600, 1200)
    entries = [(0, "road")]
    assert with_legend(large, entries, grey()).height < with_legend(large, entries).height
