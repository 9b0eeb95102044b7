"""The whole way of a classifier in every format: written, compared, evaluated, predicted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from mobilevit.deployment.formats import FORMATS
from mobilevit.errors import UserError
from mobilevit.verbs.benchmark import benchmark
from mobilevit.verbs.benchmark_formats import benchmark_formats
from mobilevit.verbs.evaluate import evaluate
from mobilevit.verbs.export import Exports, export, export_all
from mobilevit.verbs.predict import predict

NEED_NO_TORCH = ("onnx", "litert", "openvino")


@pytest.fixture(scope="module")
def exports(run, tmp_path_factory) -> Exports:
    folder = tmp_path_factory.mktemp("formats") / "run"
    shutil.copytree(run, folder)
    return export_all(folder)


@pytest.fixture(params=FORMATS)
def made(request, exports) -> Path:
    return next(r.path for r in exports.reports if r.description["format"] == request.param)


def test_all_formats_are_written_here(exports):
    assert exports.refused == {}
    assert [report.path.name for report in exports.reports] == [
        f"best{format.suffix}" for format in FORMATS.values()
    ]
    text = StringIO()
    exports.print(Console(file=text, width=160))
    for report in exports.reports:
        assert report.path.name in text.getvalue()
        assert report.comparison.passed
        assert report.comparison.agreement == 1
        assert json.loads(report.report.read_text())["comparison"]["passed"]
    json.dumps(exports.to_dict(), allow_nan=False)


def test_an_artefact_is_evaluated_like_its_checkpoint(made, run, photos):
    found, expected = evaluate(made, photos), evaluate(run, photos)
    assert found.metrics["top1"] == expected.metrics["top1"]
    assert found.metrics["loss"] == pytest.approx(expected.metrics["loss"], abs=5e-3)


def test_an_artefact_predicts_like_its_checkpoint(made, run, photos):
    picture = next(photos.glob("val/*/*.jpg"))
    (found,), (expected,) = predict(made, [picture]), predict(run, [picture])
    assert found.to_dict()["labels"][0]["name"] == expected.to_dict()["labels"][0]["name"]


@pytest.mark.parametrize("name", NEED_NO_TORCH)
def test_to_predict_needs_the_runtime_alone(name, exports, photos):
    path = next(r.path for r in exports.reports if r.description["format"] == name)
    code = (
        "import sys\n"
        "from mobilevit import predict\n"
        "assert predict(sys.argv[1], sys.argv[2:])\n"
        "assert not {'torch', 'torchvision', 'nncf', 'litert_torch'} & sys.modules.keys()\n"
    )
    command = [sys.executable, "-c", code, str(path), str(next(photos.glob("val/*/*.jpg")))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_table_of_all_of_them(exports, photos):
    folder = exports.reports[0].path.parent
    table = benchmark_formats(folder, limit=6, repeats=1, warmup=0)
    assert len(table.rows) == 1 + len(FORMATS)
    assert table.absent == {}
    for row in table.rows:
        own_runtime = not row.description.get("runs_as")
        assert len(row.timings) == (2 if own_runtime else 0)
        assert (row.peak_memory is not None) == own_runtime
    text = StringIO()
    table.print(Console(file=text, width=200))
    assert ("not run here" in text.getvalue()) == (sys.platform != "darwin")


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML itself runs here")
def test_what_is_interpreted_is_not_timed(exports):
    path = next(r.path for r in exports.reports if r.description["format"] == "coreml")
    with pytest.raises(UserError, match="latency cannot be measured"):
        benchmark([path], repeats=1, warmup=0)


def test_a_damaged_artefact_is_answered_in_one_sentence(made, tmp_path):
    copy = tmp_path / made.name
    if made.is_dir():
        shutil.copytree(made, copy)
        damaged = max((f for f in copy.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    else:
        shutil.copy(made, copy)
        if made.with_suffix(".bin").exists():
            shutil.copy(made.with_suffix(".bin"), tmp_path)
        damaged = copy
    damaged.write_bytes(damaged.read_bytes()[:5000])
    with pytest.raises(UserError) as caught:
        evaluate(copy, tmp_path)
    assert str(copy) in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_format_that_cannot_be_written_does_not_stop_the_others(run, tmp_path, monkeypatch):
    def refuse(self, libraries):
        if self.name != "onnx":
            raise UserError(f"{self.title} is not here")

    monkeypatch.setattr("mobilevit.deployment.formats.Format.check", refuse)
    exports = export_all(run, tmp_path / "out")
    assert [report.path.name for report in exports.reports] == ["best.onnx"]
    assert exports.refused == {
        name: f"{format.title} is not here" for name, format in FORMATS.items() if name != "onnx"
    }
    with pytest.raises(UserError, match="is not written in fp16"):
        export_all(run, tmp_path / "out", precision="fp16", dynamic_batch=True, raw=True)


def test_int8_has_a_name_of_its_own_and_needs_pictures(run, photos, tmp_path):
    alone = tmp_path / "alone" / "best.safetensors"
    alone.parent.mkdir()
    shutil.copy(run / "best.safetensors", alone)
    with pytest.raises(UserError, match=r"calibrate int8.*--calibrate FOLDER"):
        export(alone, "onnx", data=photos / "val", precision="int8")
    with pytest.raises(UserError, match="at least 16"):
        export(alone, data=photos / "val", precision="int8", calibrate=photos / "val" / "disc")
    with pytest.raises(UserError, match="leave calibrate out"):
        export(run, calibrate=photos)
    with pytest.raises(UserError, match=r"unknown block 'stage\.0'.*Did you mean 'stages"):
        export(run, precision="int8", float_blocks=("stage.0",))
    report = export(
        alone, data=photos / "val", precision="int8", calibrate=photos / "train", tolerance=10
    )
    assert report.path.name == "best-int8.onnx"
    assert report.description["precision"] == "int8"
    assert 0.5 < report.description["quantised"]["operations"] <= 1
    assert 0.5 < report.description["quantised"]["bytes"] <= 1


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML itself runs here")
def test_what_nothing_here_runs_is_written_and_said_to_be_unchecked(run, tmp_path):
    report = export(run, "executorch", tmp_path / "ios.pte", backend="coreml")
    assert report.comparison is None
    assert report.path.stat().st_size > 1_000_000
    assert json.loads(report.report.read_text())["comparison"] is None
    for shown in (report, Exports((report,), {})):
        text = StringIO()
        shown.print(Console(file=text, width=160))
        assert "unchecked" in text.getvalue()
    with pytest.raises(UserError, match="not on this machine"):
        evaluate(report.path, tmp_path)
