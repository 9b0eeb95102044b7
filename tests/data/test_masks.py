from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from boxes import text
from masks import mask
from mobilevit.data.boxes import classes_of, relabelled
from mobilevit.data.decoding import PictureError
from mobilevit.data.mask_sets import read_masks
from mobilevit.data.masks import (
    IGNORED,
    MaskFile,
    MaskShapes,
    number_of,
    outline,
    read_header,
    read_numbers,
)

RED, BLUE = (255, 0, 0), (0, 0, 200)
SQUARE = outline([(2, 1), (7, 1), (7, 5), (2, 5)])
CORNER = outline([6, 4, 9, 4, 9, 9, 6, 9])


def test_numbers_become_indices_and_others_are_ignored(tmp_path):
    label = MaskFile(mask(tmp_path / "a.png", (7, 0, 9, 200)), {7: 0, 9: 1, 8: IGNORED}, 40, 32)
    read = label.read()
    assert (read.shape, read.dtype) == ((32, 40), np.uint8)
    assert read[5, :5].tolist() == [0, IGNORED, 1, IGNORED, 0]
    pixels = label.count()
    assert pixels.classes == {0: 320, 1: 320, IGNORED: 640}
    assert pixels.unlisted == {0: 320, 200: 320}
    assert label.classes() == [0, 1]


def test_a_number_that_is_to_be_ignored_is_no_mistake(tmp_path):
    label = MaskFile(mask(tmp_path / "a.png", (7, 255)), {7: 0, 255: IGNORED}, 40, 32)
    assert label.count() == ({0: 640, IGNORED: 640}, {})


@pytest.mark.parametrize(
    ("name", "mode", "numbers"),
    [
        ("a.png", "L", (0, 200)),
        ("a.png", "P", (0, 2)),
        ("a.png", None, (0, 40_000)),
        ("a.tif", None, (0, 40_000)),
        ("a.bmp", "P", (0, 2)),
    ],
)
def test_numbers_count_as_they_are_stored(tmp_path, name, mode, numbers):
    path = mask(tmp_path / name, numbers, mode)
    assert read_numbers(path)[3, :4].tolist() == [*numbers, *numbers]
    header = read_header(path)
    assert (header.width, header.height) == (40, 32)
    assert header.palette[:3] == ((128, 64, 32) if mode == "P" else ())


def test_colours_make_numbers_and_transparency_is_passed_over(tmp_path):
    expected = [number_of(RED), number_of(BLUE)]
    assert read_numbers(mask(tmp_path / "a.png", (RED, BLUE)))[0, :2].tolist() == expected
    path = mask(tmp_path / "b.png", ((*RED, 0), (*BLUE, 255)))
    assert read_numbers(path)[0, :2].tolist() == expected
    path = mask(tmp_path / "c.png", ((3, 0), (4, 255)))
    assert read_numbers(path)[0, :2].tolist() == [3, 4]


def test_black_and_white_are_0_and_1(tmp_path):
    Image.new("1", (3, 2), 1).save(tmp_path / "a.png")
    assert read_numbers(tmp_path / "a.png").tolist() == [[1, 1, 1]] * 2


def test_what_is_no_mask_is_named(tmp_path):
    whole = mask(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 255, 40)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("CMYK", (4, 4)).save(tmp_path / "ink.tif")
    Image.new("F", (4, 4)).save(tmp_path / "fractions.tif")
    for name, message in {
        "cut.png": r"the mask cannot be read \(",
        "empty.png": r"the mask cannot be read \(",
        "no.png": r"the mask cannot be read \(.*No such file",
        "ink.tif": "the mask is of kind CMYK",
        "fractions.tif": "the mask is of kind F, which is no whole numbers. Save it as an 8-bit",
    }.items():
        with pytest.raises(PictureError, match=f"{name}: {message}"):
            MaskFile(tmp_path / name, {0: 0}, 40, 32).read()


def test_labels_take_other_indices(tmp_path):
    label = MaskFile(mask(tmp_path / "a.png", (7, 9, 3)), {7: 0, 9: 1, 3: IGNORED}, 40, 32)
    changed = relabelled(label, [5, 2])
    assert changed.read()[0, :3].tolist() == [5, 2, IGNORED]
    assert classes_of(changed) == [2, 5]
    shapes = MaskShapes(((SQUARE, 1), (CORNER, IGNORED)), 10, 10, background=0)
    changed = relabelled(shapes, [5, 2])
    assert np.unique(changed.read()).tolist() == [2, 5, IGNORED]
    assert classes_of(changed) == [2, 5]
    assert classes_of(MaskShapes((), 10, 10)) == []


def test_a_later_outline_lies_over_those_before_it():
    label = MaskShapes(((SQUARE, 1), (CORNER, 2)), 10, 10, background=0)
    read = label.read()
    assert (read[0, 0], read[2, 3], read[4, 6], read[8, 8]) == (0, 1, 2, 2)
    assert sum(label.count().classes.values()) == 100
    assert MaskShapes(((CORNER, 2), (SQUARE, 1)), 10, 10).read()[4, 6] == 1


def test_large_numbers_need_no_large_table(tmp_path):
    path = mask(tmp_path / "a.png", [(3, 0, 0), (0, 0, 255), (9, 9, 9), (255, 255, 255)])
    label = MaskFile(path, {number_of((0, 0, 255)): 4, 3: 1, 2**23: 0}, 40, 32)
    assert label.read()[0, :5].tolist() == [1, 4, IGNORED, IGNORED, 1]
    assert label.read().dtype == np.uint8


def inside(points, width=40, height=30):
    return MaskShapes(((outline(points), 1),), width, height, background=0).read().astype(bool)


def test_a_pixel_is_in_an_outline_where_its_centre_is():
    square = inside([10, 10, 20, 10, 20, 20, 10, 20])
    assert square.sum() == 100
    assert square[10:20, 10:20].all()
    assert inside([10.6, 10.4, 11.4, 10.4, 11.4, 12.4, 10.6, 12.4]).sum() == 0
    assert np.argwhere(inside([10.4, 10.6, 11.4, 10.6, 11.4, 12.4, 10.4, 12.4])).tolist() == [
        [11, 10]
    ]
    assert inside([0, 0, 40, 0, 40, 30, 0, 30]).all()
    assert not inside([0, 5, 40, 5, 0, 5]).any()


def test_two_outlines_that_share_an_edge_share_no_pixel():
    left, right = inside([3, 1, 31, 2, 9, 27]), inside([31, 2, 37, 25, 9, 27])
    assert left.sum() > 300
    assert not (left & right).any()
    assert (left | right).sum() == inside([3, 1, 31, 2, 37, 25, 9, 27]).sum()


def test_what_an_outline_crosses_twice_is_outside():
    star = inside([20, 0, 32, 29, 2, 10, 38, 10, 8, 29])
    assert not star[14, 20]
    assert star[5, 20]


def test_small_real_outlines_have_the_area_that_pycocotools_says(shared_data):
    rle = pytest.importorskip("pycocotools.mask")
    file = shared_data / "coco" / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in content["images"]}
    things = [a for a in content["annotations"] if not a["iscrowd"] and 20 < a["area"] < 300]
    polygons = [(sizes[a["image_id"]], points) for a in things for points in a["segmentation"]]
    theirs = sum(int(rle.area(rle.frPyObjects([p], *size))[0]) for size, p in polygons)
    ours = sum(int(inside(points, *size[::-1]).sum()) for size, points in polygons[:])
    assert theirs > 5000
    assert ours == pytest.approx(theirs, rel=0.03)


def test_real_outlines_cover_what_pycocotools_says(shared_data):
    """But for pixels on the edge, which it rounds otherwise."""
    rle = pytest.importorskip("pycocotools.mask")
    file = shared_data / "coco" / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    images = {entry["id"]: entry for entry in content["images"]}
    samples = {s.path.name: s for s in read_masks(file, None).train}
    both = either = 0
    for number in list(images)[:40]:
        size = (images[number]["height"], images[number]["width"])
        things = [a for a in content["annotations"] if a["image_id"] == number]
        if not things or any(thing["iscrowd"] for thing in things):
            continue
        outlines = [points for thing in things for points in thing["segmentation"]]
        theirs = rle.decode(rle.merge(rle.frPyObjects(outlines, *size))) > 0
        ours = samples[images[number]["file_name"]].label.read() > 0
        both += (ours & theirs).sum()
        either += (ours | theirs).sum()
    assert either > 1_000_000
    assert both / either > 0.99


def test_a_label_says_in_one_line_what_it_is(tmp_path):
    label = MaskFile(text(tmp_path / "a.png", ""), {9: 1, 7: 0}, 40, 32)
    assert str(label) == "a.png [(7, 0), (9, 1)]"
