"""What is the same for all formats: repairs, splits, writing and reading back."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxes import Corners, checks, coco_content, coco_file, found, picture, text, voc_text
from mobilevit.data.box_sets import FORMATS, BoxFormat, box_format, read_boxes, write_boxes
from mobilevit.data.boxes import Box, Boxes
from mobilevit.data.folders import Folders, Sample
from mobilevit.errors import UserError

NAMES = ("cat", "dog")


def make(data: Path, format: str, pictures: dict[str, list[tuple[int, Corners]]]) -> Path:
    """Write pictures of 40×30 and their boxes, (class, corners), in a format; all to train on."""
    for name in pictures:
        picture(data / "images" / f"{name}.png")
    if format == "coco":
        boxes = {
            f"{name}.png": [(c + 1, x, y, right - x, bottom - y) for c, (x, y, right, bottom) in b]
            for name, b in pictures.items()
        }
        coco_file(data / "train.json", coco_content(boxes, dict(enumerate(NAMES, 1))))
    elif format == "yolo":
        for name, boxes_ in pictures.items():
            lines = [
                f"{c} {(x + r) / 80:.9f} {(y + b) / 60:.9f} {(r - x) / 40:.9f} {(b - y) / 30:.9f}\n"
                for c, (x, y, r, b) in boxes_
            ]
            text(data / "labels" / f"{name}.txt", "".join(lines))
        text(data / "data.yaml", f"train: images\nnames: [{', '.join(NAMES)}]")
    else:
        for name, boxes_ in pictures.items():
            things = [(NAMES[c], (x + 1, y + 1, r, b)) for c, (x, y, r, b) in boxes_]
            text(data / "annotations" / f"{name}.xml", voc_text(things))
        text(data / "labels.txt", "\n".join(NAMES))
    return data


def corners(boxes: Boxes) -> list[list[float]]:
    return [[round(value, 4) for value in box[:4]] for box in boxes.items]


@pytest.fixture(params=FORMATS)
def format(request: pytest.FixtureRequest) -> str:
    return request.param


GOOD = (0, (5.0, 6.0, 15.0, 16.0))


def test_formats_are_recognised(tmp_path, format):
    data = make(tmp_path, format, {"a": [GOOD]})
    assert box_format(data) == format
    assert box_format(str(data)) == format
    file = {"coco": data / "train.json", "yolo": data / "data.yaml"}.get(format)
    if file:
        assert box_format(file) == format
        assert len(read_boxes(file, None).train) == 1


def test_other_folders_are_none_of_them(tmp_path, photos):
    assert box_format(photos) is None
    assert box_format(tmp_path / "nowhere") is None
    text(tmp_path / "train.json", '{"images": []}')
    text(tmp_path / "empty.json", "")
    text(tmp_path / "settings.yaml", "model: {names: 3}")
    text(tmp_path / "page.xml", "<page/>")
    assert box_format(tmp_path) is None
    with pytest.raises(UserError, match=r"holds no boxes that could be read. Give a JSON file"):
        read_boxes(tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"phots: no such file or folder. Did you mean 'photos'"):
        read_boxes(tmp_path / "phots")


@pytest.mark.parametrize(
    ("corners_", "check", "kept"),
    [
        ((-10, 5, 10, 40), "outside-picture", [0, 5, 10, 30]),
        ((-0.75, 5, 10, 30.75), None, [0, 5, 10, 30]),
        ((38, 5, 45, 20), "outside-picture", [38, 5, 40, 20]),
        ((45, 5, 50, 20), "outside-picture", None),
        ((10, -9, 20, -2), "outside-picture", None),
        ((10, 5, 10, 20), "zero-area", None),
        ((10, 5, 20, 5), "zero-area", None),
        ((5, 6, 15, 16), "duplicate-box", None),
    ],
)
def test_boxes_are_repaired_alike_in_every_format(tmp_path, format, corners_, check, kept):
    data = make(tmp_path, format, {"a": [GOOD, (0, corners_)]})
    folders = read_boxes(data, None)
    assert checks(folders) == ({check: "warning"} if check else {})
    assert corners(folders.train[0].label) == [[5, 6, 15, 16], *([kept] if kept else [])]
    if check:
        finding = found(folders, check)
        assert ": 1, for example " in finding.message
        assert "on a.png, 40×30 (left " in finding.message
        assert len(finding.paths) == 1


def test_the_same_place_under_two_classes_is_no_duplicate(tmp_path, format):
    data = make(tmp_path, format, {"a": [GOOD, (1, GOOD[1])]})
    folders = read_boxes(data, None)
    assert [box.label for box in folders.train[0].label.items] == [0, 1]
    assert folders.findings == ()


def test_problems_are_counted_and_every_file_named(tmp_path):
    data = make(tmp_path, "yolo", {n: [GOOD, (0, (45, 5, 50, 20)), GOOD] for n in "abc"})
    folders = read_boxes(data, None)
    assert checks(folders) == {"outside-picture": "warning", "duplicate-box": "warning"}
    for check in checks(folders):
        assert ": 3, for example a.txt: box in line " in found(folders, check).message
        assert len(found(folders, check).paths) == 3


def test_no_boxes_to_train_on_are_an_error(tmp_path, format):
    folders = read_boxes(make(tmp_path, format, {"a": [], "b": []}), None)
    assert checks(folders) == {"no-boxes": "error"}
    assert "the 2 pictures to train on have no boxes" in found(folders, "no-boxes").message
    assert len(folders.train) == 2


def test_missing_pictures_leave_no_boxes_either(tmp_path):
    data = make(tmp_path, "coco", {"a": [GOOD]})
    (data / "images" / "a.png").unlink()
    assert checks(read_boxes(data)) == {"no-boxes": "error", "label-without-picture": "warning"}


def test_more_boxes_than_a_detector_has_places_for_are_an_error(tmp_path, format):
    many = [(0, (i % 200 / 8, i // 200 / 8, 30, 25)) for i in range(3001)]
    folders = read_boxes(make(tmp_path, format, {"a": many, "b": many[:-1]}), None)
    assert checks(folders) == {"too-many-boxes": "error"}
    assert "a.png: 3,001 boxes" in found(folders, "too-many-boxes").message
    assert found(folders, "too-many-boxes").paths == (str(tmp_path / "images" / "a.png"),)


@pytest.mark.parametrize(
    ("format", "file"), [("yolo", "labels/b.txt"), ("voc", "annotations/b.xml")]
)
def test_what_the_system_refuses_to_read_is_named(tmp_path, format, file):
    data = make(tmp_path, format, {"a": [GOOD], "b": [GOOD]})
    (data / file).unlink()
    (data / file).mkdir()
    with pytest.raises(UserError, match=rf"{file}: cannot be read \("):
        read_boxes(data)


def test_nothing_is_told_of_a_format_where_files_may_not_be_read(tmp_path, monkeypatch):
    make(tmp_path, "yolo", {"a": [GOOD]})

    def refuse(path: Path, **_: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(UserError, match=r"data.yaml: cannot be read \(Permission denied\)"):
        box_format(tmp_path)


def test_a_class_without_boxes_and_name_of_its_own_is_dropped(tmp_path):
    data = make(tmp_path, "yolo", {"a": [(1, GOOD[1]), (2, GOOD[1])]})
    text(data / "data.yaml", "train: images\nnames: [cell, cell, dog, owl]")
    folders = read_boxes(data, None)
    assert (folders.class_names, folders.class_ids) == (("cell", "dog", "owl"), (1, 2, 3))
    assert [box.label for box in folders.train[0].label.items] == [0, 1]
    assert folders.findings == ()
    text(data / "data.yaml", "train: images\nnames: [owl, owl, dog, dog]")
    assert read_boxes(data, None).class_ids == (1, 2)


def test_two_classes_of_one_name_are_an_error_where_both_have_boxes(tmp_path):
    data = make(tmp_path, "coco", {"a": [GOOD, (1, (1.0, 2.0, 9.0, 9.0))]})
    file = data / "train.json"
    text(file, file.read_text().replace("dog", "cat"))
    folders = read_boxes(data, None)
    assert checks(folders) == {"duplicate-class": "error"}
    assert "'cat' is the name of 1 and 2" in found(folders, "duplicate-class").message
    assert [box.label for box in folders.train[0].label.items] == [0, 1]


def test_errors_come_first(tmp_path):
    data = make(tmp_path, "yolo", {"a": [(0, (45, 5, 50, 20))]})
    assert [f.severity for f in read_boxes(data, None).findings] == ["error", "warning"]


def test_a_share_is_held_out_by_content(tmp_path, format):
    data = make(tmp_path, format, {str(i): [GOOD] for i in range(20)})
    whole = read_boxes(data, None)
    assert (len(whole.train), whole.val) == (20, ())
    folders = read_boxes(data, 0.4)
    assert set(folders.train) | set(folders.val) == set(whole.train)
    assert 2 <= len(folders.val) <= 14
    assert len(folders.train) + len(folders.val) == 20
    assert read_boxes(data, 0.4) == folders


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_share_lies_between_nothing_and_all(tmp_path, fraction):
    with pytest.raises(UserError, match=r"must lie between 0 and 1"):
        read_boxes(make(tmp_path, "yolo", {"a": [GOOD]}), fraction)


def test_no_side_of_a_split_is_empty(tmp_path):
    with pytest.raises(UserError, match=r"all of its pictures fell on one side"):
        read_boxes(make(tmp_path, "yolo", {"a": [GOOD]}))


WORDS = st.text("abcXYZäß &<>:'\"#-1.é", min_size=1, max_size=6).map(str.strip).filter(bool)
SIZES = st.tuples(st.integers(8, 60), st.integers(8, 60))


@st.composite
def box_sets(draw: st.DrawFn) -> tuple[Folders[Boxes], list[tuple[int, int]]]:
    """Draw a data set, and the sizes of its pictures, whose files are still to be written."""
    names = draw(st.lists(WORDS, min_size=1, max_size=3, unique=True))
    ids = draw(st.lists(st.integers(0, 99), min_size=len(names), max_size=len(names), unique=True))
    ids.sort()
    label = st.integers(0, len(names) - 1)

    def sample(number: int, size: tuple[int, int]) -> Sample[Boxes]:
        boxes: dict[Box, None] = {}
        for _ in range(draw(st.integers(0, 4))):
            sides = []
            for side in size:
                low = draw(st.integers(0, side * 8 - 1))
                sides.append((low / 8, draw(st.integers(low + 1, side * 8)) / 8))
            (left, right), (top, bottom) = sides
            box = Box(left, top, right, bottom, draw(label), draw(st.booleans()))
            boxes[box] = None
        shares = st.none() | st.floats(0.1, 1)
        items = tuple(b._replace(area=(s := draw(shares)) and s * b.size) for b in boxes)
        return Sample(Path(f"{number}.png"), Boxes(items, *size, image_id=1000 - number))

    sizes = draw(st.lists(SIZES, min_size=1, max_size=4))
    samples = [sample(number, size) for number, size in enumerate(sizes)]
    first = samples[0].label
    whole = Box(0, 0, *sizes[0], 0)  # there has to be one to train on
    if whole not in [b._replace(area=None) for b in first.items]:
        label_ = replace(first, items=(*first.items, whole))
        samples[0] = replace(samples[0], label=label_)
    folders = Folders(
        tuple(names),
        tuple(samples[:2]),
        tuple(samples[2:3]),
        Path(),
        test=tuple(samples[3:]),
        class_ids=() if ids == list(range(len(ids))) else tuple(ids),
    )
    return folders, sizes


def on_disk(folders: Folders[Boxes], folder: Path) -> Folders[Boxes]:
    def moved(samples: tuple[Sample[Boxes], ...]) -> tuple[Sample[Boxes], ...]:
        paths = [picture(folder / s.path, (s.label.width, s.label.height)) for s in samples]
        return tuple(replace(s, path=path) for s, path in zip(samples, paths, strict=True))

    train, val, test = map(moved, (folders.train, folders.val, folders.test))
    return replace(folders, train=train, val=val, test=test)


@settings(deadline=None, max_examples=25)
@given(box_sets(), st.sampled_from(FORMATS))
def test_what_is_written_is_read_back(drawn, format):
    """In each format, as far as it has a place for it."""
    with tempfile.TemporaryDirectory() as name:
        before = on_disk(drawn[0], Path(name) / "pictures")
        losses = {finding.check for finding in write_boxes(before, Path(name) / "new", format)}
        assert box_format(Path(name) / "new") == format
        after = read_boxes(Path(name) / "new", None)
        ignored = any(
            b.ignored for s in before.train + before.val + before.test for b in s.label.items
        )
        areas = any(b.area for s in before.train + before.val + before.test for b in s.label.items)
        assert not after.findings
        assert after.class_names == before.class_names
        assert after.class_ids == (before.class_ids if format == "coco" else ())
        for split in ("train", "val", "test"):
            old, new = getattr(before, split), getattr(after, split)
            assert [s.path.name for s in new] == [s.path.name for s in old]
            for s, t in zip(old, new, strict=True):
                assert t.path.read_bytes() == s.path.read_bytes()
                assert (t.label.width, t.label.height) == (s.label.width, s.label.height)
                kept = [b for b in s.label.items if format != "yolo" or not b.ignored]
                assert [b[4:6] for b in t.label.items] == [b[4:6] for b in kept]
                np.testing.assert_allclose(
                    [b[:4] for b in t.label.items], [b[:4] for b in kept], atol=1e-4
                )
                if format == "coco":
                    assert t.label.image_id == s.label.image_id
                    assert [b.size for b in t.label.items] == [b.size for b in kept]
    expected = {"image-ids"} | {"class-ids" for _ in before.class_ids[:1]}
    expected |= {"areas"} if areas else set()
    expected |= {"ignored-boxes"} if ignored and format == "yolo" else set()
    assert losses == (set() if format == "coco" else expected)


def test_pictures_of_one_name_are_kept_apart(tmp_path, format):
    boxes = Boxes((Box(1, 2, 3, 4, 0),), 40, 30)
    names = ("x/1.png", "y/1.png", "y/1.jpg", "y/1-2.png")
    train = tuple(Sample(picture(tmp_path / name), boxes) for name in names)
    write_boxes(Folders(("x",), train, train[:1], tmp_path), tmp_path / "new", format)
    after = read_boxes(tmp_path / "new")
    assert len(after.val) == 1
    assert {s.path.read_bytes() for s in after.train} == {s.path.read_bytes() for s in train}
    assert len({s.path.stem for s in (*after.train, *after.val)}) == 5


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, format: BoxFormat):
    folders = read_boxes(make(tmp_path / "data", "voc", {"a": [GOOD], "b": [GOOD]}), None)
    text(tmp_path / "full" / "mine.txt", "mine")
    with pytest.raises(UserError, match=r"full: it exists and is not empty"):
        write_boxes(folders, tmp_path / "full", format)
    folders.train[1].path.unlink()
    with pytest.raises(UserError, match=r"b.png: cannot be copied \(No such file"):
        write_boxes(folders, tmp_path / "new", format)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "full"]


def test_labels_of_another_size_than_the_picture_do_not_pass_the_proof(tmp_path):
    wrong = Sample(picture(tmp_path / "1.png", (40, 30)), Boxes((Box(1, 2, 3, 4, 0),), 80, 60))
    with pytest.raises(UserError, match=r"1.png: as yolo .* 1 on 40×30 for 1 on 80×60"):
        write_boxes(Folders(("x",), (wrong,), (), tmp_path), tmp_path / "new", "yolo")
    assert not (tmp_path / "new").exists()


def test_an_unknown_format_is_refused(tmp_path):
    folders = read_boxes(make(tmp_path, "voc", {"a": [GOOD]}), None)
    with pytest.raises(UserError, match=r"unknown format of boxes 'vocs'. Did you mean 'voc'"):
        write_boxes(folders, tmp_path / "new", "vocs")  # type: ignore[arg-type]
