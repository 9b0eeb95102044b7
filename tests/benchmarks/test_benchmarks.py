"""Every benchmark runs and reports; how fast anything is, is not a test's business."""

from __future__ import annotations

import importlib
import json
import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mobilevit import Contract, create_model, save_checkpoint
from mobilevit.checkpoints import Checkpoint, architecture
from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.exporters import write
from mobilevit.deployment.formats import FORMATS

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch, tmp_path, capsys):
    """Run a script as ``python benchmarks/NAME.py --quick`` does; return its JSON and its text."""

    def run(name: str, *arguments: str) -> tuple[dict[str, Any], str]:
        monkeypatch.syspath_prepend(str(FOLDER))
        script = str(FOLDER / f"{name}.py")
        command = [script, "--quick", "--output", str(tmp_path), *arguments]
        monkeypatch.setattr("sys.argv", command)
        runpy.run_path(script, run_name="__main__")
        text = (tmp_path / f"{name}.json").read_text(encoding="utf-8")
        for path in (tmp_path, FOLDER, Path.home()):
            assert str(path) not in text
        return json.loads(text), capsys.readouterr().out

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


def check(facts: dict[str, Any], text: str, contestants: list[str], bars: int) -> None:
    """The table and the JSON name the contestants, and every number is positive."""
    found = [row["contestant"] for row in facts["rows"]]
    assert sorted(set(found)) == sorted(contestants)
    words = " ".join(text.replace("│", " ").split())
    for name in contestants:
        assert name.split(",")[0] in words
    numbers = [n for row in facts["rows"] for n in row.values() if not isinstance(n, str)]
    assert len(numbers) >= 3 * len(found)
    assert all(math.isfinite(number) and number > 0 for number in numbers)
    assert len(facts["bars"]) == bars
    for bar in facts["bars"]:
        assert bar["what"] in " ".join(text.split())
        assert bar["met"] is None
    assert facts["machine"]["processor"]
    assert facts["machine"]["cores"] >= 1
    assert facts["versions"]["torch"] in text
    assert facts["date"] in text
    assert facts["command"].startswith(f"python benchmarks/{facts['benchmark']}.py --quick")


def test_inference(bench):
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    names = ["timm fp32", "transformers fp32", "ours plain fp32", "ours in ONNX Runtime"]
    names += [f"ours optimize() {precision}" for precision in ("fp32", "bf16")]
    check(*bench("inference", "--model", "mobilevit_xxs"), names, bars=0)


def test_training_step(bench):
    pytest.importorskip("timm")
    facts, text = bench("training_step")
    fast = facts["rows"][1]["contestant"].split()[1].strip(",")
    names = ["timm fp32, its default", f"timm {fast}, channels-last", "ours fp32"]
    names += [f"ours {fast}, channels-last", f"ours {fast}, channels-last, fit's attention"]
    check(facts, text, [*names, "the same with dropout"], bars=3 if fast == "bf16" else 2)


def test_loader(bench, photos):
    facts, text = bench("loader", "--photos", str(photos))
    check(facts, text, ["torchvision", "ours"], bars=1)
    assert {row["files"] for row in facts["rows"]} == {"ImageNet-sized", "12 megapixels"}


def test_sampler(bench, photos):
    facts, text = bench("sampler", "--data", str(photos))
    check(facts, text, ["standard, 128", "multi-scale, 64 96 128"], bars=0)
    standard, multi = facts["rows"]
    assert standard["samples"] == multi["samples"] == 40
    assert standard["pixels/sample"] == 128**2 > multi["pixels/sample"]


def test_finetuning(bench, shared_data, tmp_path):
    network = create_model("mobilevit_xxs", num_classes=2)
    contract = Contract("classification", ("a", "b"), (64, 64), 72)
    weights = tmp_path / "start.safetensors"
    made_from = architecture("mobilevit_xxs", network)
    save_checkpoint(weights, Checkpoint(network.eval(), contract, made_from))
    facts, text = bench(
        "finetuning", "--weights", str(weights), "--data", str(shared_data / "bccd")
    )
    starts = ["random, recipe photos", "pretrained, recipe photos", "pretrained, recipe finetune"]
    check(facts, text, starts, bars=0)
    assert "24 of BCCD's cells in three kinds" in facts["notes"]


def test_detection(bench):
    names = ["torchvision", "ours, mobilevit_xxs", "ours, torchvision's network"]
    check(*bench("detection"), names, bars=2)


def test_segmentation(bench):
    pytest.importorskip("onnxruntime")
    names = ["torchvision, lraspp", "torchvision, deeplabv3"]
    names += ["ours, mobilevit_xxs", "ours, torchvision's lraspp"]
    facts, text = bench("segmentation")
    check(facts, text, names, bars=0)
    assert {row["run by"] for row in facts["rows"]} == {"PyTorch", "ONNX"}


def test_tiling(bench):
    pytest.importorskip("onnxruntime")
    check(*bench("tiling"), ["pixel_logits", "coarse_logits"], bars=0)


def test_startup(bench):
    names = ["python -c pass", "mobilevit --help", "bare ONNX Runtime script", "mobilevit predict"]
    check(*bench("startup", "--model", "mobilevit_xxs"), names, bars=2)


def test_bars_and_turns(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from common import Bar, agree, take_turns

    assert Bar("a", 2.0, 1.9).met
    assert not Bar("a", 1.8, 1.9).met
    assert Bar("a", 0.3, 0.5, at_most=True).met
    order: list[str] = []
    seconds = take_turns(
        {name: lambda name=name: order.append(name) for name in "abc"}, rounds=3, warmup=1
    )
    assert "".join(order) == "abccbaabccba"
    assert [len(taken) for taken in seconds.values()] == [3, 3, 3]
    with pytest.raises(SystemExit, match="b computes something else"):
        agree("b", torch.tensor([1.0, 2.1]).numpy(), torch.tensor([1.0, 2.0]).numpy(), 0.01)
    with pytest.raises(SystemExit, match="computes something else"):
        agree("b", torch.tensor([float("nan")]).numpy(), torch.tensor([1.0]).numpy(), 0.01)


@pytest.mark.parametrize(("name", "convolution"), [("onnx", "Conv"), ("openvino", "Convolution")])
def test_operators_are_counted_as_the_runtime_has_them(
    name: str, convolution: str, monkeypatch, tmp_path
):
    for library in ("timm", "transformers", *FORMATS[name].builds):
        pytest.importorskip(library)
    monkeypatch.syspath_prepend(str(FOLDER))
    count = importlib.import_module("operators").COUNT[name]
    path = tmp_path / f"network{FORMATS[name].suffix}"
    network = create_model("mobilevit_xxs", num_classes=3, layers=(1, 1, 1)).eval()
    contract = Contract("classification", ("a", "b", "c"), (32, 32), 36)
    write(FORMATS[name], network, contract, path, ExportConfig("fp32"))
    kinds = count(path, np.zeros((1, 3, 32, 32), np.float32), 2)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    depthwise = [module for module in convolutions if module.groups > 1]
    told = sum(count for kind, (count, _) in kinds.items() if "conv" in kind.lower())
    assert told == len(convolutions)
    assert kinds[convolution][0] in (told, told - len(depthwise))
    assert all(taken > 0 for _, taken in kinds.values())
