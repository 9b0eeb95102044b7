from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console

from mobilevit.deployment.memory import measure_peak_memory
from mobilevit.errors import UserError
from mobilevit.verbs.benchmark import benchmark, open_model


def test_several_models_in_one_run(run, artefact):
    """No wall-clock time is asserted, only what the numbers are to each other."""
    result = benchmark(
        [run, artefact], threads=(1, 2), batch_sizes=(1, 3), repeats=3, warmup=1, size=64
    )
    assert [(t.threads, t.batch_size) for t in result.timings[::2]] == [
        (1, 1),
        (1, 3),
        (2, 1),
        (2, 3),
    ]
    for timing in result.timings:
        assert 0 < timing.p10_ms <= timing.median_ms <= timing.p90_ms
        expected = timing.batch_size / timing.median_ms * 1000
        assert timing.images_per_second == pytest.approx(expected)
    assert all(timing.speedup == 1 for timing in result.timings[::2])
    trained, exported = result.models
    assert trained["parameters"] == exported["parameters"]
    assert trained["multiply_adds"] == exported["multiply_adds"]
    for model in result.models:
        assert 20e6 < model["peak_memory"] < 20e9
    assert exported["peak_memory"] < trained["peak_memory"]  # it needs no torch
    json.dumps(result.to_dict(), allow_nan=False)
    text = StringIO()
    result.print(Console(file=text, width=250))
    for word in ("run/best.onnx", "64x64", "onnx", "MACs M", "x first", "p90"):
        assert word in text.getvalue()


def test_the_name_of_a_network_is_enough():
    predictor = open_model("mobilevit_xs", None, threads=1, precision="bf16")
    described = predictor.describe()
    assert described["parameters"] == 2_317_848
    assert round(described["multiply_adds"] / 1e6) == 1026
    assert (described["size"], described["bytes"]) == ([256, 256], None)
    assert open_model("mobilevit_xs", (64, 32), 1, "fp32").contract.size == (64, 32)
    assert open_model("imagenette", None, 1, "fp32").contract.size == (128, 128)


def test_what_it_refuses(run, artefact):
    with pytest.raises(UserError, match="takes no other size"):
        benchmark([artefact], size=128)
    with pytest.raises(UserError, match="Did you mean 'mobilevit_xxs'"):
        benchmark(["mobilevit_xx"])
    with pytest.raises(UserError, match="repeats is 0"):
        benchmark([run], repeats=0)
    with pytest.raises(UserError, match="warmup is -2; it must be 0 or more"):
        benchmark([run], repeats=3, warmup=-2)
    with pytest.raises(UserError, match="size is 0"):
        benchmark([run], size=0)
    with pytest.raises(UserError, match="threads is empty"):
        benchmark([run], threads=())
    with pytest.raises(UserError, match="unknown precision"):
        benchmark([run], precision="int4")


def test_a_name_of_timms_with_a_tag_is_said_to_have_one():
    pytest.importorskip("timm", reason="timm is not installed")
    with pytest.raises(UserError, match="without the part after a dot"):
        benchmark(["timm:mobilenetv3_small_050.lamb_in1k"])


def test_a_size_that_a_network_does_not_take_is_said():
    pytest.importorskip("timm", reason="timm is not installed")
    with pytest.raises(UserError, match="does not run on 100 × 100 pixels"):
        benchmark(["timm:deit_tiny_patch16_224"], size=100)


def test_the_users_own_modules_are_not_run(artefact, tmp_path, monkeypatch):
    (tmp_path / "numbers.py").write_text("raise SystemExit('mine')")
    monkeypatch.chdir(tmp_path)
    assert measure_peak_memory(str(artefact), (64, 64), 1, 1, "fp32") > 20e6
