from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from mobilevit import UserError, compare, load_checkpoint
from mobilevit.data.folders import hold_back, read_folders
from mobilevit.studies.report import StudyReport
from mobilevit.studies.study import Study
from mobilevit.training.run_folder import RunFolder
from tiny import SETTINGS, assert_same_run, make_pictures, python

pytest.importorskip("timm", reason="timm is not installed")

STUDY = Study.from_dict(
    {
        "recipe": "photos",
        "settings": SETTINGS | {"size": 64, "sizes": []},
        "rates": [1e-3, 1e-2],
        "tuning_share": 1.0,
        "held_back": 0.4,
        "seeds": 2,
        "entries": {
            "MobileViT": {
                "group": "a",
                "model": "mobilevit_xxs",
                "numbers": {"layers": [1, 1, 1], "skip": False},
                "paper": 70.0,
            },
            "MobileNet": {"group": "b", "model": "timm:mobilenetv3_small_050"},
        },
    },
    "tiny.yaml",
)


def final(done: StudyReport, slug: str, seed: int) -> Path:
    (run,) = done.folder.glob(f"{slug}/lr-*-seed-{seed}")
    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("data"), train=16, val=8)


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyReport:
    """A study done in two calls, the second for what the first was not asked."""
    folder = tmp_path_factory.mktemp("study")
    first = compare(data, STUDY, output=folder, only=["a"], measure=False, progress=False)
    assert first.missing == 2
    assert "UNFINISHED: 2 of 4" in first.to_markdown()
    return compare(data, STUDY, output=folder, progress=False)


def test_every_entry_is_tuned_trained_and_measured(done: StudyReport) -> None:
    assert done.missing == 0
    for result in done.results:
        assert set(result.tried) == {1e-3, 1e-2}
        assert result.tried[result.rate or 0] == max(result.tried.values())
        assert [run.seed for run in result.trained] == [0, 1]
        assert result.mean == pytest.approx(sum(result.values) / 2)
        assert result.measures["backbone_parameters"] < result.measures["parameters"]
        assert result.measures["onnx_ms"] > 0
        assert result.measures["robustness"]["samples"] == 24


def test_the_rate_is_chosen_without_a_look_at_val(data: Path) -> None:
    folders = read_folders(data)
    held = hold_back(folders, 0.4)
    assert set(held.train) | set(held.val) == set(folders.train)
    assert not set(held.train) & set(held.val)
    assert held.val
    with pytest.raises(UserError, match="fell on one side"):
        hold_back(folders, 1e-9)


def test_tuning_sees_the_held_back_pictures_alone(done: StudyReport, data: Path) -> None:
    held = hold_back(read_folders(data), STUDY.held_back)
    checkpoint = load_checkpoint(done.folder / "mobilevit" / "rate-0.001" / "last.safetensors")
    assert checkpoint.metrics["samples"] == len(held.val)
    whole = load_checkpoint(final(done, "mobilevit", 0) / "last.safetensors")
    assert whole.metrics["samples"] == 24


def test_the_folder_holds_tables_plots_and_json(done: StudyReport) -> None:
    told = json.loads((done.folder / "results.json").read_text())
    assert told == json.loads(json.dumps(done.to_dict()))
    text = (done.folder / "README.md").read_text()
    for word in ("MobileViT", "MobileNet", "±", "ONNX ms", "Beside the paper", "Robustness"):
        assert word in text
    assert "UNFINISHED" not in text
    for name in ("accuracy.png", "curves.png"):
        assert (done.folder / name).read_bytes().startswith(b"\x89PNG")


def test_a_second_call_trains_nothing_again(done: StudyReport, data: Path) -> None:
    files = [*done.folder.rglob("*.safetensors"), *done.folder.rglob("measures.json")]
    before = {path: path.stat().st_mtime_ns for path in files}
    again = compare(data, STUDY, output=done.folder, progress=False)
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert len(before) > 10
    assert again.results == done.results


def test_checkpoints_of_what_is_done_may_be_deleted(
    done: StudyReport, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(done.folder, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    assert compare(data, STUDY, output=copy, progress=False).to_dict() == done.to_dict()
    assert not list(copy.rglob("*.safetensors"))
    known = json.loads((copy / "measures.json").read_text())
    del known["mobilenet"]
    (copy / "measures.json").write_text(json.dumps(known))
    again = compare(data, STUDY, output=copy, progress=False)
    assert [bool(result.measures) for result in again.results] == [True, False]
    assert "MobileNet: not measured, its checkpoint is gone" in capfd.readouterr().err


def test_other_settings_in_the_same_folder_are_refused(done: StudyReport, data: Path) -> None:
    with pytest.raises(UserError, match=r"other settings \(weight_decay .* there, 0.3 here\)"):
        compare(data, STUDY, output=done.folder, progress=False, weight_decay=0.3)


GOES_ON = """
import sys
from mobilevit import compare
assert compare(sys.argv[2], output=sys.argv[3], **eval(sys.argv[4])).missing == 0
"""
DIES = """
import os, sys
from mobilevit import compare
from mobilevit.training.run_folder import RunFolder

def die(self, row):
    append(self, row)
    if len(self.rows()) == 2:
        os._exit(9)

append, RunFolder.append = RunFolder.append, die
compare(sys.argv[2], output=sys.argv[3], **eval(sys.argv[4]))
"""


def test_a_study_killed_after_its_last_epoch_ends_as_if_it_had_not_been(
    data: Path, tmp_path: Path
) -> None:
    asked = SETTINGS | {"size": 64, "sizes": (), "epochs": 2, "seeds": 1}
    asked |= {"models": ["timm:mobilenetv3_small_050"], "recipe": "photos"}
    asked |= {"measure": False, "progress": False}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for program, output, status in ((DIES, killed, 9), (GOES_ON, killed, 0), (GOES_ON, whole, 0)):
        # in processes of one thread each: bits depend on the number of threads
        assert python(program, str(tmp_path), str(data), str(output), repr(asked)) == status
    (run,) = whole.glob("timm-mobilenetv3_small_050/lr-*-seed-0")
    assert_same_run(RunFolder(killed / run.relative_to(whole)), RunFolder(run))


def test_other_pictures_in_the_same_folder_are_refused(done: StudyReport, tmp_path: Path) -> None:
    other = make_pictures(tmp_path / "data", train=9, val=4)
    with pytest.raises(UserError, match="begun with other pictures"):
        compare(other, STUDY, output=done.folder, progress=False)


def test_what_was_measured_belongs_to_the_weights(
    done: StudyReport, data: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(done.folder, copy)
    run = RunFolder(copy / final(done, "mobilenet", 0).relative_to(done.folder))
    row = run.rows()[-1]
    another = row | {"val_loss": row["val_loss"] + 0.01}  # as of other weights
    run.metrics.write_text(json.dumps(another) + "\n")
    again = compare(data, STUDY, output=copy, only="b", measure=False, progress=False)
    assert [bool(result.measures) for result in again.results] == [True, False]


@pytest.mark.parametrize("batch_size", [8, 64], ids=["in training", "after its only step"])
def test_a_rate_that_diverges_is_not_chosen(batch_size: int, data: Path, tmp_path: Path) -> None:
    entry = {"MobileNet": {"model": "timm:mobilenetv3_small_050"}}
    changed = {"size": 32, "sizes": [], "batch_size": batch_size}
    told = {"settings": SETTINGS | changed, "rates": [1e-3, 1e30], "seeds": 1}
    study = Study.from_dict(told | {"entries": entry, "held_back": 0.4}, "wild.yaml")
    done = compare(data, study, output=tmp_path / "study", measure=False, progress=False)
    (result,) = done.results
    assert result.tried[1e30] == 0.0
    assert (result.rate, done.missing) == (1e-3, 0)


def test_a_training_that_diverges_does_not_keep_the_others_from_theirs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = {"size": 32, "sizes": [], "model": "timm:mobilenetv3_small_050"}
    told = {"settings": SETTINGS | changed, "rates": [1e-3], "seeds": 2}
    entries = {"wild $5_$": {"weight_decay": 1e30, "group": "$_$"}, "tame $6_$": {"group": "$_$"}}
    study = Study.from_dict(told | {"entries": entries}, "wild.yaml")
    asked: dict[str, Any] = {"output": tmp_path / "study", "measure": False, "progress": False}
    done = compare(data, study, **asked)
    wild, tame = done.results
    assert (wild.trained, wild.diverged, len(tame.trained)) == ((), (0, 1), 2)
    assert done.missing == 0
    assert "DIVERGED: wild $5_$ with the seed 0, 1." in done.to_markdown()
    monkeypatch.setattr("mobilevit.verbs.train.train_folders", None)  # nothing is tried again
    assert compare(data, study, **asked).to_dict() == done.to_dict()


def test_a_study_of_which_nothing_is_left_fails(data: Path, tmp_path: Path) -> None:
    asked = SETTINGS | {"size": 32, "sizes": [], "weight_decay": 1e30, "measure": False, "seeds": 1}
    for _ in range(2):
        with pytest.raises(UserError, match="all trainings diverged"):
            compare(data, models="timm:mobilenetv3_small_050", output=tmp_path / "study", **asked)


def test_a_folder_that_is_no_study_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match="holds no study"):
        compare(data, STUDY, output=tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_training_that_another_process_works_on_is_left_alone(
    done: StudyReport, data: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(done.folder, copy)
    run = copy / final(done, "mobilenet", 1).relative_to(done.folder)
    (run / "metrics.jsonl").write_text("")
    with FileLock(run / ".lock"), pytest.raises(UserError, match="another process trains into it"):
        compare(data, STUDY, output=copy, progress=False)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"models": ["mobilevit_xxs", "timm:nothing"]}, "timm:nothing"),
        ({"models": "mobilevit_xxs", "numbers": {"layers": (1, 1)}}, "cannot be made"),
        ({"models": ["timm:deit_tiny_patch16_224"], "sizes": (50,)}, "does not take 50 x 50"),
        ({"recipe": "photos"}, "recipe is what models are trained with"),
        ({"lr": 0.1}, "lr differs from training to training"),
        ({"seed": 3}, "seed differs from training to training"),
        ({"model": "mobilevit_s"}, "model is another in each entry of families"),
        ({"models": "mobilevit_xxs", "model": "mobilevit_s"}, "exclude each other"),
        ({"models": "mobilevit_xxs", "study": "ablations"}, "leave one of the two out"),
        ({"only": "7 M"}, "unknown entry or group '7 M'"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_trained(
    asked: dict[str, Any], message: str, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "study"
    with pytest.raises(UserError, match=message):
        compare(data, output=output, progress=False, **asked)
    assert not output.exists()
