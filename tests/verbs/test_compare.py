from __future__ import annotations

import json
from pathlib import Path

import pytest

from mobilevit import UserError, compare
from mobilevit.studies.report import Comparison
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


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("data"), train=16, val=8)


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A study done in two calls, the second for what the first was not asked."""
    folder = tmp_path_factory.mktemp("study")
    first = compare(data, STUDY, output=folder, only=["a"], progress=False)
    assert first.missing == 2
    assert "UNFINISHED: 2 of 4" in first.to_markdown()
    return compare(data, STUDY, output=folder, progress=False)


def test_every_entry_is_tuned_trained_and_measured(done: Comparison) -> None:
    assert done.missing == 0
    for result in done.results:
        assert set(result.tried) == {1e-3, 1e-2}
        assert result.tried[result.rate or 0] == max(result.tried.values())
        assert [run.seed for run in result.trained] == [0, 1]
        assert result.mean == pytest.approx(sum(result.values) / 2)
        assert result.measures["backbone_parameters"] < result.measures["parameters"]
        assert result.measures["onnx_ms"] > 0
        assert result.measures["robustness"]["samples"] == 24


def test_the_rate_is_chosen_without_a_look_at_val(done: Comparison) -> None:
    tuning = done.folder / "mobilevit" / "rate-0.001"
    row = json.loads((tuning / "metrics.jsonl").read_text())
    whole = json.loads((done.folder / "mobilevit" / "seed-0" / "metrics.jsonl").read_text())
    assert 0 < row["samples"] < whole["samples"] == 48


def test_the_folder_holds_tables_plots_and_json(done: Comparison) -> None:
    told = json.loads((done.folder / "results.json").read_text())
    assert told == json.loads(json.dumps(done.to_dict()))
    text = (done.folder / "README.md").read_text()
    for word in ("MobileViT", "MobileNet", "±", "ONNX ms", "Beside the paper", "Robustness"):
        assert word in text
    assert "UNFINISHED" not in text
    for name in ("accuracy.png", "curves.png"):
        assert (done.folder / name).read_bytes().startswith(b"\x89PNG")


def test_a_second_call_trains_nothing_again(done: Comparison, data: Path) -> None:
    files = [*done.folder.rglob("*.safetensors"), *done.folder.rglob("measures.json")]
    before = {path: path.stat().st_mtime_ns for path in files}
    again = compare(data, STUDY, output=done.folder, progress=False)
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert len(before) > 10
    assert again.results == done.results


def test_other_settings_in_the_same_folder_are_refused(done: Comparison, data: Path) -> None:
    with pytest.raises(UserError, match=r"other settings \(weight_decay .* there, 0.3 here\)"):
        compare(data, STUDY, output=done.folder, progress=False, weight_decay=0.3)


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


def test_a_study_killed_in_a_training_ends_as_if_it_had_not_been(
    data: Path, tmp_path: Path
) -> None:
    asked = SETTINGS | {"size": 64, "sizes": (), "epochs": 3, "seeds": 1}
    asked |= {"models": ["timm:mobilenetv3_small_050"], "recipe": "photos"}
    asked |= {"measure": False, "progress": False}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert python(DIES, str(tmp_path), str(data), str(killed), repr(asked)) == 9
    assert compare(data, output=killed, **asked).missing == 0
    assert compare(data, output=whole, **asked).missing == 0
    run = "timm-mobilenetv3-small-050/seed-0"
    assert_same_run(RunFolder(killed / run), RunFolder(whole / run))


def test_an_unknown_network_is_said_before_anything_is_trained(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "study"
    with pytest.raises(UserError, match="timm:nothing"):
        compare(data, models=["mobilevit_xxs", "timm:nothing"], output=output)
    assert not output.exists()
