"""From one format of boxes to another with one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boxes import coco_content, coco_file, picture
from mobilevit import UserError, convert
from mobilevit.cli import main
from mobilevit.data.box_sets import box_format, read_boxes

BOXES = {"a.png": [(9, 1, 2, 10, 20), (4, -5, 0, 10, 5)], "b.png": []}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for split in ("train", "val"):
        for name in BOXES:
            picture(folder / split / name)
        coco_file(folder / f"{split}.json", coco_content(BOXES, {4: "cat", 9: "dog"}))
    return folder


def test_the_command_says_what_it_did(data, tmp_path, capsys):
    assert main(["convert", str(data), str(tmp_path / "new"), "--to", "yolo"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for words in (
        "warning: outside-picture: boxes that reach outside their picture: 2, for example",
        "info: class-ids: yolo has no place for the numbers of the classes",
        "train: 2 pictures, 2 boxes",
        "val: 2 pictures, 2 boxes",
        "new: 2 classes as yolo has them, and read back the same.",
    ):
        assert words in told
    assert box_format(tmp_path / "new") == "yolo"

    target = tmp_path / "back"
    assert main(["convert", str(tmp_path / "new"), str(target), "--to", "coco", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {
        "path": str(target),
        "format": "coco",
        "pictures": {"train": 2, "val": 2},
        "boxes": {"train": 2, "val": 2},
        "classes": ["cat", "dog"],
        "findings": [],
    }


@pytest.mark.parametrize("to", ["coco", "yolo"])
def test_it_is_said_that_outlines_are_left_out(data, tmp_path, to):
    file = data / "train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"] = [[1, 2, 11, 2, 11, 22]]
    coco_file(file, content)
    done = convert(data, tmp_path / "new", to=to)
    assert "outlines" in [finding.check for finding in done.findings]


def test_boxes_with_errors_are_not_converted(data, tmp_path):
    file = data / "train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 5
    coco_file(file, content)
    with pytest.raises(UserError, match=r"(?s)before this is mended.*unknown-class: .*category_id"):
        convert(data, tmp_path / "new", to="voc")
    assert not (tmp_path / "new").exists()


def test_a_source_is_never_overwritten(data):
    with pytest.raises(UserError, match=r"data: it exists and is not empty"):
        convert(data, data, to="voc")


def test_what_is_about_weights_is_refused_for_boxes(data, tmp_path):
    with pytest.raises(UserError, match=r"neither a library nor a channel order"):
        convert(data, tmp_path / "new", to="voc", channel_order="RGB")


def test_weights_are_no_boxes(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no boxes that could be read"):
        convert(tmp_path / "model.safetensors", tmp_path / "new", to="coco")


@pytest.mark.parametrize("to", ["coco", "yolo", "voc"])
def test_real_blood_cells(shared_data, tmp_path, to):
    done = convert(shared_data / "bccd", tmp_path / "new", to=to)
    assert done.pictures == {"train": 205, "val": 87, "test": 72}
    assert sum(done.boxes.values()) == 4888
    before, after = read_boxes(shared_data / "bccd"), read_boxes(tmp_path / "new")
    assert {s.path.name for s in before.val} == {s.path.name for s in after.val}


def test_real_coco_through_every_format(shared_data, tmp_path):
    """The classes that train has no box of are kept, for val has."""
    source = shared_data / "coco"
    for to in ("voc", "yolo", "coco"):
        done = convert(source, tmp_path / to, to=to)
        source = done.path
    assert done.pictures == {"train": 128, "val": 128}
    assert done.boxes == {"train": 939 - 10, "val": 898}
    assert done.classes == read_boxes(shared_data / "coco").class_names
