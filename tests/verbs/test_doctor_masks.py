from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from boxes import coco_content, coco_file, picture, text
from masks import folder, mask
from mobilevit.errors import UserError
from mobilevit.verbs.doctor import Report, doctor


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder(tmp_path / "data", ["a", "b", "c"], (0, 0, 0, 1), split="train")
    return folder(tmp_path / "data", ["d"], (0, 1, 255, 255), split="val")


def rows(report: Report) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=160)
    report.print(console)
    lines = console.file.getvalue().splitlines()
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_tables_of_pixels_and_of_the_pictures_that_have_them(data):
    report = doctor(data, progress=False)
    assert report.ok
    assert report.findings == ()
    shown = rows(report)
    assert ["cat", "2,880", "75.00", "320", "50.00"] in shown
    assert ["dog", "960", "25.00", "320", "50.00"] in shown
    assert ["all", "3,840", "100.00", "640", "100.00"] in shown
    assert ["ignored", "0", "0.00", "640", "50.00"] in shown
    assert ["dog", "3", "1"] in shown
    assert ["all", "3", "1"] in shown
    values = json.loads(json.dumps(report.to_dict()))
    assert values["counts"]["train"] == {"cat": 2880, "dog": 960}
    assert values["holders"]["val"] == {"cat": 1, "dog": 1}
    assert values["ignored_pixels"] == {"train": 0, "val": 640}


def test_what_is_wrong_with_masks_makes_it_not_ok(data):
    mask(data / "masks" / "train" / "a.png", (0, 1, 9))
    report = doctor(data, progress=False)
    assert [finding.check for finding in report.findings] == ["unlisted-number"]
    assert not report.ok
    report = doctor(data, progress=False, task="classification")
    assert "--recipe masks" in report.findings[0].message
    (data / "classes.txt").unlink()
    report = doctor(data, progress=False)
    assert [finding.check for finding in report.findings] == ["layout"]
    assert "In the first 3 of them are: 0, 1, 9. Write classes.txt" in report.findings[0].message


def test_data_of_several_tasks_are_looked_at_for_the_one_that_is_named(tmp_path):
    data = tmp_path / "data"
    for split in ("train", "val"):
        name = f"{split}.png"
        content = coco_content({name: [(1, 5, 5, 10, 10)]}, {1: "cat"})
        content["annotations"][0]["segmentation"] = [[5, 5, 15, 5, 15, 15, 5, 15]]
        picture(data / split / name)
        coco_file(data / f"{split}.json", content)
    assert doctor(data, progress=False).scan.counts["train"] == {"cat": 1}
    assert doctor(data, progress=False, task="detection").scan.counts["train"] == {"cat": 1}
    counts = doctor(data, progress=False, task="segmentation").scan.counts["train"]
    assert counts["background"] + counts["cat"] == 40 * 30
    assert doctor(data, progress=False, task="classification").findings[0].check == "layout"
    with pytest.raises(UserError, match=r"unknown task 'segment'. Did you mean 'segmentation'"):
        doctor(data, task="segment")


def test_drawing_masks(data, tmp_path):
    target = tmp_path / "mosaic.png"
    assert doctor(data, progress=False, draw=target).ok
    with Image.open(target) as image:
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image))) > 50
    text(tmp_path / "mine.png", "mine")
    with pytest.raises(UserError, match="exists already"):
        doctor(data, draw=tmp_path / "mine.png")
