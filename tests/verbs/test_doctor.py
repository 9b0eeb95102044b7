from __future__ import annotations

import io
import json
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest
from rich.console import Console

from mobilevit.deployment import formats
from mobilevit.verbs import doctor as module
from mobilevit.verbs.doctor import EXTRAS, doctor


def printed(report: module.Report, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    report.print(console)
    return console.file.getvalue()


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    def version(name: str) -> str:
        if name in missing:
            raise metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(metadata, "version", version)


def test_the_machine():
    report = doctor()
    assert report.ok
    assert report.scan is None
    machine = report.machine
    assert machine.cores >= 1
    assert machine.cpu
    assert machine.memory is None or machine.memory > 2**28
    assert machine.versions["torch"] == metadata.version("torch")
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True
    assert machine.versions["pillow"] in printed(report)


def test_the_extras_are_those_of_the_package():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    section = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    declared = {
        line.split(" =")[0]: tuple(re.findall(r'"([a-z_-]+)', line))
        for line in section.splitlines()
        if " = " in line and not line.startswith(("all", "devices"))
    }
    assert declared == EXTRAS


def test_what_is_missing_is_answered_with_the_pip_line(monkeypatch):
    without(monkeypatch, "onnxruntime", "scikit-learn")
    report = doctor()
    assert report.ok
    missing = {extra for extra, there in report.machine.extras.items() if not there}
    assert missing == {"onnx", "demo"}
    verbs = report.machine.verbs
    assert verbs["train"] is None
    assert verbs["compare"] == 'pip install "mobilevit[onnx]"'
    assert verbs["demo"] == 'pip install "mobilevit[onnx,demo]"'
    assert 'pip install "mobilevit[onnx,demo]"' in printed(report)


def test_each_format_says_what_can_be_done_with_it_here(monkeypatch):
    monkeypatch.setattr(formats, "_is_here", lambda library: library != "openvino")
    report = doctor()
    pip = 'pip install "mobilevit[openvino]"'
    assert report.machine.formats["openvino"] == {"built": pip, "run": pip}
    assert report.machine.formats["litert"] == {"built": None, "run": None}
    core_ml = report.machine.formats["coreml"]
    assert core_ml["built"] is None
    assert (core_ml["run"] is None) == (sys.platform == "darwin")
    for word in ("OpenVINO (.xml)", pip, "Core ML", "can be built here"):
        assert word in printed(report)


def test_a_core_library_that_is_missing_or_broken_is_an_error(monkeypatch):
    without(monkeypatch, "torch")
    report = doctor()
    assert [finding.check for finding in report.findings] == ["missing-library"]
    assert not report.ok

    without(monkeypatch)
    monkeypatch.setitem(sys.modules, "torch", None)
    report = doctor()
    assert [finding.check for finding in report.findings] == ["torch-import"]
    assert not report.ok


def test_sound_data(photos):
    report = doctor(photos, progress=False)
    assert report.ok
    assert report.findings == ()
    text = printed(report)
    assert "stripes" in text
    assert "96 to 96 pixels" in text
    assert "Ready." in text


def test_findings_are_printed_with_their_files_as_they_are_called(photos, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    (data / "train" / "disc").rename(data / "train" / "[red]disc")
    (data / "val" / "disc").rename(data / "val" / "[red]disc")
    for index in range(8):
        (data / "train" / "[red]disc" / f"{index}.jpg").write_bytes(b"no")
    report = doctor(data, progress=False)
    assert report.ok
    text = printed(report, width=400)
    assert "[red]disc" in text
    assert str(data / "train" / "[red]disc" / "4.jpg") in text
    assert str(data / "train" / "[red]disc" / "5.jpg") not in text
    assert "and 3 more" in text
    values = json.loads(json.dumps(report.to_dict()))
    assert len(values["unreadable"]) == 8
    assert values["findings"][0]["severity"] == "warning"


def test_a_class_without_pictures_is_an_error(photos, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    (data / "train" / "nothing").mkdir()
    report = doctor(data, progress=False)
    assert not report.ok
    assert "Ready." not in printed(report)


@pytest.mark.parametrize("name", ["missing", "empty", "one"])
def test_a_folder_that_cannot_be_used_is_a_finding(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one" / "class").mkdir(parents=True)
    report = doctor(tmp_path / name)
    assert [finding.check for finding in report.findings] == ["layout"]
    assert not report.ok
    assert report.scan is None
    assert str(tmp_path / name) in printed(report, width=400)


def test_many_classes_are_cut_short():
    counts = {split: {f"class {i}": 1 for i in range(100)} for split in ("train", "val")}
    machine = doctor().machine
    report = module.Report(machine, "data", module.Scan((), frozenset(), counts, None))
    text = printed(report)
    assert "class 29" in text
    assert "class 30" not in text
    assert "and 70 more" in text
