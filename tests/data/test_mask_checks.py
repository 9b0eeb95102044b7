from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from boxes import picture, text
from masks import SIZE, folder, mask
from mobilevit.data.findings import Finding
from mobilevit.data.mask_sets import read_masks
from mobilevit.data.scan import Scan, drop_unreadable, scan


def looked_at(data: Path, workers: int = 1) -> Scan:
    return scan(read_masks(data), workers=workers, progress=False)


def found(result: Scan, check: str) -> Finding:
    (finding,) = (finding for finding in result.findings if finding.check == check)
    return finding


def checks(result: Scan) -> dict[str, str]:
    return {finding.check: finding.severity for finding in result.findings}


def two_splits(data: Path) -> Path:
    """Write three pictures to train and two to validate on, half of each a cat, half a dog."""
    folder(data, ["a", "b", "c"], split="train")
    return folder(data, ["d", "e"], split="val")


def test_pixels_are_counted_by_class_and_split(tmp_path):
    two_splits(tmp_path)
    mask(tmp_path / "masks" / "train" / "a.png", (0, 0, 0, 255))
    result = looked_at(tmp_path)
    assert result.findings == ()
    assert result.counts == {"train": {"cat": 2240, "dog": 1280}, "val": {"cat": 1280, "dog": 1280}}
    assert result.holders == {"train": {"cat": 3, "dog": 2}, "val": {"cat": 2, "dog": 2}}
    assert result.ignored_pixels == {"train": 320, "val": 0}
    assert result.pictures == {"train": 3, "val": 2}
    assert result.box_sizes == {}
    values = result.to_dict()
    assert values["holders"]["train"]["dog"] == 2
    assert values["ignored_pixels"]["train"] == 320


def test_processes_count_what_one_counts(tmp_path):
    folder(tmp_path, [f"{i}" for i in range(210)], split="train")
    folder(tmp_path, ["v"], split="val")
    assert looked_at(tmp_path, workers=2) == looked_at(tmp_path)


def test_a_mask_of_another_size_is_an_error(tmp_path):
    two_splits(tmp_path)
    small = tmp_path / "masks" / "val" / "d.png"
    with Image.open(small) as image:
        halved = image.resize((20, 16), Image.Resampling.NEAREST)
    halved.save(small)
    finding = found(looked_at(tmp_path), "size-mismatch")
    assert finding.severity == "error"
    assert "1 mask of another size than the picture (d.jpg is 40×32, its mask 20×16)" in (
        finding.message
    )
    assert finding.paths == (str(tmp_path / "images" / "val" / "d.jpg"),)


def test_a_mask_of_a_picture_as_it_lies_in_the_file_is_told(tmp_path):
    two_splits(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = tmp_path / "images" / "train" / "a.jpg"
    with Image.open(photo) as image:
        image.load()
    image.save(photo, exif=exif)
    finding = found(looked_at(tmp_path), "size-mismatch")
    assert finding.severity == "error"
    assert "a.jpg is 32×40, its mask 40×32" in finding.message
    assert "as they lie in the file, not as the EXIF orientation turns them" in finding.message


def test_numbers_that_are_no_class_are_an_error(tmp_path):
    two_splits(tmp_path)
    mask(tmp_path / "masks" / "train" / "a.png", (0, 1, 7, 7))
    mask(tmp_path / "masks" / "val" / "d.png", (0, 1, 7, 9))
    finding = found(looked_at(tmp_path), "unlisted-number")
    assert finding.severity == "error"
    assert "7 (960 pixels of 2 masks), 9 (320 pixels of 1 mask)" in finding.message
    assert [Path(path).name for path in finding.paths] == ["a.png", "d.png"]


def test_the_number_after_the_last_is_ignored_but_told(tmp_path):
    two_splits(tmp_path)
    mask(tmp_path / "masks" / "train" / "a.png", (0, 1, 2, 255))
    result = looked_at(tmp_path)
    assert checks(result) == {"number-after-last": "warning"}
    finding = result.findings[0]
    assert "is in masks: 2 (320 pixels of 1 mask). It is ignored; but if" in finding.message
    assert finding.paths == (str(tmp_path / "masks" / "train" / "a.png"),)
    assert result.ignored_pixels["train"] == 640
    text(tmp_path / "classes.txt", "cat\ndog\nignore")
    assert looked_at(tmp_path).findings == ()


def test_greys_saved_in_colour_have_a_number_after_the_last(tmp_path):
    two_splits(tmp_path)
    mask(tmp_path / "masks" / "train" / "a.png", [(0, 0, 0), (2, 2, 2)])
    assert checks(looked_at(tmp_path)) == {"number-after-last": "warning"}


def test_colours_that_are_no_class_are_told_as_colours(tmp_path):
    two_splits(tmp_path)
    mask(tmp_path / "masks" / "train" / "a.png", [(0, 0, 0), (1, 2, 3)])
    assert "no class: colour 1 2 3 (640 pixels of 1 mask)" in (
        found(looked_at(tmp_path), "unlisted-number").message
    )


def test_a_mask_that_ends_too_early_leaves_its_picture_out(tmp_path):
    two_splits(tmp_path)
    noise = np.random.default_rng(0).integers(0, 2, (32, 40), np.uint8)
    broken = tmp_path / "masks" / "train" / "b.png"
    Image.fromarray(noise).save(broken)
    broken.write_bytes(broken.read_bytes()[:-60])
    folders = read_masks(tmp_path)
    result = scan(folders, workers=1, progress=False)
    assert checks(result) == {"unreadable-mask": "warning"}
    finding = found(result, "unreadable-mask")
    assert "1 mask cannot be read and will be left out with the pictures: the mask" in (
        finding.message
    )
    assert finding.paths == (str(broken),)
    kept = drop_unreadable(folders, result).train
    assert [sample.path.name for sample in kept] == ["a.jpg", "c.jpg"]


def test_classes_without_pixels_are_warnings(tmp_path):
    two_splits(tmp_path)
    text(tmp_path / "classes.txt", "cat\ndog\nowl\n")
    mask(tmp_path / "masks" / "train" / "a.png", (0, 1, 2))
    result = looked_at(tmp_path)
    assert checks(result) == {"class-without-pixels": "warning"}
    assert "no pixel to validate on in 1 class, never measured: owl." in result.findings[0].message
    mask(tmp_path / "masks" / "train" / "a.png")
    messages = [finding.message for finding in looked_at(tmp_path).findings]
    assert messages[0] == "no pixel to train on in 1 class, never learnt: owl."
    assert len(messages) == 2


def test_masks_without_any_class_are_told(tmp_path):
    two_splits(tmp_path)
    mask(tmp_path / "masks" / "train" / "a.png", (255,))
    finding = found(looked_at(tmp_path), "empty-mask")
    assert finding.severity == "warning"
    assert finding.paths == (str(tmp_path / "images" / "train" / "a.jpg"),)
    for name in "bc":
        mask(tmp_path / "masks" / "train" / f"{name}.png", (255,))
    assert found(looked_at(tmp_path), "no-masks").severity == "error"


def test_one_class_left_is_an_error_that_explains_black_and_white(tmp_path):
    two_splits(tmp_path)
    for path in (tmp_path / "masks").rglob("*.png"):
        mask(path, (0, 255))
    finding = found(looked_at(tmp_path), "one-class")
    assert finding.severity == "error"
    assert "pixels of 255 are a class, list it as NUMBER NAME" in finding.message
    text(tmp_path / "classes.txt", "0 cat\n255 dog\n")
    assert looked_at(tmp_path).findings == ()


def test_rare_classes_are_told(tmp_path):
    two_splits(tmp_path)
    for name in "abc":
        rare = np.zeros((32, 40), np.uint8)
        rare[0, 0] = 1
        Image.fromarray(rare).save(tmp_path / "masks" / "train" / f"{name}.png")
    finding = found(looked_at(tmp_path), "imbalance")
    assert (finding.severity, finding.message[-5:]) == ("warning", " dog.")


def test_copies_with_other_masks_are_at_odds(tmp_path):
    two_splits(tmp_path)
    for name in "ab":
        picture(tmp_path / "same.jpg", SIZE).replace(tmp_path / "images" / "train" / f"{name}.jpg")
    assert checks(looked_at(tmp_path)) == {"duplicate-picture": "warning"}
    mask(tmp_path / "masks" / "train" / "a.png", (0, 0, 1))
    result = looked_at(tmp_path)
    assert checks(result) == {"duplicate-picture": "warning", "label-conflict": "warning"}
    assert "with different masks (cat, dog)" in found(result, "label-conflict").message
    mask(tmp_path / "masks" / "train" / "a.png", (0, 255))
    message = found(looked_at(tmp_path), "label-conflict").message
    assert "with different masks (dog)" in message


def test_camvid(shared_data):
    folders = read_masks(shared_data / "camvid")
    folders = replace(folders, train=folders.train[::12], val=folders.val[::12], test=())
    result = scan(folders, workers=1, progress=False)
    assert checks(result) == {"number-after-last": "warning"}
    assert found(result, "number-after-last").message.startswith("the number after the last")
    assert result.pictures == {"train": 31, "val": 9}
    for split, count in result.pictures.items():
        pixels = sum(result.counts[split].values()) + result.ignored_pixels[split]
        assert pixels == count * 480 * 360
        assert 0 < result.holders[split]["bicyclist"] <= count
        assert 0.01 < result.ignored_pixels[split] / pixels < 0.1
