from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from boxes import checks, found, picture, text, voc_text
from mobilevit.data.box_sets import box_format, read_boxes
from mobilevit.data.boxes import Box
from mobilevit.errors import UserError


def make(data: Path, *names: str, images: str = "JPEGImages", labels: str = "Annotations") -> Path:
    for name in names:
        picture(data / images / f"{name}.png")
        things = [("dog", (2, 3, 12, 23)), ("cat", (1, 1, 40, 30))]
        text(data / labels / f"{name}.xml", voc_text(things))
    return data


def lists(data: Path, **splits: str) -> Path:
    for split, names in splits.items():
        text(data / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{n}\n" for n in names.split()))
    return data


def names(samples: tuple) -> list[str]:
    return [sample.path.stem for sample in samples]


def test_corners_count_from_one_and_are_inside(tmp_path):
    folders = read_boxes(make(tmp_path, "a"), None)
    assert (folders.class_names, folders.class_ids) == (("cat", "dog"), ())
    (sample,) = folders.train
    assert sample.label.items == (Box(1, 2, 12, 23, 1), Box(0, 0, 40, 30, 0))
    assert (sample.label.width, sample.label.height, sample.label.image_id) == (40, 30, None)
    assert folders.findings == ()


def test_hidden_files_are_passed_over(tmp_path):
    make(tmp_path, "a")
    text(tmp_path / "Annotations" / "._a.xml", "\0no XML")
    text(tmp_path / "JPEGImages" / "._a.png", "\0no PNG")
    folders = read_boxes(tmp_path, None)
    assert (names(folders.train), folders.findings) == (["a"], ())


def test_two_folders_for_one_split_are_not_chosen_between(tmp_path):
    for split in ("val", "valid", "train"):
        make(tmp_path, "a", images=split, labels=split)
    with pytest.raises(UserError, match="both 'val' and 'valid' could be its split 'val'"):
        read_boxes(tmp_path)


def test_difficult_ones_are_ignored(tmp_path):
    make(tmp_path, "a")
    file = tmp_path / "Annotations" / "a.xml"
    file.write_text(file.read_text().replace("</bndbox>", "</bndbox><difficult>1</difficult>", 1))
    assert [box.ignored for box in read_boxes(tmp_path, None).train[0].label.items] == [True, False]


def test_train_and_val_are_preferred_over_both_in_one(tmp_path):
    make(tmp_path, "a", "b", "c", "d")
    lists(tmp_path, train="a", val="b.png", test="c", trainval="a b d")
    folders = read_boxes(tmp_path)
    assert (names(folders.train), names(folders.val), names(folders.test)) == (["a"], ["b"], ["c"])
    assert checks(folders) == {"unlisted-picture": "info"}
    (tmp_path / "ImageSets" / "Main" / "train.txt").unlink()
    folders = read_boxes(tmp_path, None)
    assert [names(s) for s in (folders.train, folders.val, folders.test)] == [
        *(["a", "d"], ["b"], ["c"])
    ]
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").unlink()
    with pytest.raises(UserError, match=r"has val, test, but no train.txt"):
        read_boxes(tmp_path)


def test_trainval_alone_is_to_train_on(tmp_path):
    lists(make(tmp_path, "a", "b", "c"), trainval="a b", test="c")
    folders = read_boxes(tmp_path, None)
    assert (names(folders.train), folders.val, names(folders.test)) == (["a", "b"], (), ["c"])


def test_lines_of_a_list_may_have_endings_and_the_numbers_of_the_devkit(tmp_path):
    make(tmp_path, "a", "b", "c", "d.png", "e 1", "f")
    lines = "a.png\nb  1\nc.png -1\nd.png\ne 1\nf\t0\nf\n"
    text(tmp_path / "ImageSets" / "Main" / "train.txt", lines)
    folders = read_boxes(tmp_path, None)
    assert names(folders.train) == ["a", "b", "c", "d.png", "e 1", "f"]
    assert folders.findings == ()


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images", "annotations"), (".", "."), ("train", "train"), ("JPEGImages", "Annotations")],
)
def test_files_are_found_where_they_usually_lie(tmp_path, images, labels):
    make(tmp_path, "a", images=images, labels=labels)
    if images == "train":
        make(tmp_path, "b", images="valid", labels="valid")
    assert box_format(tmp_path) == "voc"
    folders = read_boxes(tmp_path, None)
    assert names(folders.train) == ["a"]
    assert names(folders.val) == (["b"] if images == "train" else [])
    assert folders.findings == ()


def test_a_list_of_classes_gives_their_order(tmp_path):
    make(tmp_path, "a")
    text(tmp_path / "labels.txt", "owl\ndog\n\ncat\n")
    assert read_boxes(tmp_path, None).class_names == ("owl", "dog", "cat")
    text(tmp_path / "labels.txt", "owl\ndog\n")
    folders = read_boxes(tmp_path, None)
    assert checks(folders) == {"unknown-class": "error"}
    assert "a.xml: object 2, name 'cat'" in found(folders, "unknown-class").message
    assert len(folders.train[0].label.items) == 1


def test_classes_of_val_have_to_be_those_of_train(tmp_path):
    lists(make(tmp_path, "a", "b"), train="a", val="b")
    text(tmp_path / "Annotations" / "b.xml", voc_text([("owl", (1, 1, 9, 9))]))
    folders = read_boxes(tmp_path)
    assert checks(folders) == {"class-mismatch": "error"}
    assert "b.xml: object 1, name 'owl'" in found(folders, "class-mismatch").message


@pytest.mark.parametrize(
    ("thing", "check", "says"),
    [
        (("dog", (1, 2, "x", 4)), "broken-label", "a.xml: object 1, name 'dog', {'xmin': '1'"),
        (("dog", (1, 2, 3)), "broken-label", "'ymax': ''"),
        (("", (1, 2, 3, 4)), "broken-label", "name ''"),
        (
            ("dog", (1, 2, "NaN", 4)),
            "broken-box",
            "box 1 on a.png, 40×30 (left 0, top 1, right nan",
        ),
        (("dog", (9, 2, 3, 4)), "broken-box", "left 8, top 1, right 3"),
    ],
)
def test_what_is_wrong_with_an_object_is_an_error_and_the_rest_is_read(
    tmp_path, thing, check, says
):
    make(tmp_path, "a")
    file = text(tmp_path / "Annotations" / "a.xml", voc_text([thing, ("dog", (1, 1, 9, 9))]))
    folders = read_boxes(tmp_path, None)
    assert checks(folders) == {check: "error"}
    assert says in found(folders, check).message
    assert found(folders, check).paths == (str(file),)
    assert len(folders.train[0].label.items) == 1


def test_pictures_and_labels_without_the_other_are_told_and_left_out(tmp_path):
    lists(make(tmp_path, "a", "b", "c"), train="a b c d")
    (tmp_path / "JPEGImages" / "b.png").unlink()
    (tmp_path / "Annotations" / "c.xml").unlink()
    folders = read_boxes(tmp_path, None)
    assert names(folders.train) == ["a"]
    assert checks(folders) == {
        "unknown-picture": "error",
        "label-without-picture": "warning",
        "picture-without-label": "warning",
    }
    assert "train.txt: 'd'" in found(folders, "unknown-picture").message
    assert "b.xml" in found(folders, "label-without-picture").message
    assert "c.png" in found(folders, "picture-without-label").message


@pytest.mark.parametrize("size", [None, (0, 0), ("9" * 5000, 30), (10**6 + 1, 30)])
def test_a_size_that_is_missing_or_cannot_be_is_read_from_the_picture(tmp_path, size):
    make(tmp_path, "a")
    text(tmp_path / "Annotations" / "a.xml", voc_text([("dog", (1, 1, 9, 9))], size))
    boxes = read_boxes(tmp_path, None).train[0].label
    assert (boxes.width, boxes.height) == (40, 30)


def test_a_broken_file_is_named_with_its_line(tmp_path):
    make(tmp_path, "a")
    file = text(tmp_path / "Annotations" / "a.xml", "<annotation>\n<object>\n</annotation>")
    with pytest.raises(UserError) as raised:
        read_boxes(tmp_path)
    assert str(raised.value).startswith(f"{file}: this is no XML: mismatched tag: line 3")


def test_real_blood_cells(shared_data):
    folders = read_boxes(shared_data / "bccd")
    assert folders.class_names == ("Platelets", "RBC", "WBC")
    splits = (folders.train, folders.val, folders.test)
    assert [len(split) for split in splits] == [205, 87, 72]
    boxes = [box for split in splits for sample in split for box in sample.label.items]
    assert Counter(folders.class_names[box.label] for box in boxes).total() == 4888
    first = next(s for s in folders.val if s.path.name == "BloodImage_00000.jpg")
    assert first.label.items[0] == Box(259, 176, 491, 376, 2)
    assert folders.findings == ()
