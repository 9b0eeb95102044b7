from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boxes import checks, coco_content, coco_file, found, picture, text, voc_text
from masks import folder, mask
from mobilevit.data.box_sets import box_format
from mobilevit.data.mask_sets import mask_format, read_masks
from mobilevit.data.masks import IGNORED, MaskShapes
from mobilevit.errors import UserError

SQUARE = [5, 5, 15, 5, 15, 15, 5, 15]
LARGE = [0, 0, 30, 0, 30, 20, 0, 20]


def names(samples: Any) -> list[str]:
    return [sample.path.name for sample in samples]


@pytest.mark.parametrize("masks", ["masks", "labels", "annotations", "mask", "gt"])
def test_folders_side_by_side_without_a_split(tmp_path, masks):
    folder(tmp_path)
    (tmp_path / "masks").rename(tmp_path / masks)
    assert mask_format(str(tmp_path)) == "folders"
    assert box_format(tmp_path) is None
    data = read_masks(tmp_path, None)
    assert (data.class_names, data.class_ids, data.findings) == (("cat", "dog"), (), ())
    assert names(data.train) == ["a.jpg", "b.jpg"]
    assert data.train[1].label.path == tmp_path / masks / "b.png"
    assert (data.train[1].label.width, data.train[1].label.height) == (40, 32)
    assert (data.val, data.test, data.source) == ((), (), tmp_path)


def test_splits_in_the_folders_or_around_them(tmp_path):
    for split, count in (("training", 3), ("validation", 2), ("test", 1)):
        folder(tmp_path / "in", [f"{split}{i}" for i in range(count)], split=split)
        folder(tmp_path / "around" / split, [f"{split}{i}" for i in range(count)])
    text(tmp_path / "around" / "classes.txt", "cat\ndog")
    for data in map(read_masks, (tmp_path / "in", tmp_path / "around")):
        assert [len(data.train), len(data.val), len(data.test)] == [3, 2, 1]
        assert all(s.path.stem == s.label.path.stem for s in (*data.train, *data.val, *data.test))
        assert data.findings == ()


def test_two_folders_for_one_split_are_not_chosen_between(tmp_path):
    for split in ("train", "train2", "val"):
        folder(tmp_path / "in", [split], split=split)
        folder(tmp_path / "around" / split, [split])
    for data in ("in", "around"):
        with pytest.raises(UserError, match="both 'train' and 'train2' could be its split 'train'"):
            read_masks(tmp_path / data)


@pytest.mark.parametrize("ending", ["_labels", "_masks", "annot"])
def test_folders_of_masks_named_after_splits(tmp_path, ending):
    for split in ("train", "val"):
        picture(tmp_path / split / "a.jpg")
        mask(tmp_path / f"{split}{ending}" / "a_L.png")
    text(tmp_path / "classes.txt", "cat\ndog")
    assert mask_format(tmp_path) == "folders"
    data = read_masks(tmp_path)
    assert (names(data.train), names(data.val), data.findings) == (["a.jpg"], ["a.jpg"], ())
    assert data.val[0].label.path == tmp_path / f"val{ending}" / "a_L.png"


def test_the_list_may_lie_above_the_pictures(tmp_path):
    folder(tmp_path / "train")
    (tmp_path / "train" / "images").rename(tmp_path / "train" / "image")
    data = read_masks(tmp_path, None)
    assert (names(data.train), data.class_names) == (["a.jpg", "b.jpg"], ("cat", "dog"))


def test_masks_that_serve_another_split_are_not_left_out(tmp_path):
    folder(tmp_path / "flat", ["a", "b", "unused"])
    for split, name in (("train", "a"), ("val", "b"), ("test", "c")):
        picture(tmp_path / "flat" / "images" / split / f"{name}.jpg")
        (tmp_path / "flat" / "images" / f"{name}.jpg").unlink(missing_ok=True)
    data = read_masks(tmp_path / "flat")
    assert (names(data.train), names(data.val), data.test) == (["a.jpg"], ["b.jpg"], ())
    without = found(data, "mask-without-picture")
    assert without.paths == (str(tmp_path / "flat" / "masks" / "unused.png"),)
    for split in ("train", "val"):
        folder(tmp_path / "in", ["a"], split=split)
    picture(tmp_path / "in" / "images" / "test" / "c.jpg")
    assert checks(read_masks(tmp_path / "in")) == {"picture-without-mask": "warning"}


def test_pictures_and_masks_in_one_folder(tmp_path):
    for split in ("train", "valid"):
        for stem in "abc":
            picture(tmp_path / split / f"{stem}.jpg")
            mask(tmp_path / split / f"{stem}_mask.png")
        text(tmp_path / split / "_classes.csv", "Pixel Value, Class\n0, background\n1, cat\n")
    picture(tmp_path / "train" / "d.jpg")
    assert mask_format(tmp_path) == "folders"
    data = read_masks(tmp_path)
    assert data.class_names == ("background", "cat")
    assert names(data.train) == names(data.val) == ["a.jpg", "b.jpg", "c.jpg"]
    assert checks(data) == {"picture-without-mask": "warning"}
    assert found(data, "picture-without-mask").paths == (str(tmp_path / "train" / "d.jpg"),)


@pytest.mark.parametrize("ending", ["_mask", "_label", "_gt", "_L"])
def test_a_mask_may_have_an_ending_behind_the_name(tmp_path, ending):
    folder(tmp_path, ["a", "bä 1"])
    (tmp_path / "masks" / "bä 1.png").rename(tmp_path / "masks" / f"bä 1{ending}.png")
    data = read_masks(tmp_path, None)
    assert names(data.train) == ["a.jpg", "bä 1.jpg"]
    assert data.findings == ()


def test_pictures_may_lie_deeper_and_behind_links(tmp_path):
    folder(tmp_path / "data", ["x/a", "y/a"])
    (tmp_path / "data" / "masks").rename(tmp_path / "elsewhere")
    (tmp_path / "data" / "masks").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    data = read_masks(tmp_path / "data", None)
    assert [sample.label.path.parent.name for sample in data.train] == ["x", "y"]


def test_what_has_no_partner_is_left_out(tmp_path):
    folder(tmp_path, ["a", "b", "c"])
    (tmp_path / "masks" / "a.png").unlink()
    (tmp_path / "images" / "b.jpg").unlink()
    data = read_masks(tmp_path, None)
    assert names(data.train) == ["c.jpg"]
    assert checks(data) == {"picture-without-mask": "warning", "mask-without-picture": "warning"}
    assert found(data, "picture-without-mask").paths == (str(tmp_path / "images" / "a.jpg"),)
    assert found(data, "mask-without-picture").paths == (str(tmp_path / "masks" / "b.png"),)


def test_masks_that_cannot_be_read_are_left_out_and_lossy_ones_are_told(tmp_path):
    folder(tmp_path, ["a", "b", "c"])
    (tmp_path / "masks" / "a.png").write_bytes(b"no picture")
    (tmp_path / "masks" / "b.png").unlink()
    mask(tmp_path / "masks" / "b.jpg")
    data = read_masks(tmp_path, None)
    assert names(data.train) == ["b.jpg", "c.jpg"]
    assert checks(data) == {"unreadable-mask": "warning", "lossy-mask": "warning"}
    assert "a.png: the mask cannot be read" in found(data, "unreadable-mask").message


def test_numbers_with_gaps_are_the_users_own(tmp_path):
    folder(tmp_path, numbers=(0, 17, 200))
    text(tmp_path / "classes.txt", "17 cat\n200 dog\n0 unlabelled\n")
    data = read_masks(tmp_path, None)
    assert (data.class_names, data.class_ids) == (("cat", "dog"), (17, 200))
    assert data.train[0].label.read()[0, :3].tolist() == [IGNORED, 0, 1]


def test_colours_are_told_by_a_list(tmp_path):
    folder(tmp_path, numbers=[(255, 0, 0), (0, 0, 255), (0, 0, 0)])
    mask(tmp_path / "masks" / "b.png", (0, 1, 2), "P")
    text(tmp_path / "classes.txt", "road 255 0 0\ncar 0 0 255\nvoid 0 0 0\nsky 128 64 32\n")
    data = read_masks(tmp_path, None)
    assert (data.class_names, data.class_ids) == (("road", "car", "sky"), (0, 1, 3))
    assert data.train[0].label.read()[0, :3].tolist() == [0, 1, IGNORED]
    assert data.train[1].label.read()[0, :2].tolist() == [2, IGNORED]


def test_without_a_list_the_numbers_found_are_told(tmp_path):
    folder(tmp_path, numbers=(0, 7, 255))
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"In the first 2 of them are: 0, 7, 255. Write"):
        read_masks(tmp_path)
    mask(tmp_path / "masks" / "b.png", [(0, 0, 0), (1, 2, 3)])
    with pytest.raises(UserError, match=r"are: 0, 7, 255, colour 0 0 0, colour 1 2 3. Write"):
        read_masks(tmp_path)


def test_one_class_and_no_masks_are_errors(tmp_path):
    folder(tmp_path)
    text(tmp_path / "classes.txt", "cat\nvoid")
    assert checks(read_masks(tmp_path, None)) == {"one-class": "error"}
    shutil.rmtree(tmp_path / "images")
    picture(tmp_path / "images" / "other.jpg")
    assert checks(read_masks(tmp_path)) == {
        "no-masks": "error",
        "one-class": "error",
        "picture-without-mask": "warning",
        "mask-without-picture": "warning",
    }


def test_a_share_is_held_out_by_content(tmp_path):
    folder(tmp_path, [str(i) for i in range(20)])
    data = read_masks(tmp_path, 0.4)
    assert sorted(names(data.train) + names(data.val)) == sorted(f"{i}.jpg" for i in range(20))
    assert 2 <= len(data.val) <= 14
    assert read_masks(tmp_path, 0.4).val == data.val
    with pytest.raises(UserError, match="must lie between 0 and 1"):
        read_masks(tmp_path, 1.0)


def test_other_folders_are_none_of_them(tmp_path, photos):
    assert mask_format(photos) is None
    assert mask_format(tmp_path / "nowhere") is None
    picture(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels" / "a.txt", "0 0.5 0.5 0.1 0.1")
    (tmp_path / "masks").mkdir()
    assert mask_format(tmp_path) is None
    with pytest.raises(UserError, match=r"holds no masks that could be read. Give a folder with"):
        read_masks(tmp_path)
    with pytest.raises(UserError, match=r"image: no such file or folder. Did you mean 'images'"):
        read_masks(tmp_path / "image")


def test_a_split_to_validate_on_alone_is_refused(tmp_path):
    folder(tmp_path, split="val")
    with pytest.raises(UserError, match="has val, but no 'train' folder"):
        read_masks(tmp_path)


def voc(data: Path, numbers: tuple[int, ...] = (0, 20, 255)) -> Path:
    for name in "abcd":
        picture(data / "JPEGImages" / f"{name}.jpg")
        if name != "d":
            mask(data / "SegmentationClass" / f"{name}.png", numbers, "P")
    return data


def test_pascal_voc_has_lists_and_classes_of_its_own(tmp_path):
    voc(tmp_path)
    text(tmp_path / "ImageSets" / "Segmentation" / "trainval.txt", "a\nb\nd\nnone\n")
    text(tmp_path / "ImageSets" / "Segmentation" / "val.txt", "b\n")
    assert mask_format(tmp_path) == "voc"
    assert box_format(tmp_path) is None
    data = read_masks(tmp_path)
    assert (names(data.train), names(data.val)) == (["a.jpg"], ["b.jpg"])
    assert (len(data.class_names), data.class_names[20], data.class_ids) == (21, "tvmonitor", ())
    assert data.train[0].label.read()[0, :3].tolist() == [0, 20, IGNORED]
    assert checks(data) == {
        "unknown-picture": "error",
        "picture-without-mask": "warning",
        "voc-classes": "warning",
    }


def test_pascal_voc_with_classes_that_are_not_its_own(tmp_path):
    voc(tmp_path, (0, 30))
    with pytest.raises(UserError, match="In the first 3 of them are: 0, 30"):
        read_masks(tmp_path)
    text(tmp_path / "labels.txt", "0 soil\n30 leaf")
    data = read_masks(tmp_path, None)
    assert (data.class_names, data.class_ids) == (("soil", "leaf"), (0, 30))
    assert names(data.train) == ["a.jpg", "b.jpg", "c.jpg"]


def test_pascal_voc_with_boxes_too_can_be_read_as_either(tmp_path):
    voc(tmp_path)
    text(tmp_path / "Annotations" / "a.xml", voc_text([("cat", (1, 1, 9, 9))]))
    assert (box_format(tmp_path), mask_format(tmp_path)) == ("voc", "voc")


def outlines(data: Path, things: list[tuple[int, Any]], categories: dict[int, str]) -> Path:
    """Write a file of COCO with a picture, and things of a category with some outlines or a box."""
    boxes = [(category, *_box(points)) for category, points in things]
    content = coco_content({"a.png": boxes}, categories)
    for entry, (_, points) in zip(content["annotations"], things, strict=True):
        entry.update(segmentation=points, iscrowd=int(isinstance(points, dict)))
    picture(data / "images" / "a.png")
    return coco_file(data / "train.json", content)


def _box(points: Any) -> tuple[float, ...]:
    if not isinstance(points, list) or not points:
        return (20, 10, 10, 10)
    xs, ys = points[0][::2], points[0][1::2]
    return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))


def test_outlines_lie_over_the_background_and_small_ones_on_top(tmp_path):
    file = outlines(tmp_path, [(9, [SQUARE]), (4, [LARGE])], {9: "cat", 4: "dog"})
    assert mask_format(file) == mask_format(tmp_path) == box_format(tmp_path) == "coco"
    data = read_masks(file, None)
    assert (data.class_names, data.class_ids) == (("background", "dog", "cat"), (0, 4, 9))
    assert isinstance(data.train[0].label, MaskShapes)
    read = data.train[0].label.read()
    assert (read.shape, read[10, 10], read[2, 2], read[25, 35]) == ((30, 40), 2, 1, 0)
    assert data.findings == ()


def test_crowds_and_boxes_without_outline_are_ignored_below_the_rest(tmp_path):
    crowd = {"counts": [3, 4], "size": [30, 40]}
    file = outlines(
        tmp_path, [(1, [SQUARE]), (1, [[18, 8, 26, 8, 26, 16]]), (1, crowd)], {1: "cat"}
    )
    data = read_masks(file, None)
    read = data.train[0].label.read()
    assert (read[10, 10], read[18, 28], read[11, 25], read[2, 2]) == (1, IGNORED, 1, 0)
    assert data.findings == ()
    outlines(tmp_path, [(1, [SQUARE]), (1, [])], {1: "cat"})
    data = read_masks(file, None)
    assert data.train[0].label.read()[12, 22] == IGNORED
    assert checks(data) == {"object-without-outline": "warning"}


@pytest.mark.parametrize(
    ("categories", "class_names", "class_ids"),
    [
        ({0: "cat", 3: "dog"}, ("background", "cat", "dog"), (1, 0, 3)),
        ({4: "cat", 5: "dog"}, ("background", "cat", "dog"), (0, 4, 5)),
        ({3: "dog", 7: "Background"}, ("dog", "Background"), (3, 7)),
        ({0: "animals", 1: "dog", 2: "animals"}, ("background", "dog", "animals"), ()),
    ],
)
def test_the_background_has_a_number_of_its_own(tmp_path, categories, class_names, class_ids):
    file = outlines(tmp_path, [(max(categories), [SQUARE])], categories)
    data = read_masks(file, None)
    assert (data.class_names, data.class_ids) == (class_names, class_ids)
    assert checks(data).get("background-number") == ("info" if class_ids == (1, 0, 3) else None)
    background = [name.lower() for name in class_names].index("background")
    read = data.train[0].label.read()
    assert (read[25, 35], read[10, 10]) == (background, len(class_names) - 1)


@pytest.mark.parametrize(
    "points", [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, "x", 5, 6], [1, 2, 3, 1e999, 5, 6]]
)
def test_an_outline_that_is_none_is_an_error(tmp_path, points):
    data = read_masks(outlines(tmp_path, [(1, [SQUARE, points])], {1: "cat"}), None)
    assert checks(data) == {"broken-label": "error"}


def test_outlines_end_at_the_pictures_edge(tmp_path):
    far = [-1e12, -5, 1e12, -5, 1e12, 10, -1e12, 10]
    read = read_masks(outlines(tmp_path, [(1, [far])], {1: "cat"}), None).train[0].label.read()
    assert read[:10].all()
    assert not read[12:].any()


def test_files_with_boxes_only_hold_no_masks(tmp_path):
    file = outlines(tmp_path, [(1, [])], {1: "cat"})
    assert (box_format(tmp_path), mask_format(tmp_path)) == ("coco", None)
    outlines(tmp_path, [(1, [SQUARE])], {1: "cat"})
    shutil.copy(file, tmp_path / "val.json")
    file.write_text(file.read_text().replace('"segmentation": [[', '"x": [['))
    file.rename(tmp_path / "test.json")
    outlines(tmp_path, [(1, [SQUARE])], {1: "cat"})
    data = read_masks(tmp_path)
    assert (len(data.train), len(data.val), len(data.test)) == (1, 1, 0)
    assert checks(data) == {"split-without-outlines": "warning"}


def panoptic(data: Path, segments: list[dict[str, Any]]) -> Path:
    """Write a file of COCO with the segments 3, 700 and 70,000 of a picture."""
    picture(data / "train2017" / "1.jpg")
    colours = [(n % 256, n // 256 % 256, n // 65536) for n in (0, 3, 700, 70_000)]
    mask(data / "annotations" / "panoptic_train2017" / "1.png", colours)
    content = {
        "images": [{"id": 5, "file_name": "1.jpg", "width": 40, "height": 30}],
        "annotations": [{"image_id": 5, "file_name": "1.png", "segments_info": segments}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 90, "name": "sky"}],
    }
    return coco_file(data / "annotations" / "panoptic_train2017.json", content)


def test_panoptic_segments_are_told_by_a_table_for_each_picture(tmp_path):
    segments = [
        {"id": 3, "category_id": 90, "iscrowd": 0},
        {"id": 700, "category_id": 1},
        {"id": 70_000, "category_id": 1, "iscrowd": 1},
    ]
    file = panoptic(tmp_path, segments)
    assert mask_format(file) == mask_format(tmp_path) == "panoptic"
    assert box_format(file) is box_format(tmp_path) is None
    data = read_masks(tmp_path, None)
    assert (data.class_names, data.class_ids) == (("cat", "sky"), (1, 90))
    assert data.train[0].label.read()[0, :4].tolist() == [IGNORED, 1, 0, IGNORED]
    assert data.train[0].label.count().unlisted == {}
    assert data.findings == ()


def test_what_is_wrong_with_segments_is_named(tmp_path):
    file = panoptic(tmp_path, [{"id": 3, "category_id": 8}, {"id": 2**24, "category_id": 1}, {}])
    data = read_masks(tmp_path, None)
    assert checks(data) == {"unknown-class": "error", "broken-label": "error"}
    assert data.train[0].label.count().unlisted == {700: 320, 70_000: 320}
    (file.parent / "panoptic_train2017" / "1.png").unlink()
    assert checks(read_masks(tmp_path))["picture-without-mask"] == "warning"
    (tmp_path / "train2017" / "1.jpg").unlink()
    assert checks(read_masks(tmp_path))["label-without-picture"] == "warning"
    file.write_text(file.read_text().replace('"image_id": 5', '"image_id": 6'))
    assert checks(read_masks(tmp_path))["unknown-picture"] == "error"
    file.write_text(file.read_text().replace('"image_id": 6', '"image_id": [6]'))
    assert checks(read_masks(tmp_path))["unknown-picture"] == "error"


def test_a_picture_without_segments_is_told(tmp_path):
    file = panoptic(tmp_path, [{"id": 3, "category_id": 1}])
    other = picture(tmp_path / "train2017" / "2.jpg")
    images = '"images": [{"id": 6, "file_name": "2.jpg"}, '
    file.write_text(file.read_text().replace('"images": [', images))
    data = read_masks(tmp_path, None)
    assert names(data.train) == ["1.jpg"]
    assert checks(data) == {"picture-without-mask": "warning"}
    assert found(data, "picture-without-mask").paths == (str(other),)


def test_what_the_system_refuses_to_read_is_named(tmp_path, monkeypatch):
    folder(tmp_path)

    def refuse(path: Path, **_: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(UserError, match=r"classes.txt: cannot be read \(Permission denied\)"):
        read_masks(tmp_path)


def test_camvid(shared_data):
    data = read_masks(shared_data / "camvid")
    assert mask_format(shared_data / "camvid") == "folders"
    assert [len(data.train), len(data.val), len(data.test)] == [367, 101, 233]
    assert (len(data.class_names), data.class_ids, data.findings) == (11, (), ())
    assert sorted(np.unique(data.train[0].label.read())) == [0, 1, 2, 3, 4, 5, 6, 8, 9, IGNORED]


def test_outlines_of_coco(shared_data):
    file = shared_data / "coco" / "annotations" / "instances_train2017.json"
    data = read_masks(file)
    assert len(data.train) + len(data.val) == 128
    assert (len(data.class_names), data.class_ids[:2], data.class_ids[-1]) == (81, (0, 1), 90)
    assert data.findings == ()
    for sample in data.val[:5]:
        with Image.open(sample.path) as image:
            assert sample.label.read().shape == image.size[::-1]


def test_numbers_of_coco_with_gaps(shared_data, tmp_path):
    for split in ("train2017", "val2017"):
        for name, source in (("images", ""), ("masks", "semantic_masks")):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / split).symlink_to(shared_data / "coco" / source / split)
    numbers = range(1, 201)
    text(tmp_path / "classes.txt", "0 void\n" + "".join(f"{n} class {n}\n" for n in numbers))
    data = read_masks(tmp_path)
    assert (len(data.train), len(data.val)) == (100, 100)
    assert data.class_ids == tuple(numbers)
    assert checks(data) == {"picture-without-mask": "warning"}
    assert len(found(data, "picture-without-mask").paths) == 56
    for sample in data.train[:20]:
        with Image.open(sample.label.path) as image:
            stored = np.asarray(image)
        assert (sample.label.read() == np.where(stored == 0, IGNORED, stored - 1.0)).all()
        assert sample.label.count().unlisted == {}
