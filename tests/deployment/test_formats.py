from __future__ import annotations

import json
from pathlib import Path

import pytest

from mobilevit.deployment import formats
from mobilevit.deployment.config import PRECISIONS, ExportConfig
from mobilevit.deployment.formats import FORMATS, format_of, get_format
from mobilevit.deployment.manifest import Manifest, Origin
from mobilevit.errors import MissingExtraError, UserError


@pytest.mark.parametrize("name", FORMATS)
def test_an_option_is_honoured_or_refused_before_any_work(name):
    format = FORMATS[name]
    resolved = format.resolve(ExportConfig())
    assert resolved.precision == format.precisions[0]
    for precision in PRECISIONS:
        config = ExportConfig(precision)
        if precision in format.precisions:
            assert format.resolve(config).precision == precision
        else:
            with pytest.raises(UserError, match=f"{format.title} is not written in {precision}"):
                format.resolve(config)
    if not format.dynamic_batch:
        with pytest.raises(UserError, match="no dynamic_batch"):
            format.resolve(ExportConfig(dynamic_batch=True))
    with pytest.raises(UserError, match="float_blocks is for int8"):
        format.resolve(ExportConfig(float_blocks=("head",)))
    if not format.backends:
        with pytest.raises(UserError, match="leave backend out"):
            format.resolve(ExportConfig(backend="xnnpack"))


def test_a_precision_that_one_format_lacks_is_found_in_another():
    with pytest.raises(UserError, match=r"In bf16 there is OpenVINO\."):
        FORMATS["onnx"].resolve(ExportConfig("bf16"))


def test_backends_of_executorch():
    assert FORMATS["executorch"].resolve(ExportConfig()).backend == "xnnpack"
    apple = FORMATS["executorch"].resolve(ExportConfig(backend="coreml"))
    assert (apple.backend, apple.precision) == ("coreml", "fp16")
    with pytest.raises(UserError, match=r"for coreml is not written in int8 here, but in fp16\."):
        FORMATS["executorch"].resolve(ExportConfig("int8", backend="coreml"))
    with pytest.raises(UserError, match="unknown backend of ExecuTorch 'vulkan'"):
        FORMATS["executorch"].resolve(ExportConfig(backend="vulkan"))


def test_names_and_endings():
    assert get_format("litert").suffix == ".tflite"
    with pytest.raises(UserError, match="Did you mean 'litert'"):
        get_format("lite-rt")
    assert format_of("runs/photos/best-int8.tflite") is FORMATS["litert"]
    assert format_of("BEST.ONNX") is FORMATS["onnx"]
    assert format_of("runs/photos/best.safetensors") is None
    assert format_of("runs/photos") is None


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_library_is_answered_with_the_pip_line(name, monkeypatch):
    format = FORMATS[name]
    monkeypatch.setattr(formats, "_is_here", lambda library: library != format.builds[0])
    with pytest.raises(MissingExtraError, match=rf'pip install "mobilevit\[{format.extra}\]"'):
        format.exporter()
    monkeypatch.setattr(formats, "_is_here", lambda library: False)
    with pytest.raises(MissingExtraError, match=format.title):
        format.open(Path("x"))


def test_a_manifest_is_read_as_it_was_written(contract):
    manifest = Manifest(contract, {"precision": "int8"}, Origin("abc", 0.3))
    entries = manifest.entries()
    assert Manifest.read(entries, Path("x")) == manifest
    assert json.loads(entries["class_names"]) == list(contract.class_names)


def test_entries_without_a_contract_or_with_a_newer_one_are_refused(contract):
    with pytest.raises(UserError, match=r"x\.pte: it holds no contract.*mobilevit export"):
        Manifest.read({}, Path("x.pte"))
    entries = Manifest(contract).entries()
    newer = json.loads(entries["mobilevit.contract"]) | {"version": 99}
    entries["mobilevit.contract"] = json.dumps(newer)
    with pytest.raises(UserError, match=r"x\.pte: its contract has version 99"):
        Manifest.read(entries, Path("x.pte"))
