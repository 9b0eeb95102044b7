from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilevit.data.box_checks import COUNTED
from mobilevit.data.boxes import Box, Boxes
from mobilevit.errors import MissingExtraError, UserError
from mobilevit.tasks.detection.metrics import (
    AveragePrecision,
    as_detections,
    imperfect,
)

Truth = tuple[list[str], list[Boxes]]


def read(file: Path) -> Truth:
    """The boxes of a COCO file, read in the plainest way."""
    data = json.loads(file.read_text())
    categories = sorted(data["categories"], key=lambda category: category["id"])
    places = {category["id"]: i for i, category in enumerate(categories)}
    boxes: dict[int, list[Box]] = {image["id"]: [] for image in data["images"]}
    for a in data["annotations"]:
        left, top, width, height = a["bbox"]
        where = (left, top, left + width, top + height)
        box = Box(*where, places[a["category_id"]], bool(a["iscrowd"]), a["area"])
        boxes[a["image_id"]].append(box)
    labels = [
        Boxes(tuple(boxes[image["id"]]), image["width"], image["height"], image["id"])
        for image in data["images"]
    ]
    return [category["name"] for category in categories], labels


@pytest.fixture(params=["train", "val"])
def coco(request: pytest.FixtureRequest, shared_data: Path) -> Truth:
    return read(shared_data / "coco" / "annotations" / f"instances_{request.param}2017.json")


def jittered(labels: list[Boxes], classes: int, slots: int = 60) -> np.ndarray:
    """The truth, crowds too, moved a little, with gaps, wrong classes and false alarms."""
    random = np.random.default_rng(0)
    detections = np.zeros((len(labels), slots, 6), np.float32)
    for rows, boxes in zip(detections, labels, strict=True):
        corners, names = boxes.corners(ignored=True), boxes.labels(ignored=True)
        corners = np.concatenate([corners, random.random((8, 4))])
        names = np.concatenate([names, random.integers(0, classes, 8)])
        size = np.tile(corners[:, 2:] - corners[:, :2], 2)
        corners = corners + random.normal(0, 0.08, corners.shape) * np.abs(size)
        one, other = np.hsplit(corners, 2)
        corners = np.concatenate([np.minimum(one, other), np.maximum(one, other)], axis=1)
        wrong = random.random(len(names)) < 0.1
        rows[: len(names), :4] = corners.clip(0, 1)
        rows[: len(names), 4] = random.random(len(names)) * (random.random(len(names)) > 0.1)
        rows[: len(names), 5] = np.where(wrong, random.integers(0, classes, len(names)), names)
    return detections


def of_pycocotools(names: list[str], labels: list[Boxes], detections: np.ndarray) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = COCO(), []
    annotations = [
        {
            "id": 0,
            "image_id": i,
            "category_id": b.label,
            "bbox": [b.left, b.top, b.right - b.left, b.bottom - b.top],
            "area": b.size,
            "iscrowd": int(b.ignored),
        }
        for i, boxes in enumerate(labels)
        for b in boxes.items
    ]
    truth.dataset = {
        "images": [{"id": i} for i in range(len(labels))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "annotations": [a | {"id": i} for i, a in enumerate(annotations, 1)],
    }
    for i, boxes in enumerate(labels):
        for *corners, score, label in detections[i][detections[i, :, 4] > 0].tolist():
            left, right = (x * boxes.width for x in corners[::2])
            top, bottom = (y * boxes.height for y in corners[1::2])
            box = [left, top, right - left, bottom - top]
            found.append({"image_id": i, "category_id": int(label), "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def filled(names: list[str], *batches: tuple[np.ndarray, list[Boxes]]) -> AveragePrecision:
    metric = AveragePrecision(names)
    for detections, labels in batches:
        metric.update(detections, labels)
    return metric


def test_it_agrees_with_pycocotools(coco, capfd):
    names, labels = coco
    detections = jittered(labels, len(names))
    metric = filled(names, (detections, labels))
    found = metric.compute()
    assert capfd.readouterr() == ("", "")
    expected = of_pycocotools(names, labels, detections)
    keys = ("map", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    assert [found[key] for key in keys] == pytest.approx(expected.stats[:6].tolist(), abs=1e-4)
    assert 0.05 < found["map"] < 0.95
    assert found["recall"] == pytest.approx(expected.stats[8], abs=1e-4)
    precision = expected.eval["precision"][:, :, :, 0, -1]
    curves = metric.precision_recall()
    for i, (name, row) in enumerate(found["per_class"].items()):
        assert row["boxes"] == sum((boxes.labels() == i).sum() for boxes in labels)
        if row["boxes"]:
            assert row["map"] == pytest.approx(precision[:, :, i].mean(), abs=1e-4)
            assert row["ap50"] == pytest.approx(precision[0, :, i].mean(), abs=1e-4)
            assert curves[name] == pytest.approx(precision[0, :, i], abs=1e-4)
        else:
            assert row == {"boxes": 0, "map": None, "ap50": None}
            assert name not in curves
    assert found["samples"] == 128
    json.dumps(found, allow_nan=False)


def test_the_truth_fed_back_is_perfect(coco):
    names, labels = coco
    found = filled(names, (as_detections(labels), labels)).compute()
    keys = ("map", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "recall")
    assert [found[key] for key in keys] == [1.0] * 7
    assert found["boxes"] == sum(len(boxes.labels()) for boxes in labels)
    assert imperfect(labels, names) == []


def test_batches_and_processes_add_up(coco):
    names, labels = coco
    detections = jittered(labels, len(names))
    merged = AveragePrecision(names)
    for start in range(0, 128, 50):
        part = slice(start, start + 50)
        merged.merge(filled(names, (detections[part], labels[part])))
    assert merged.compute() == filled(names, (detections, labels)).compute()


BOX = Box(10, 20, 50, 60, 0)
EXACT = (0.1, 0.2, 0.5, 0.6)


def row(corners: tuple[float, ...], score: float, label: int = 0) -> tuple[float, ...]:
    return (*corners, score, label)


def small(*pictures: tuple[list[tuple[float, ...]], list[Box]]) -> dict:
    """Measure pictures of 100 x 100 pixels and two classes."""
    most = max(len(rows) for rows, _ in pictures)
    detections = np.zeros((len(pictures), most, 6))
    for place, (rows, _) in zip(detections, pictures, strict=True):
        place[: len(rows)] = np.reshape(rows, (-1, 6))
    labels = [Boxes(tuple(items), 100, 100) for _, items in pictures]
    return filled(["a", "b"], (detections, labels)).compute()


def test_a_case_counted_by_hand():
    """One box is found behind a false alarm at half precision, the other not at all."""
    wide = Box(60, 0, 100, 40, 0)
    found = small(([row((0.7, 0.7, 0.9, 0.9), 0.9), row(EXACT, 0.8)], [BOX, wide]))
    assert found["map"] == found["ap50"] == pytest.approx(0.5 * 51 / 101)  # recalls 0 to 0.5
    assert found["recall"] == 0.5
    assert found["per_class"]["b"] == {"boxes": 0, "map": None, "ap50": None}
    assert found["ap_medium"] == pytest.approx(51 / 101)  # the false alarm is a small one
    assert found["ap_small"] is found["ap_large"] is None


def test_overlap_decides_which_thresholds_are_met():
    """The detection covers 40 x 31 of the box's 40 x 40 pixels: 0.5 to 0.75 are met."""
    found = small(([row((0.1, 0.2, 0.5, 0.51), 0.9)], [BOX]))
    assert (found["ap50"], found["ap75"]) == (1.0, 1.0)
    assert found["map"] == pytest.approx(0.6)


def test_false_alarms_on_a_picture_without_boxes_count():
    alarm = row((0.5, 0.5, 0.9, 0.9), 0.95)
    assert small(([row(EXACT, 0.9)], [BOX]), ([], []))["map"] == 1.0
    assert small(([row(EXACT, 0.9)], [BOX]), ([alarm], []))["map"] == pytest.approx(0.5)


def test_a_slot_without_a_score_is_not_there():
    assert small(([row((0.5, 0.5, 0.9, 0.9), 0.0, 1), row(EXACT, 0.5)], [BOX]))["map"] == 1.0


def test_the_same_box_found_twice_is_a_false_alarm():
    found = small(
        (
            [row(EXACT, 0.9), row(EXACT, 0.8), row((0.6, 0, 1, 0.4), 0.7)],
            [BOX, Box(60, 0, 100, 40, 0)],
        )
    )
    assert found["map"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_an_ignored_box_is_neither_hit_nor_miss():
    crowd = Box(60, 0, 100, 40, 0, ignored=True)
    inside = row((0.7, 0.1, 0.8, 0.2), 0.99)
    assert small(([row(EXACT, 0.9)], [BOX, crowd]))["recall"] == 1.0
    found = small(([row(EXACT, 0.9), inside], [BOX, crowd]))
    assert (found["map"], found["boxes"]) == (1.0, 1)


def test_the_area_of_the_object_tells_its_size():
    assert small(([row(EXACT, 0.9)], [BOX._replace(area=900)]))["ap_small"] == 1.0
    assert small(([row(EXACT, 0.9)], [BOX]))["ap_medium"] == 1.0


def test_more_boxes_than_are_counted_cannot_be_perfect():
    grid = [Box(x, y, x + 5, y + 5, 0) for x in range(0, 100, 9) for y in range(0, 100, 10)]
    labels = [Boxes((BOX,), 100, 100), Boxes(tuple(grid), 100, 100), Boxes((), 100, 100)]
    assert len(grid) > COUNTED
    assert imperfect(labels, ["a"]) == [1]
    assert imperfect([], ["a"]) == []


def test_a_box_too_small_for_its_picture_is_not_perfect():
    speck = Box(15_000, 15_000, 15_000.002, 15_000.002, 0)
    assert imperfect([Boxes((BOX,), 100, 100), Boxes((speck,), 20_000, 20_000)], ["a"]) == [1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("column", [0, 4, 5])
def test_broken_outputs_are_an_error_that_says_so(bad, column):
    detections = np.zeros((2, 3, 6), np.float32)
    detections[1, 2, column] = bad
    with pytest.raises(UserError, match="NaN or infinite for 1 of 2 pictures"):
        filled(["a"], (detections, [Boxes((), 9, 9)] * 2))


def test_candidates_are_chosen_from_first():
    """Of two candidates on the same object the likelier one is left, of the likelier class."""
    near = (*EXACT[:3], 0.59)
    rows = np.array([[(*EXACT, 0.9, 0), (*near, 0.8, 0), (0.6, 0, 1, 0.4, 0, 0.7)]])
    metric = AveragePrecision(["a", "b"], "candidates")
    metric.update(rows, [Boxes((BOX, Box(60, 0, 100, 40, 1)), 100, 100)])
    assert metric.compute()["map"] == 1.0


def test_what_does_not_fit_is_refused():
    one = np.array([[[0, 0, 1, 1, 0.5, 1]]])
    nothing = Boxes((), 9, 9)
    with pytest.raises(ValueError, match=r"classes from 1\.0 to 1\.0 do not fit 1 classes"):
        filled(["a"], (one, [nothing]))
    with pytest.raises(ValueError, match="do not fit 1 classes"):
        filled(["a"], (one * 0, [Boxes((BOX._replace(label=1),), 100, 100)]))
    with pytest.raises(ValueError, match="do not fit the boxes of 2 pictures"):
        filled(["a"], (one * 0, [nothing] * 2))
    with pytest.raises(ValueError, match="do not fit the boxes"):
        filled(["a"], (one[..., :5], [nothing]))
    with pytest.raises(ValueError, match="no samples"):
        filled(["a"]).compute()
    with pytest.raises(ValueError, match="cannot be merged"):
        filled(["a"]).merge(filled(["b"]))


def test_without_any_box_there_is_no_average_precision():
    with pytest.raises(UserError, match="none of the 3 pictures has a box"):
        filled(["a"], (np.zeros((3, 1, 6)), [Boxes((), 9, 9)] * 3)).compute()


def test_a_missing_evaluator_is_answered_with_the_pip_line(monkeypatch):
    metric = filled(["a"], (np.zeros((1, 1, 6)), [Boxes((BOX,), 100, 100)]))
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingExtraError, match=r'pip install "mobilevit\[detection\]"'):
        metric.compute()
