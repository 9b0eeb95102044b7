from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from boxes import checks, coco_content, coco_file, found, picture
from mobilevit.data.box_sets import box_format, read_boxes
from mobilevit.data.boxes import Box
from mobilevit.errors import UserError

NAMES = {3: "cat", 1: "dog", 90: "owl"}
CONTENT = coco_content({"a.png": [(90, 1, 2, 10, 20), (1, 0, 0, 5, 5)], "b.png": []}, NAMES)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with one file to train on; do not change the pictures."""
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    coco_file(tmp_path / "train.json", CONTENT)
    return tmp_path


def changed(data: Path, **parts: object) -> Path:
    return coco_file(data / "train.json", CONTENT | parts)


def annotation(**parts: object) -> dict[str, object]:
    whole = {"id": 7, "image_id": 100, "category_id": 1, "bbox": [1, 2, 3, 4]}
    return {key: value for key, value in (whole | parts).items() if value is not None}


def test_sparse_ids_become_contiguous_labels_and_are_kept(data):
    folders = read_boxes(data, None)
    assert (folders.class_names, folders.class_ids) == (("dog", "cat", "owl"), (1, 3, 90))
    first, second = folders.train
    assert first.path == data / "a.png"
    assert first.label.items == (Box(1, 2, 11, 22, 2), Box(0, 0, 5, 5, 0))
    assert (first.label.width, first.label.height, first.label.image_id) == (40, 30, 100)
    assert second.label.items == ()
    assert folders.findings == ()
    changed(data, categories=[{"id": i, "name": n} for i, n in enumerate("xyz")], annotations=[])
    assert read_boxes(data, None).class_ids == ()


def test_crowds_are_ignored_and_areas_kept(data):
    changed(
        data, annotations=[annotation(iscrowd=1, area=5.5), annotation(id=8, bbox=[0, 0, 9, 9])]
    )
    crowd, plain = read_boxes(data, None).train[0].label.items
    assert (crowd.ignored, crowd.area, crowd.size) == (True, 5.5, 5.5)
    assert (plain.ignored, plain.area, plain.size) == (False, None, 81)


@pytest.mark.parametrize(
    ("train", "val", "places"),
    [
        ("annotations/instances_train2017.json", "annotations/instances_val2017.json", "{}2017"),
        ("train.json", "val.json", "images"),
        ("train.json", "validation.json", "images/{}"),
        ("annotations/train.json", "annotations/val.json", "images/{}"),
        ("train/_annotations.coco.json", "valid/_annotations.coco.json", "{}"),
        ("instances_train.json", "instances_val.json", "."),
    ],
)
def test_files_and_pictures_are_found_where_they_usually_lie(tmp_path, train, val, places):
    for split, file in (("train", train), ("val", val)):
        place = "valid" if file.startswith("valid/") else places.format(split)
        picture(tmp_path / place / f"{split}.png")
        coco_file(tmp_path / file, coco_content({f"{split}.png": [(1, 2, 3, 4, 5)]}, {1: "x"}))
    assert box_format(tmp_path) == "coco"
    folders = read_boxes(tmp_path)
    assert [s.path.name for s in folders.train] == ["train.png"]
    assert [s.path.name for s in folders.val] == ["val.png"]
    assert folders.findings == ()


def test_pictures_of_another_split_are_not_taken_for_ones_of_the_same_name(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / split / "1.png")
        content = coco_content({"1.png": [(1, 2, 3, 4, 5)]}, {1: "x"})
        coco_file(tmp_path / f"{split}.json", content)
    assert read_boxes(tmp_path).val[0].path == tmp_path / "val" / "1.png"
    assert read_boxes(tmp_path / "val.json", None).train[0].path == tmp_path / "val" / "1.png"


def test_a_folder_has_one_file_for_each_split(data):
    coco_file(data / "instances_train2014.json", CONTENT)
    with pytest.raises(UserError, match=r"both 'instances_train2014.json' and 'train.json'"):
        read_boxes(data)
    (data / "train.json").unlink()
    (data / "instances_train2014.json").rename(data / "val.json")
    with pytest.raises(UserError, match=r"has val.json, but no file to train on"):
        read_boxes(data)
    (data / "val.json").rename(data / "result.json")
    assert len(read_boxes(data, None).train) == 2


@pytest.mark.parametrize(
    ("wrong", "check", "says"),
    [
        (annotation(category_id=2), "unknown-class", "annotation 7 with category_id 2"),
        (annotation(image_id=99), "unknown-picture", "annotation 7 with image_id 99"),
        (annotation(bbox=[1, 2, 3]), "broken-label", "annotation 7 with bbox [1, 2, 3]"),
        (annotation(bbox=[1, 2, 3, None]), "broken-label", "bbox [1, 2, 3, None]"),
        (annotation(bbox=None), "broken-label", "bbox None"),
        (annotation(bbox=5), "broken-label", "bbox 5"),
        (annotation(bbox=True), "broken-label", "bbox True"),
        (annotation(bbox=[1, 2, math.nan, 4]), "broken-box", "right nan"),
        (annotation(bbox=[1, 2, math.inf, 4]), "broken-box", "right inf"),
        (annotation(bbox=[10, 2, -3, 4]), "broken-box", "left 10, top 2, right 7"),
    ],
)
def test_what_is_wrong_with_an_annotation_is_an_error_and_the_rest_is_read(
    data, wrong, check, says
):
    changed(data, annotations=[*CONTENT["annotations"], wrong, wrong])
    folders = read_boxes(data, None)
    assert checks(folders) == {check: "error"}
    finding = found(folders, check)
    assert ": 2, for example train.json: " in finding.message
    assert says in finding.message
    assert finding.paths == (str(data / "train.json"),)
    assert len(folders.train[0].label.items) == 2


def test_a_picture_that_is_missing_is_told_and_left_out(data):
    (data / "b.png").unlink()
    folders = read_boxes(data, None)
    assert checks(folders) == {"label-without-picture": "warning"}
    assert f"'b.png', looked for in {data}" in found(folders, "label-without-picture").message
    assert [s.path.name for s in folders.train] == ["a.png"]


def test_a_picture_of_a_name_too_long_is_missing(data):
    changed(data, images=[*CONTENT["images"], {"id": 9, "file_name": "x" * 300 + ".png"}])
    folders = read_boxes(data, None)
    assert checks(folders) == {"label-without-picture": "warning"}
    assert len(folders.train) == 2


@pytest.mark.parametrize("area", [-1, math.nan, math.inf, 1e11, 110])
def test_an_area_that_cannot_be_is_not_believed(data, area):
    changed(data, annotations=[annotation(bbox=[0, 0, 10, 8], area=area)])
    folders = read_boxes(data, None)
    assert checks(folders) == {"wrong-area": "warning"}
    assert f"annotation 7 with area {area:g}" in found(folders, "wrong-area").message
    assert folders.train[0].label.items[0].size == 80


@pytest.mark.parametrize("size", [{}, {"width": 10**400, "height": 30}, {"width": 0, "height": 30}])
def test_a_size_that_is_missing_or_cannot_be_is_read_from_the_picture(data, size):
    changed(data, images=[{"id": 100, "file_name": "a.png"} | size])
    boxes = read_boxes(data, None).train[0].label
    assert (boxes.width, boxes.height, len(boxes.items)) == (40, 30, 2)


def test_two_images_with_one_id_are_an_error(data):
    changed(data, images=[*CONTENT["images"], CONTENT["images"][0]])
    assert checks(read_boxes(data, None)) == {"broken-label": "error"}


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({1: "dog", 3: "lynx"}, "3 'lynx' (in train it is 'cat')"),
        ({1: "dog", 4: "cow"}, "4 'cow' (not in train)"),
        ({1: "dog", 2: "dog"}, "2 'dog' (not in train)"),
    ],
)
def test_classes_of_val_have_to_be_those_of_train(data, names, says):
    number = list(names)[1]
    content = coco_content({"b.png": [(number, 1, 2, 3, 4), (1, 2, 2, 3, 4)]}, names)
    coco_file(data / "val.json", content)
    folders = read_boxes(data)
    assert checks(folders) == {"class-mismatch": "error"}
    assert says in found(folders, "class-mismatch").message
    assert [box.label for box in folders.val[0].label.items] == [0]


def test_classes_of_val_may_have_other_numbers(data):
    content = coco_content({"b.png": [(3, 1, 2, 3, 4), (4, 2, 2, 3, 4)]}, {3: "dog", 4: "cat"})
    coco_file(data / "val.json", content)
    folders = read_boxes(data)
    assert checks(folders) == {"renumbered-class": "info"}
    assert ": 2, for example val.json: 3 'dog' (in train 1)" in folders.findings[0].message
    labels = [box.label for box in folders.val[0].label.items]
    assert [folders.class_names[label] for label in labels] == ["dog", "cat"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"images": [],\n "annotations": [], "categories": [}', "in line 2, column 36"),
        ('{"images": {}, "annotations": [], "categories": []}', "no list 'images'"),
        ('{"images": [], "annotations": [3], "categories": []}', "no list 'annotations'"),
        ('{"images": [], "annotations": [], "categories": [{"id": "1"}]}', "{'id': '1'} needs"),
    ],
)
def test_a_broken_file_is_named_with_its_place(data, text, says):
    (data / "train.json").write_text(text)
    with pytest.raises(UserError) as raised:
        read_boxes(data)
    assert str(raised.value).startswith(str(data / "train.json"))
    assert says in str(raised.value)


def test_real_coco(shared_data):
    """Against the annotations as they stand in the file."""
    folders = read_boxes(shared_data / "coco")
    file = shared_data / "coco" / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    assert folders.findings == ()
    assert (len(folders.train), len(folders.val), len(folders.class_names)) == (128, 128, 80)
    assert (folders.class_ids[11], folders.class_names[11]) == (13, "stop sign")
    expected = sorted(
        (a["image_id"], a["category_id"], a["iscrowd"], a["area"], *a["bbox"][:2])
        for a in content["annotations"]
    )
    read = sorted(
        (s.label.image_id, folders.class_ids[b.label], b.ignored, b.area, b.left, b.top)
        for s in folders.train
        for b in s.label.items
    )
    assert read == expected
    assert sum(b.ignored for s in folders.train for b in s.label.items) == 10


def test_real_faces(shared_data):
    folders = read_boxes(shared_data / "faces")
    assert (folders.class_names, folders.class_ids) == (("face",), (1,))
    assert (len(folders.train), len(folders.val)) == (262, 87)
    assert sum(len(s.label.items) for s in (*folders.train, *folders.val)) == 5323
    assert folders.findings == ()
