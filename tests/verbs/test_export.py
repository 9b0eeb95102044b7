from __future__ import annotations

import json
import shutil
import sys
from io import StringIO
from pathlib import Path

import onnx
import pytest
from rich.console import Console

from mobilevit.deployment.exporters.onnx import OnnxExporter
from mobilevit.deployment.formats import FORMATS
from mobilevit.deployment.runtimes.onnx import OnnxPredictor
from mobilevit.errors import MissingExtraError, UserError
from mobilevit.verbs.export import export, export_all


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch, artefact: Path) -> None:
    """Copy the artefact of the session instead of exporting again."""
    content = artefact.read_bytes()
    monkeypatch.setattr(
        OnnxExporter, "export", lambda *args: args[3].write_bytes(content) and args[2]
    )


def test_the_artefact_and_its_report_lie_beside_the_checkpoint(report, run, photos):
    assert report.path == run / "best.onnx"
    assert {entry.name for entry in run.iterdir()} == {
        "best.onnx",
        "best.onnx.json",
        "best.safetensors",
        "run.json",
    }
    stored = json.loads(report.report.read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(report.to_dict()))
    assert stored["comparison"]["passed"]
    assert stored["comparison"]["pictures"] == 24  # those of val/
    assert stored["artefact"]["bytes"] == report.path.stat().st_size


def test_the_comparison_is_stored_in_the_artefact(report):
    metadata = OnnxPredictor(report.path).entries
    assert json.loads(metadata["mobilevit.comparison"]) == report.comparison.to_dict()


def test_people_see_the_numbers(report):
    text = StringIO()
    report.print(Console(file=text, width=200))
    for word in ("largest difference", "SQNR", "the same", str(report.path), "mobilevit predict"):
        assert word in text.getvalue()


@pytest.mark.usefixtures("fast")
def test_an_earlier_artefact_is_replaced(run, artefact, tmp_path, photos):
    output = tmp_path / "new folder" / "x.onnx"
    first = export(run, output=output, data=photos / "val" / "disc")
    assert first.comparison.pictures == 8
    assert export(run / "best.safetensors", output=output).path == output
    assert sorted(entry.name for entry in output.parent.iterdir()) == ["x.onnx", "x.onnx.json"]


@pytest.mark.usefixtures("fast")
def test_another_file_is_never_replaced(run, tmp_path):
    output = tmp_path / "mine.onnx"
    output.write_text("precious")
    with pytest.raises(UserError, match="not made by this package"):
        export(run, output=output)
    assert output.read_text() == "precious"


def test_a_file_that_would_lie_beside_it_is_never_replaced(run, tmp_path):
    pytest.importorskip("openvino")
    source = tmp_path / "model.safetensors"
    shutil.copy(run / "best.safetensors", source)
    weights = source.with_suffix(".bin")
    weights.write_text("precious")
    with pytest.raises(UserError, match=r"model\.bin: exists, and is no part of an earlier export"):
        export(source, "openvino")
    assert weights.read_text() == "precious"


@pytest.mark.usefixtures("fast")
def test_a_file_where_the_report_belongs_is_never_replaced(run, tmp_path, photos):
    report = tmp_path / "x.onnx.json"
    for mine in ("precious", '{"path": "mine"}', "[]"):
        report.write_text(mine)
        with pytest.raises(UserError, match=r"x\.onnx\.json: exists, and is no report"):
            export(run, output=tmp_path / "x.onnx", data=photos / "val")
        assert report.read_text() == mine


def test_a_converter_that_fails_does_not_keep_other_formats_from_being_written(
    run, tmp_path, photos, monkeypatch
):
    for library in ("openvino", "nncf", "coremltools"):
        pytest.importorskip(library)
    from mobilevit.deployment.exporters.coreml import CoreMLExporter

    def fail(*_):
        raise NotImplementedError("Unsupported node _upsample_bicubic2d_aa.\nMany more lines.")

    monkeypatch.setattr(CoreMLExporter, "export", fail)
    only = {name: FORMATS[name] for name in ("coreml", "openvino")}
    monkeypatch.setattr("mobilevit.verbs.export.FORMATS", only)
    made = export_all(run, tmp_path, data=photos / "val")
    assert [report.path.name for report in made.reports] == ["best.xml"]
    assert made.refused["coreml"] == (
        "Core ML is not written: its converter fails on mobilevit_xxs "
        "(NotImplementedError: Unsupported node _upsample_bicubic2d_aa.)."
    )
    assert not list(tmp_path.glob("*.mlpackage*"))


@pytest.mark.usefixtures("fast")
def test_no_more_pictures_are_compared_than_needed(run, tmp_path, photos, monkeypatch):
    monkeypatch.setattr("mobilevit.verbs.export.COMPARED", 10)
    assert export(run, output=tmp_path / "x.onnx", data=photos).comparison.pictures == 10


def test_beyond_the_tolerance_there_is_no_artefact(run, artefact, tmp_path, monkeypatch):
    def damaged(self, network, contract, path, *_):
        model = onnx.load(artefact)
        weights = next(t for t in model.graph.initializer if t.name == "head.weight")
        values = 2 * onnx.numpy_helper.to_array(weights)
        weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
        onnx.save(model, path)
        return contract

    monkeypatch.setattr(OnnxExporter, "export", damaged)
    output = tmp_path / "x.onnx"
    with pytest.raises(UserError, match=r"differ.*up to .*; allowed is .* 0\.001 of their range"):
        export(run, output=output)
    assert list(tmp_path.iterdir()) == []
    assert export(run, output=output, tolerance=1e6).comparison.passed


def test_pictures_are_asked_for(run, tmp_path):
    alone = tmp_path / "best.safetensors"
    alone.write_bytes((run / "best.safetensors").read_bytes())
    with pytest.raises(UserError, match="--data FOLDER"):
        export(alone)
    (tmp_path / "run.json").write_text(json.dumps({"data": str(tmp_path / "gone")}))
    with pytest.raises(UserError, match="gone, which it was trained on, is gone"):
        export(tmp_path)


def test_what_it_refuses(run, artefact, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"unknown format 'onx'\. Did you mean 'onnx'"):
        export(run, format="onx")
    with pytest.raises(UserError, match="an artefact already"):
        export(artefact)
    with pytest.raises(UserError, match=r"ends in \.onnx\. For LiteRT, take .*--format litert"):
        export(run, output=tmp_path / "x.tflite")
    with pytest.raises(UserError, match=r"ends in \.onnx\.$"):
        export(run, output=tmp_path / "x.on")
    for wrong in (-1.0, float("nan")):
        with pytest.raises(UserError, match=r"tolerance is .*; it must be 0 or more"):
            export(run, tolerance=wrong)
    with pytest.raises(UserError, match=r"float_blocks is 'stem'; .* \('stem',\)"):
        export(run, precision="int8", float_blocks="stem")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r'pip install "mobilevit\[onnx\]"'):
        export(run)


def test_a_network_that_comes_with_the_package_is_written_here(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("imagenette").mkdir()  # of pictures, say
    assert export("imagenette", data=photos).path == Path("imagenette.onnx")
    assert {p.name for p in tmp_path.iterdir()} == {
        "imagenette",
        "imagenette.onnx",
        "imagenette.onnx.json",
    }
