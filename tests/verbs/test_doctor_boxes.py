from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mobilevit.cli import main
from mobilevit.errors import UserError
from mobilevit.verbs import doctor as module
from mobilevit.verbs.doctor import doctor


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pictures of 64 by 48 pixels with a cat and a dog on each, as COCO has them."""
    for split, count in (("train", 6), ("val", 3)):
        write(tmp_path / "data", split, count)
    return tmp_path / "data"


def write(folder: Path, split: str, count: int) -> None:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(len(split))
    names = [f"{split}-{i}.png" for i in range(count)]
    for name in names:
        Image.fromarray(random.integers(0, 99, (48, 64, 3), np.uint8)).save(folder / name)
    boxes = [
        {"image_id": i, "category_id": category, "bbox": box, "iscrowd": 0, "area": 300}
        for i in range(count)
        for category, box in ((7, [2, 2, 20, 20]), (90, [30, 10, 30, 30]))
    ]
    content = {
        "images": [
            {"id": i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)
        ],
        "annotations": [{"id": i, **box} for i, box in enumerate(boxes, 1)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 90, "name": "dog"}],
    }
    (folder / f"{split}.json").write_text(json.dumps(content))


def printed(report: module.Report) -> list[str]:
    console = Console(file=io.StringIO(), width=160)
    report.print(console)
    return console.file.getvalue().splitlines()


def cells(lines: list[str], first: str) -> list[str]:
    """Return the other cells of the row of a table that begins with a word."""
    rows = [line.strip("│ ").split("│") for line in lines if line.startswith("│")]
    return [[cell.strip() for cell in row[1:]] for row in rows if row[0].strip() == first][-1]


def test_a_table_of_boxes_and_of_their_sizes(data):
    report = doctor(data, progress=False, size=96)
    assert report.ok
    assert report.findings == ()
    lines = printed(report)
    assert cells(lines, "cat") == ["6", "3"]
    assert cells(lines, "all") == ["12", "6"]
    assert cells(lines, "readable pictures") == ["6", "3"]
    assert cells(lines, "32 to 96") == ["12", "6"]
    assert any("96 by 96" in line for line in lines)
    assert "Ready." in lines
    values = json.loads(json.dumps(report.to_dict()))
    assert values["size"] == 96
    assert values["box_sizes"]["val"]["32 to 96"] == 6


def test_a_reader_that_fails_is_a_finding(data):
    (data / "train.json").write_text('{"images": [], "annotations": [], "categories": [}')
    report = doctor(data, progress=False)
    assert [finding.check for finding in report.findings] == ["layout"]
    assert "train.json" in report.findings[0].message


def test_the_truth_must_be_found_when_it_is_fed_back(data):
    file = data / "val.json"
    content = json.loads(file.read_text())
    content["images"][1].update(width=640_000, height=480_000)
    content["annotations"][2]["bbox"] = [600_000, 400_000, 0.05, 0.05]
    file.write_text(json.dumps(content))
    report = doctor(data, progress=False)
    found = [finding for finding in report.findings if finding.check == "truth-not-perfect"]
    assert [Path(path).name for path in found[0].paths] == ["val-1.png"]
    assert not report.ok


def test_without_the_evaluator_it_says_what_was_not_checked(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    report = doctor(data, progress=False)
    assert [finding.check for finding in report.findings] == ["truth-not-checked"]
    assert 'pip install "mobilevit[detection]"' in report.findings[0].message
    assert report.ok


def test_drawing_boxes_and_classes(data, photos, tmp_path):
    for source in (data, photos):
        target = tmp_path / "new" / f"{source.name}.png"
        assert doctor(source, progress=False, draw=target).ok
        with Image.open(target) as image:
            assert image.format == "PNG"
            assert image.width > 1600
            assert len(np.unique(np.asarray(image))) > 50
        assert [path.name for path in target.parent.glob(".*")] == []


def test_what_is_there_is_not_drawn_over(data, tmp_path):
    photo = data / "train-0.png"
    before = photo.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        doctor(data, draw=photo)
    assert photo.read_bytes() == before
    with pytest.raises(UserError, match="without DATA"):
        doctor(draw=tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.jpg: it is drawn as PNG"):
        doctor(data, draw=tmp_path / "a.jpg")
    with pytest.raises(UserError, match="size is 0"):
        doctor(data, size=0)


def test_the_command(data, tmp_path, capsys):
    target = tmp_path / "mosaic.png"
    arguments = ["doctor", str(data), "--json", "--strict", "--size", "64", "--draw", str(target)]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["size"] == 64
    assert target.is_file()
    content = json.loads((data / "val.json").read_text())
    content["annotations"] = content["annotations"][1::2]  # no cat any more
    (data / "val.json").write_text(json.dumps(content))
    assert main(["doctor", str(data), "--json"]) == 0
    assert main(["doctor", str(data), "--json", "--strict"]) == 1
    content["annotations"][0]["category_id"] = 8
    (data / "val.json").write_text(json.dumps(content))
    assert main(["doctor", str(data), "--json"]) == 1


def test_pictures_with_more_boxes_than_are_counted_do_not_spoil_the_check(shared_data):
    report = doctor(shared_data / "faces", progress=False)
    assert report.ok
    assert {f.check for f in report.findings} == {"tiny-boxes", "uncounted-boxes"}
