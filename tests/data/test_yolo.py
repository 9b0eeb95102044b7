from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from boxes import checks, found, picture, text
from mobilevit.data.box_sets import box_format, read_boxes
from mobilevit.data.boxes import Boxes
from mobilevit.errors import UserError

SETTINGS = "train: images/train\nval: images/val\nnames: [dog, cat]\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        picture(tmp_path / "images" / split / f"{split}.png")
        text(tmp_path / "labels" / split / f"{split}.txt", "1 0.5 0.5 0.25 0.2\n")
    text(tmp_path / "data.yaml", SETTINGS)
    return tmp_path


def label(data: Path, *lines: str) -> Path:
    return text(data / "labels" / "train" / "train.txt", "\n".join(lines))


def boxes_of(data: Path) -> Boxes:
    return read_boxes(data).train[0].label


def test_a_folder_whose_yaml_names_no_pictures_is_not_taken_for_boxes(tmp_path):
    text(tmp_path / "about.yaml", "names: [dog, cat]\nlicence: none\n")
    assert box_format(tmp_path) is None
    assert box_format(tmp_path / "about.yaml") == "yolo"


@pytest.mark.parametrize("place", [".", "labels"])
def test_without_a_yaml_file_the_classes_are_listed(data, place):
    (data / "data.yaml").unlink()
    text(data / place / "classes.txt", "dog\ncat\n")
    assert box_format(data) == "yolo"
    folders = read_boxes(data)
    assert (folders.class_names, folders.findings) == (("dog", "cat"), ())
    assert [sample.path.name for sample in folders.train] == ["train.png"]
    assert [sample.path.name for sample in folders.val] == ["val.png"]
    assert [box.label for box in boxes_of(data).items] == [1]


def test_without_a_yaml_file_and_a_split_all_pictures_are_to_train_on(data):
    (data / "data.yaml").unlink()
    text(data / "classes.txt", "dog\ncat")
    for kind in ("images", "labels"):
        (data / kind / "val").rename(data / kind / "more")
        (data / kind / "train").rename(data / kind / "some")
    assert len(read_boxes(data, None).train) == 2


def test_without_a_yaml_file_and_classes_it_is_said_where_to_write_them(data):
    (data / "data.yaml").unlink()
    assert box_format(data) == "yolo"
    with pytest.raises(UserError, match=r"neither data\.yaml nor .*classes\.txt\. Write"):
        read_boxes(data)
    text(data / "classes.txt", "dog\n\ncat\n")
    with pytest.raises(UserError, match=r"classes\.txt: needs the name of a class in each line"):
        read_boxes(data)


def test_pictures_and_masks_are_no_boxes(tmp_path):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "labels" / "a.png")
    text(tmp_path / "labels" / "notes.txt", "made by hand\n")
    assert box_format(tmp_path) is None


def test_a_byte_order_mark_is_passed_over(data):
    (data / "data.yaml").write_text("names: [dog, cat]\ntrain: images/train\n", "utf-8-sig")
    assert read_boxes(data, None).class_names == ("dog", "cat")


def test_shares_become_pixels(data):
    label(data, "1 0.5 0.5 0.25 0.2", "", "0.0 0.25 0.5 0.5 1.0")
    folders = read_boxes(data)
    assert (folders.class_names, folders.class_ids, folders.findings) == (("dog", "cat"), (), ())
    boxes = folders.train[0].label
    assert (boxes.width, boxes.height, boxes.image_id) == (40, 30, None)
    expected = [(15, 12, 25, 18), (0, 0, 20, 30)]
    np.testing.assert_allclose([box[:4] for box in boxes.items], expected)
    assert [box.label for box in boxes.items] == [1, 0]
    assert [s.path.name for s in folders.val] == ["val.png"]


def test_boxes_are_on_the_upright_picture(data):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (40, 30)).save(data / "images" / "train" / "train.png", exif=exif)
    boxes = boxes_of(data)
    assert (boxes.width, boxes.height) == (30, 40)
    np.testing.assert_allclose(boxes.items[0][:4], (11.25, 16, 18.75, 24))


@pytest.mark.parametrize(
    ("names", "classes", "ids"),
    [
        ("[no, 1]", ("no", "1"), ()),
        ("{0: dog, 1: cat}", ("dog", "cat"), ()),
        ("{7: owl, 1: cat}", ("cat", "owl"), (1, 7)),
    ],
)
def test_names_are_a_list_or_a_mapping(data, names, classes, ids):
    text(data / "data.yaml", f"train: images/train\nval: images/val\nnc: 2\nnames: {names}\n")
    folders = read_boxes(data)
    assert (folders.class_names, folders.class_ids) == (classes, ids)
    assert folders.class_names[folders.val[0].label.items[0].label] == classes[not ids]


@pytest.mark.parametrize(
    ("settings", "move"),
    [
        ("path: elsewhere\ntrain: train.txt\nval: [images/val]", {}),
        ("train: ../train/images\nval: ../val/images", {"images/{}": "{}/images"}),
        ("train: photos/train\nval: photos/val", {"images": "photos", "labels": ""}),
        ("path: deep\ntrain: images/train\nval: images/val", {"": "deep"}),
    ],
    ids=["list", "roboflow", "beside", "path"],
)
def test_pictures_and_labels_are_found_where_they_usually_lie(data, settings, move, tmp_path):
    for split in ("train", "val"):
        image = data / "images" / split / f"{split}.png"
        lines = data / "labels" / split / f"{split}.txt"
        if "images/{}" in move:
            for file, kind in ((image, "images"), (lines, "labels")):
                (data / split / kind).mkdir(parents=True)
                file.rename(data / split / kind / file.name)
        elif "labels" in move:
            (data / "photos" / split).mkdir(parents=True)
            for file in (image, lines):
                file.rename(data / "photos" / split / file.name)
        elif "" in move:
            for file in (image, lines):
                target = data / "deep" / file.relative_to(data)
                target.parent.mkdir(parents=True)
                file.rename(target)
    text(data / "train.txt", "./images/train/train.png\n\n")
    text(data / "data.yaml", f"{settings}\nnames: [dog, cat]")
    folders = read_boxes(data / "data.yaml")
    assert [s.path.name for s in (*folders.train, *folders.val)] == ["train.png", "val.png"]
    assert all(len(s.label.items) == 1 for s in (*folders.train, *folders.val))
    assert folders.findings == ()


@pytest.mark.parametrize(
    ("line", "check", "says"),
    [
        ("1 0.5 0.5 0.2", "broken-label", "train.txt: line 2: '1 0.5 0.5 0.2'"),
        ("1 0.5 0.5 0.2 0.2 0.9", "broken-label", "line 2: '1 0.5 0.5 0.2 0.2 0.9'"),
        ("1 0,5 0,5 0,2 0,2", "broken-label", "0,5"),
        ("cat 0.5 0.5 0.2 0.2", "broken-label", "cat"),
        ("2 0.5 0.5 0.2 0.2", "unknown-class", "line 2: '2 0.5"),
        ("-1 0.5 0.5 0.2 0.2", "unknown-class", "-1"),
        ("0.5 0.5 0.5 0.2 0.2", "unknown-class", "0.5"),
        ("1 20 15 10 6", "absolute-coordinates", "line 2: '1 20 15 10 6'"),
        ("1 nan 0.5 0.2 0.2", "broken-box", "left nan"),
        ("1 0.5 inf 0.2 0.2", "broken-box", "top inf"),
        ("1 0.5 0.5 -0.2 0.2", "broken-box", "box in line 2 on train.png"),
    ],
)
def test_what_is_wrong_with_a_line_is_an_error_and_the_rest_is_read(data, line, check, says):
    file = label(data, "1 0.5 0.5 0.25 0.2", line)
    folders = read_boxes(data)
    assert checks(folders) == {check: "error"}
    finding = found(folders, check)
    assert ": 1, for example " in finding.message
    assert says in finding.message
    assert finding.paths == (str(file),)
    assert len(folders.train[0].label.items) == 1


def test_a_polygon_becomes_the_box_around_it(data):
    label(data, "1 0.25 0.5 0.5 0.2 0.75 0.4")
    folders = read_boxes(data)
    np.testing.assert_allclose(folders.train[0].label.items[0][:4], (10, 6, 30, 15))
    assert checks(folders) == {"polygon": "info"}


def test_a_picture_without_label_is_background(data):
    picture(data / "images" / "train" / "bare.png")
    folders = read_boxes(data)
    assert [len(s.label.items) for s in folders.train] == [0, 1]
    assert checks(folders) == {"picture-without-label": "info"}


def test_labels_without_pictures_are_told_once(data):
    """Lists of classes and notes are no labels, and pictures of another split are pictures."""
    orphan = text(data / "labels" / "train" / "orphan.txt", "1 0.5 0.5 0.2 0.2")
    text(data / "labels" / "train" / "classes.txt", "dog\ncat")
    text(data / "labels" / "train" / "notes.txt", "1 is a dog or a wolf")
    picture(data / "images" / "train" / "other.png")
    text(data / "labels" / "train" / "other.txt", "1 0.5 0.5 0.2 0.2")
    text(data / "list.txt", "images/train/train.png")
    text(data / "data.yaml", "train: list.txt\nval: list.txt\nnames: [dog, cat]")
    folders = read_boxes(data)
    assert checks(folders) == {"label-without-picture": "warning"}
    assert found(folders, "label-without-picture").paths == (str(orphan),)


def test_a_list_may_name_what_there_is_not(data):
    text(data / "labels" / "train" / "gone.txt", "1 0.5 0.5 0.2 0.2")
    lines = ["train.png", "gone.png", "nowhere.png"]
    text(data / "list.txt", "".join(f"images/train/{line}\n" for line in lines))
    text(data / "data.yaml", "train: list.txt\nval: images/val\nnames: [dog, cat]")
    folders = read_boxes(data)
    assert checks(folders) == {"unknown-picture": "error", "label-without-picture": "warning"}
    assert "'images/train/nowhere.png'" in found(folders, "unknown-picture").message
    assert [s.path.name for s in folders.train] == ["train.png"]


def test_a_picture_that_cannot_be_read_is_told_and_left_out(data):
    (data / "images" / "train" / "broken.png").write_bytes(b"no picture")
    folders = read_boxes(data)
    assert checks(folders) == {"unreadable-picture": "warning"}
    assert [s.path.name for s in folders.train] == ["train.png"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (SETTINGS + "nc: 3", "'nc' is 3, but 'names' has 2 classes"),
        (SETTINGS + "nc: many", "'nc' their number"),
        ("train: images/train\nnames: {a: dog}", "mapping of whole numbers"),
        ("train: images/train\nnames: dog", "has to be a list"),
        ("train: 'x\nnames: [dog]'", "there has to be one"),
        ("train: images/train\nnames:", "there has to be one"),
        ("train: images/train\nnames: {0: dog, 0: cat}", "YAML: the key '0' comes twice"),
        ("train:\nnames: [dog]", "no 'train'"),
        ("train: images/train\nnames: []", "there has to be one"),
        ("train: [images\nnames: [dog]\n: ]", "this is no YAML"),
        ("names: [dog]\nval: images/val", "no 'train'"),
        ("names: [dog]\ntrain: images/trian", "'train' is 'images/trian', which is not there"),
        (SETTINGS + "test: images/test", "or remove the line"),
    ],
)
def test_a_broken_yaml_file_is_named(data, settings, says):
    file = text(data / "data.yaml", settings)
    with pytest.raises(UserError) as raised:
        read_boxes(data)
    assert str(raised.value).startswith(str(file))
    assert says in str(raised.value)
    if "YAML" in says:
        assert "in line 2" in str(raised.value)


def test_a_yaml_file_nested_too_deeply_is_named(data):
    file = text(data / "data.yaml", SETTINGS + "deep: " + "[" * 1500)
    with pytest.raises(UserError, match=rf"{file}: this is no YAML"):
        read_boxes(data)


@pytest.mark.parametrize("nothing", ["", "~", "null", "# later"])
def test_a_split_may_be_nothing(data, nothing):
    text(data / "data.yaml", f"train: images/train\nval: {nothing}\nnames: [dog, cat]")
    folders = read_boxes(data, None)
    assert (len(folders.train), folders.val) == (1, ())


def test_data_yaml_comes_before_others_and_of_those_there_may_be_one(data):
    text(data / "other.yaml", "train: x\nnames: [x]")
    assert read_boxes(data).class_names == ("dog", "cat")
    (data / "data.yaml").rename(data / "mine.yaml")
    with pytest.raises(UserError, match=r"several YAML files .* mine.yaml, other.yaml"):
        read_boxes(data)
    text(data / "other.yaml", "nothing: here")
    assert read_boxes(data).class_names == ("dog", "cat")


def test_real_labels_say_the_same_as_those_of_coco(shared_data, tmp_path):
    """Two pictures without boxes have no file, and two files are of pictures that are not there."""
    coco = read_boxes(shared_data / "coco")
    for split in ("train2017", "val2017"):
        for kind, place in (("images", ""), ("labels", "yolo_labels")):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / split).symlink_to(shared_data / "coco" / place / split)
    settings = {"train": "images/train2017", "val": "images/val2017"}
    text(tmp_path / "data.yaml", yaml.safe_dump(settings | {"names": list(coco.class_names)}))
    assert box_format(tmp_path) == "yolo"
    folders = read_boxes(tmp_path)
    assert checks(folders) == {
        "label-without-picture": "warning",
        "picture-without-label": "info",
    }
    theirs = {s.path.name: s.label for s in (*coco.train, *coco.val)}
    compared = 0
    for sample in (*folders.train, *folders.val):
        expected = [box for box in theirs[sample.path.name].items if not box.ignored]
        assert sorted(b.label for b in sample.label.items) == sorted(b.label for b in expected)
        mine, expected = (
            sorted((b.label, *np.round(b[:4], 1)) for b in boxes)
            for boxes in (sample.label.items, expected)
        )
        np.testing.assert_allclose(mine, expected, atol=0.11)
        compared += len(mine)
    assert compared == 929 + 898
