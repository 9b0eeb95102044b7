from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevit.data.box_sets import read_boxes
from mobilevit.data.boxes import Box, Boxes
from mobilevit.data.findings import Finding
from mobilevit.data.folders import Folders, Sample
from mobilevit.data.scan import Scan, drop_unreadable, scan

Make = Callable[..., Sample[Boxes]]
NAMES = ("cat", "dog")
CAT, DOG = Box(0, 0, 50, 40, 0), Box(20, 20, 60, 60, 1)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a picture of 100 by 80 pixels, no two alike, and put boxes on it."""
    count = iter(range(1000))

    def sample(*boxes: Box, size: tuple[int, int] = (100, 80), **saving: object) -> Sample[Boxes]:
        number = next(count)
        pixels = np.random.default_rng(number).integers(0, 256, (80, 100, 3), np.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path, **saving)
        return Sample(path, Boxes(boxes, *size, image_id=number))

    return sample


def look(
    train: Sequence[Sample[Boxes]],
    val: Sequence[Sample[Boxes]],
    test: Sequence[Sample[Boxes]] = (),
    findings: tuple[Finding, ...] = (),
    size: int = 320,
) -> Scan:
    folders = Folders(NAMES, tuple(train), tuple(val), Path(), test=tuple(test), findings=findings)
    return scan(folders, progress=False, size=size)


def told(result: Scan) -> list[tuple[str, str]]:
    return [(finding.severity, finding.check) for finding in result.findings]


def test_sound_boxes_are_counted_without_findings(make):
    crowd = CAT._replace(ignored=True, left=60.0, right=90.0)
    result = look([make(CAT, DOG, crowd), make()], [make(DOG, CAT)], [make(CAT)])
    assert result.findings == ()
    assert result.counts == {
        "train": {"cat": 1, "dog": 1},
        "val": {"cat": 1, "dog": 1},
        "test": {"cat": 1, "dog": 0},
    }
    assert result.pictures == {"train": 2, "val": 1, "test": 1}
    json.dumps(result.to_dict())


def test_boxes_are_measured_at_the_size_trained_at(make):
    """100 by 80 pixels stretched to 320: a box of 10 by 10 is 32 by 40, of 35.8 in the mean."""
    sample, other = make(Box(0, 0, 10, 10, 0), CAT, DOG), make(CAT, DOG)
    sizes = look([sample], [other]).box_sizes
    assert sizes["train"] == {
        "under 8": 0,
        "8 to 16": 0,
        "16 to 32": 0,
        "32 to 96": 1,
        "96 to 192": 2,
        "192 and more": 0,
    }
    assert look([sample], [other], size=128).box_sizes["train"]["8 to 16"] == 1
    assert sum(sizes["val"].values()) == 2


def test_many_tiny_boxes_are_warned_of(make):
    tiny = [Box(x, 70, x + 2, 72, 0) for x in range(0, 80, 4)]
    few = look([make(CAT, DOG, CAT, DOG, tiny[0])], [make(CAT, DOG)])
    many = look([make(CAT, DOG, tiny[0])], [make(CAT, DOG)])
    assert told(few) == []
    assert told(many) == [("warning", "tiny-boxes")]
    assert "1 of 3 boxes" in many.findings[0].message
    assert told(look([make(CAT, DOG, tiny[0])], [make(CAT, DOG)], size=640)) == []


def test_a_class_without_boxes_is_a_warning(make):
    result = look([make(CAT)], [make(DOG)])
    assert told(result) == [("warning", "class-without-boxes")] * 2
    assert "dog" in result.findings[0].message
    assert "cat" in result.findings[1].message


@pytest.mark.parametrize("ignored", [(), (CAT._replace(ignored=True),)])
def test_without_any_box_nothing_is_trained_or_measured(make, ignored):
    assert told(look([make(*ignored)], [make(CAT, DOG)])) == [("error", "no-boxes")]
    assert told(look([make(CAT, DOG)], [make(*ignored)])) == [("error", "no-boxes")]


def test_what_the_reader_found_comes_first_and_once(make):
    findings = (
        Finding("warning", "duplicate-box", "twice"),
        Finding("error", "no-boxes", "as the reader says it"),
    )
    result = look([make()], [make(CAT, DOG)], findings=findings)
    assert [finding.message for finding in result.findings] == ["as the reader says it", "twice"]


def test_boxes_on_pictures_that_cannot_be_read_do_not_count(make):
    broken, sound = make(DOG), make(CAT)
    broken.path.write_bytes(b"no")
    result = look([broken, sound], [make(CAT, DOG)], [broken])
    assert told(result) == [("warning", "unreadable-picture"), ("warning", "class-without-boxes")]
    assert result.counts["train"] == {"cat": 1, "dog": 0}
    folders = Folders(NAMES, (broken, sound), (), Path(), test=(broken,))
    kept = drop_unreadable(folders, result)
    assert (kept.train, kept.test) == ((sound,), ())


def test_one_class_is_enough_and_rare_ones_are_warned_of(make):
    only = Folders(("cat",), (make(CAT),), (make(CAT),), Path())
    assert scan(only, progress=False).findings == ()
    cats = [CAT._replace(left=float(x)) for x in range(11)]
    result = look([make(*cats, DOG)], [make(CAT, DOG)])
    assert told(result) == [("warning", "imbalance")]
    assert "cat has 11 boxes" in result.findings[0].message


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def test_boxes_for_the_picture_as_it_lies_in_the_file_are_an_error(make):
    turned = make(CAT, DOG, exif=exif(6))
    result = look([turned], [make(CAT, DOG)])
    assert told(result) == [("error", "size-mismatch")]
    assert "EXIF" in result.findings[0].message
    assert "0.png is 80×100, its label says 100×80" in result.findings[0].message
    assert result.findings[0].paths == (str(turned.path),)
    assert told(look([make(CAT, DOG, size=(80, 100), exif=exif(6))], [make(CAT, DOG)])) == []


def test_labels_of_another_shape_are_an_error(make):
    result = look([make(CAT, DOG, size=(80, 100)), make(CAT, size=(50, 80))], [make(CAT, DOG)])
    assert told(result) == [("error", "size-mismatch")]
    assert "EXIF" not in result.findings[0].message
    assert len(result.findings[0].paths) == 2


def test_pictures_scaled_after_they_were_labelled_are_no_problem(make):
    result = look([make(CAT, DOG, size=(500, 402))], [make(CAT, DOG)])
    assert told(result) == [("info", "size-mismatch")]


def test_copies_whose_boxes_differ_are_at_odds(make, tmp_path):
    first, second, third = make(CAT, DOG), make(CAT, DOG), make(CAT, DOG)
    shutil.copy(first.path, tmp_path / "same.png")
    shutil.copy(second.path, tmp_path / "other.png")
    rounded = (DOG, CAT._replace(right=50.04))
    same = Sample(tmp_path / "same.png", Boxes(rounded, 100, 80, image_id=77))
    other = Sample(tmp_path / "other.png", Boxes((CAT,), 100, 80))
    result = look([first, second], [third, same], [other])
    found = {finding.check: finding for finding in result.findings}
    assert set(found) == {"duplicate-across-splits", "label-conflict"}
    assert "train and val and test" in found["duplicate-across-splits"].message
    assert found["label-conflict"].paths == (str(second.path), str(other.path))
    assert "different boxes (dog)" in found["label-conflict"].message


def test_more_boxes_than_evaluation_looks_at_are_warned_of(make):
    many = [Box(x, y, x + 5, y + 5, 0) for x in range(0, 90, 6) for y in range(0, 70, 10)]
    assert len(many) > 100
    crowd = make(*many, *[DOG._replace(left=float(x)) for x in range(20)])
    assert ("warning", "uncounted-boxes") in told(look([make(CAT, DOG)], [crowd]))
    assert ("warning", "uncounted-boxes") not in told(look([crowd], [make(*many[:100], DOG)]))


@pytest.mark.parametrize(
    ("name", "boxes", "checks"),
    [
        ("bccd", {"train": 2805, "val": 1138, "test": 945}, {"imbalance"}),
        ("coco", {"train": 929, "val": 898}, {"class-without-boxes", "imbalance"}),
        ("faces", {"train": 4059, "val": 1264}, {"tiny-boxes", "uncounted-boxes"}),
    ],
)
def test_real_data(shared_data, name, boxes, checks):
    result = scan(read_boxes(shared_data / name), progress=False)
    assert {split: sum(row.values()) for split, row in result.box_sizes.items()} == boxes
    assert {finding.check for finding in result.findings} == checks
    assert result.errors == ()
