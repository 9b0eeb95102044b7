from __future__ import annotations

import json
import os
import shutil
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevit.data import picture_checks
from mobilevit.data import scan as scanning
from mobilevit.data.findings import Finding
from mobilevit.data.folders import read_folders
from mobilevit.data.scan import Scan, drop_unreadable, scan


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(colours).resize(size, Image.Resampling.NEAREST).save(path)
    return path


@pytest.fixture
def data(tmp_path) -> Path:
    """A sound data set: two classes, 12 pictures to train and 3 to validate on each."""
    for index in range(30):
        split, number = ("train", index) if index < 24 else ("val", index)
        picture(tmp_path / split / "ab"[index % 2] / f"{number}.png", index)
    return tmp_path


def look(data: Path) -> Scan:
    return scan(read_folders(data), progress=False)


def found(result: Scan, check: str) -> Finding:
    matches = [finding for finding in result.findings if finding.check == check]
    assert len(matches) == 1, result.findings
    return matches[0]


def file_names(finding: Finding) -> set[str]:
    return {Path(path).name for path in finding.paths}


def test_sound_data_has_no_findings(data):
    result = look(data)
    assert result.findings == ()
    assert result.unreadable == frozenset()
    assert result.counts == {"train": {"a": 12, "b": 12}, "val": {"a": 3, "b": 3}}
    assert result.sizes.width == (40, 40, 40)
    assert result.sizes.height == (32, 32, 32)


def test_unreadable_pictures_are_named_and_left_out(data):
    cut = data / "train" / "a" / "0.png"
    cut.write_bytes(cut.read_bytes()[:60])
    (data / "train" / "a" / "2.png").write_bytes(b"")
    (data / "val" / "b" / "gone.jpg").symlink_to(data / "nowhere")
    folders = read_folders(data)
    result = scan(folders, progress=False)
    findings = [finding for finding in result.findings if finding.check == "unreadable-picture"]
    assert {name for f in findings for name in file_names(f)} == {"0.png", "2.png", "gone.jpg"}
    assert "empty" in "".join(finding.message for finding in findings)
    assert all(finding.severity == "warning" for finding in findings)
    assert result.counts["train"] == {"a": 10, "b": 12}
    kept = drop_unreadable(folders, result)
    assert (len(kept.train), len(kept.val)) == (22, 6)
    assert kept.class_names == folders.class_names
    assert drop_unreadable(kept, look(data)) == kept


def test_a_jpeg_cut_short_is_found(data, shared_data):
    real = next((shared_data / "coco" / "val2017").glob("*.jpg")).read_bytes()
    (data / "train" / "a" / "cut.jpg").write_bytes(real[: len(real) * 9 // 10])
    assert file_names(found(look(data), "unreadable-picture")) == {"cut.jpg"}


def test_a_bomb_is_left_out_and_says_its_size(data, monkeypatch):
    picture(data / "train" / "a" / "bomb.png", 99, size=(300, 300))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    finding = found(look(data), "unreadable-picture")
    assert file_names(finding) == {"bomb.png"}
    assert "90,000 pixels" in finding.message


def test_copies(data):
    train, val = data / "train", data / "val"
    shutil.copy(train / "a" / "0.png", val / "a" / "across.png")
    shutil.copy(train / "b" / "1.png", train / "b" / "within.png")
    shutil.copy(train / "a" / "2.png", train / "b" / "conflict.png")
    result = look(data)
    across = found(result, "duplicate-across-splits")
    assert file_names(across) == {"0.png", "across.png"}
    within = found(result, "duplicate-picture")
    assert file_names(within) == {"1.png", "within.png", "2.png", "conflict.png"}
    conflict = found(result, "label-conflict")
    assert file_names(conflict) == {"2.png", "conflict.png"}
    assert "a, b" in conflict.message
    assert len(result.warnings) == 3
    assert result.errors == ()


def test_large_files_that_only_begin_alike_are_no_copies(data):
    big = np.zeros((700, 700, 3), np.uint8)
    for value in (1, 2):
        big[-1] = value
        Image.fromarray(big).save(data / "train" / "a" / f"{value}.ppm")
    assert look(data).findings == ()


def test_a_class_without_pictures(data):
    (data / "train" / "empty").mkdir()
    for path in (data / "val" / "b").iterdir():
        path.unlink()
    result = look(data)
    assert [finding.check for finding in result.errors] == ["class-without-pictures"]
    assert "empty" in result.errors[0].message
    assert any("to validate on in b, empty" in finding.message for finding in result.warnings)


def test_a_class_with_only_unreadable_pictures_counts_as_empty(data):
    for path in (data / "train" / "b").iterdir():
        path.write_bytes(b"no")
    assert [finding.check for finding in look(data).errors] == ["class-without-pictures"]


def test_a_class_whose_pictures_are_all_held_back_is_said_to_have_them(data):
    for path in (data / "train" / "b").iterdir():
        path.unlink()
    (error,) = look(data).errors
    held = len(list((data / "val" / "b").iterdir()))
    assert f"to train on in b (but {held} to validate on)" in error.message


def test_few_and_unbalanced(data):
    for path in sorted((data / "train" / "b").iterdir())[1:]:
        path.unlink()
    result = look(data)
    assert "b (1)" in found(result, "few-pictures").message
    assert "a has 12 pictures" in found(result, "imbalance").message


def test_one_class(data):
    folders = read_folders(data)
    only = scan(
        type(folders)(("a",), tuple(s for s in folders.train if s.label == 0), (), data),
        progress=False,
    )
    assert "one-class" in [finding.check for finding in only.errors]


def test_pixels(data, monkeypatch):
    monkeypatch.setattr(picture_checks, "_HUGE", 10_000)
    picture(data / "train" / "a" / "huge.png", 50, size=(200, 100))
    picture(data / "train" / "a" / "tiny.png", 51, size=(100, 20))
    Image.new("CMYK", (40, 40)).save(data / "train" / "b" / "cmyk.jpg")
    Image.new("I;16", (40, 40), 9).save(data / "train" / "b" / "deep.png")
    result = look(data)
    assert file_names(found(result, "huge-picture")) == {"huge.png"}
    assert file_names(found(result, "tiny-picture")) == {"tiny.png"}
    unusual = found(result, "unusual-mode")
    assert unusual.severity == "info"
    assert "1 CMYK" in unusual.message
    assert "1 I;16" in unusual.message
    assert [finding.severity for finding in result.findings] == ["warning", "warning", "info"]


def test_files_that_are_not_used(data):
    (data / "train" / "a" / "notes.txt").write_text("hello")
    assert found(look(data), "not-a-picture").severity == "info"
    (data / "train" / "a" / "phone.HEIC").write_bytes(b"x")
    picture(data / "train" / "loose.png", 77)
    result = look(data)
    finding = found(result, "not-a-picture")
    assert finding.severity == "warning"
    assert "Convert .heic to JPEG" in finding.message
    assert file_names(found(result, "loose-picture")) == {"loose.png"}


def test_plain_values(data):
    (data / "train" / "a" / "0.png").write_bytes(b"")
    values = json.loads(json.dumps(look(data).to_dict()))
    assert values["unreadable"] == [str(data / "train" / "a" / "0.png")]
    assert values["findings"][0]["check"] == "unreadable-picture"
    assert values["counts"]["val"] == {"a": 3, "b": 3}
    assert values["sizes"]["width"] == [40, 40, 40]


@pytest.fixture
def many(tmp_path) -> Path:
    for index in range(240):
        picture(tmp_path / "train" / "ab"[index % 2] / f"{index}.png", index, (32, 32 + index))
    picture(tmp_path / "val" / "a" / "v.png", 1000)
    (tmp_path / "train" / "a" / "100.png").write_bytes(b"broken")
    return tmp_path


def test_processes_find_what_one_finds(many, capsys):
    folders = read_folders(many)
    alone = scan(folders, workers=1, progress=False)
    assert scan(folders, workers=2) == alone
    assert len(alone.unreadable) == 1
    assert capsys.readouterr().out == ""


def test_a_pool_that_breaks_is_made_up_for(many, monkeypatch):
    folders = read_folders(many)
    whole = scan(folders, workers=1, progress=False)

    class Broken:
        def __init__(self, size: int) -> None:
            assert size == 2

        def __enter__(self):
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def map(self, function, paths, chunksize):
            yield from map(function, paths[:50])
            raise BrokenProcessPool

    monkeypatch.setattr(scanning, "ProcessPoolExecutor", Broken)
    assert scan(folders, workers=2, progress=False) == whole


def test_a_script_without_a_main_guard_works_where_processes_are_spawned(many, tmp_path):
    import subprocess
    import sys

    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\n"
        "multiprocessing.set_start_method('spawn', force=True)\n"
        "from mobilevit.data.folders import read_folders\n"
        "from mobilevit.data.scan import scan\n"
        f"print(len(scan(read_folders({str(many)!r}), workers=2).unreadable), 'unreadable')\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(scanning.__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1 unreadable"


def test_torch_is_not_imported():
    import subprocess
    import sys

    code = (
        "import sys, mobilevit.data.scan, mobilevit.verbs.doctor; sys.exit('torch' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(scanning.__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0


def test_real_data(shared_data):
    folders = read_folders(shared_data / "imagenette" / "val")
    result = scan(folders, progress=False)
    assert result.unreadable == frozenset()
    assert sum(map(sum, (counts.values() for counts in result.counts.values()))) == 3925
    assert result.sizes.width == (160, 160, 160)
