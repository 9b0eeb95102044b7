from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevit.deployment.contract import Contract
from mobilevit.tasks import get_task
from mobilevit.tasks.detection.predictions import decode, nearest_rows

CONTRACT = Contract(
    "detection", ("cat", "dog"), (320, 320), None, output="detections", class_ids=(17, 18)
)
ROWS = np.array(
    [[0.1, 0.2, 0.5, 0.6, 0.9, 1], [0, 0, 1, 1, 0.4, 0], [0, 0, 0.1, 0.1, 0.2, 0], [0] * 6],
    np.float32,
)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "000000000042.jpg"
    Image.new("RGB", (200, 100), "grey").save(path)
    return path


def test_boxes_come_out_in_pixels_with_names_and_the_users_numbers(picture: Path) -> None:
    (found,) = decode(ROWS[None], CONTRACT, [picture], None, 0.3)
    assert (found.width, found.height) == (200, 100)
    dog, cat = found.boxes
    assert (dog.name, dog.class_id, dog.score) == ("dog", 18, pytest.approx(0.9))
    assert dog.box == pytest.approx((20, 20, 100, 60))
    assert (cat.name, cat.class_id) == ("cat", 17)
    assert found.summary() == "dog 90% at 20,20 80x40; cat 40% at 0,0 200x100"


def test_unused_slots_are_never_boxes(picture: Path) -> None:
    (found,) = decode(ROWS[None], CONTRACT, [picture], None, 0.0)
    assert len(found.boxes) == 3
    assert len(decode(ROWS[None], CONTRACT, [picture], 1, 0.0)[0].boxes) == 1


def test_a_turned_photo_is_measured_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (200, 100))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    (found,) = decode(ROWS[None], CONTRACT, [tmp_path / "turned.jpg"], 1, 0.3)
    assert found.boxes[0].box == pytest.approx((10, 40, 50, 120))


def test_without_numbers_of_ones_own_classes_count_from_zero(picture: Path) -> None:
    contract = Contract("detection", ("cat", "dog"), (320, 320), None, output="detections")
    (found,) = decode(ROWS[None], contract, [picture], None, 0.3)
    assert [box.class_id for box in found.boxes] == [1, 0]


def test_coco_wants_width_and_height(picture: Path, tmp_path: Path) -> None:
    (found,) = decode(ROWS[None], CONTRACT, [picture], 1, 0.3)
    (row,) = found.to_coco()
    assert (row["image_id"], row["category_id"]) == (42, 18)
    assert row["bbox"] == pytest.approx([20, 20, 80, 40])
    named = tmp_path / "cat.jpg"
    Image.new("RGB", (10, 10)).save(named)
    assert decode(ROWS[None], CONTRACT, [named], 1, 0.3)[0].to_coco()[0]["image_id"] == "cat"


def test_nothing_found_is_said(picture: Path) -> None:
    (found,) = decode(ROWS[None], CONTRACT, [picture], None, 0.95)
    assert found.summary() == "nothing found"
    assert found.to_dict()["boxes"] == ()


def test_candidates_are_chosen_from_first(picture: Path) -> None:
    candidates = np.zeros((1, 30, 6), np.float32)
    candidates[0, :, :4] = (0.1, 0.2, 0.5, 0.6)
    candidates[0, :, 5] = np.linspace(0.5, 0.9, 30)
    contract = Contract("detection", ("cat", "dog"), (320, 320), None, output="candidates")
    (found,) = decode(candidates, contract, [picture], None, 0.3)
    assert [(box.name, round(box.score, 3)) for box in found.boxes] == [("dog", 0.9)]


def test_boxes_of_equal_scores_may_change_places() -> None:
    swapped = ROWS[[1, 0, 2, 3]]
    before, after, _ = nearest_rows(ROWS[None].astype(float), swapped[None].astype(float), 0.05)
    np.testing.assert_allclose(before, after)
    assert before.shape == (6, 5)  # three of each form, without the class
    moved = swapped.copy()
    moved[0, 2] -= 0.25
    before, after, same = nearest_rows(ROWS[None].astype(float), moved[None].astype(float), 0.05)
    assert np.abs(before - after).max() == pytest.approx(0.25)
    assert not same[0]


@pytest.mark.parametrize("classes", [3, 80])
def test_how_many_classes_there_are_does_not_change_what_is_the_same(classes: int) -> None:
    before = np.zeros((1, 20, 6))
    before[0, :4] = [(0.1 * i, 0.1, 0.1 * i + 0.2, 0.5, 0.9 - 0.1 * i, i % 3) for i in range(4)]
    before[0, 3, 5] = classes - 1

    def differs(**columns: float) -> float:
        after = before.copy()
        for name, value in columns.items():
            if name == "extra":
                after[0, 4] = (0.6, 0.6, 0.9, 0.9, value, classes - 1)
            elif name == "score":
                after[0, :4, 4] -= value
            elif name == "shift":
                after[0, :4, :4] += value
            else:
                after[0, 1, 5] = value
        one, other, _ = nearest_rows(before, after, 0.05)
        assert one.max() - one.min() <= 1
        return float(np.abs(one - other).max())

    assert differs() == 0
    assert differs(shift=0.05) == pytest.approx(0.05)
    assert differs(score=0.07) == pytest.approx(0.07)
    assert differs(extra=0.5) >= 0.5
    assert differs(renamed=classes - 1) >= 0.3


def test_raw_outputs_are_compared_as_they_come() -> None:
    contract = Contract("detection", ("cat", "dog"), (320, 320), None, output="candidates")
    before = np.random.default_rng(0).random((2, 9, 6))
    after = before.copy()
    after[1, 3, 5] = 2
    one, other, same = get_task("detection").align(before, after, contract)
    assert one is before
    assert other is after
    assert same[0]
    assert same[1] == (before[1, :, 4:].max(axis=1).argmax() == 3)


def test_answers_are_drawn(picture: Path) -> None:
    (found,) = decode(ROWS[None], CONTRACT, [picture], None, 0.3)
    with Image.open(picture) as image:
        drawn = found.draw(image.convert("RGB"))
        assert drawn.size == image.size
        changed = np.any(np.asarray(drawn) != np.asarray(image.convert("RGB")), axis=2)
    assert changed[20, 25:95].all()  # the upper edge of the dog's box
    assert not changed[45, 60]


@pytest.mark.parametrize("label", [0, 1])
def test_a_form_without_boxes_is_not_the_same_as_one_with_some(label: int) -> None:
    before, nothing = np.zeros((2, 1, 3, 6))
    before[0, 0] = (0.1, 0.1, 0.5, 0.5, 0.06, label)
    one, other, same = nearest_rows(before, nothing, 0.05)
    assert not same[0]
    assert np.abs(one - other).max() == pytest.approx(0.06)
    _, _, same = nearest_rows(nothing, nothing.copy(), 0.05)
    assert same[0]


def test_the_first_answer_of_raw_boxes_is_a_class_and_no_place() -> None:
    contract = replace(CONTRACT, output="candidates")
    before = np.zeros((2, 3, 6))
    before[:, 0, 4:] = (0.56, 0.42)
    before[:, 1, 4:] = (0.55, 0.10)
    elsewhere, other_class = before.copy(), before.copy()
    elsewhere[:, 1, 4] = 0.57
    other_class[:, 0, 4:] = (0.42, 0.56)
    task = get_task("detection")
    assert task.align(before, elsewhere, contract)[2].all()
    assert task.align(before[:, :1], other_class[:, :1], contract)[2].tolist() == [False, False]
