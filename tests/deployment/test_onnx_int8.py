from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.exporters import write
from mobilevit.deployment.formats import FORMATS
from mobilevit.machine import clips_int8
from mobilevit.networks import SSDLite, SSDLiteConfig, create_model
from mobilevit.tasks import get_task
from peers import enliven

FORMAT = FORMATS["onnx"]
CONTRACT = Contract("classification", ("a", "b", "c"), size=(64, 96), resize=80)
LAYERS = (1, 1, 1)
PICTURES = np.random.default_rng(0).random((6, 3, 64, 96), dtype=np.float32)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return enliven(create_model("mobilevit_xxs", num_classes=3, layers=LAYERS))


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    for precision in FORMAT.precisions:
        config = ExportConfig(precision, dynamic_batch=precision == "int8-weights")
        path = folder / f"{precision}.onnx"
        write(FORMAT, network, CONTRACT, path, config, calibration=PICTURES)
    return folder


def noise(path: Path, network: torch.nn.Module, images: np.ndarray) -> float:
    """Return the difference of the outputs as a share of what is expected."""
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    found = FORMAT.open(path, threads=1).run(images)
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [("int8", 1e-3, 0.6 if clips_int8() else 0.3), ("int8-weights", 1e-4, 0.1)],
)
def test_the_files_compute_about_the_same(folder, network, precision, least, most):
    assert least < noise(folder / f"{precision}.onnx", network, PICTURES) < most


def test_what_clips_sums_is_the_processor_and_not_the_file(folder, network):
    exact = onnxruntime.SessionOptions()
    exact.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(folder / "int8.onnx", exact)  # it multiplies floats
    found = np.concatenate([session.run(None, {"image": picture[None]})[0] for picture in PICTURES])
    with torch.no_grad():
        expected = network(torch.from_numpy(PICTURES)).numpy()
    assert np.linalg.norm(found - expected) < 0.3 * np.linalg.norm(expected)


@pytest.mark.parametrize("precision", ["int8", "int8-weights"])
def test_the_files_are_small(folder, precision):
    small, large = (folder / f"{name}.onnx" for name in (precision, "fp32"))
    assert small.stat().st_size < 0.4 * large.stat().st_size
    onnx.checker.check_model(onnx.load(small), full_check=True)


def test_int8_holds_few_words_beside_its_weights(folder):
    model = onnx.load(folder / "int8.onnx")
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 1}
    assert "stem.conv.weight_quantized" in weights
    names = {name for node in model.graph.node for name in (node.name, *node.input, *node.output)}
    others = names - weights - {"image", "logits"}
    assert max(map(len, others)) <= 4
    stored = [tensor for tensor in model.graph.initializer if len(tensor.dims) < 2]
    for tensor in stored:
        tensor.name = ""
    assert len({tensor.SerializeToString() for tensor in stored}) == len(stored)


def test_any_number_of_pictures(folder):
    assert FORMAT.open(folder / "int8-weights.onnx").infer(PICTURES).shape == (6, 3)


def test_norms_and_softmax_stay_in_float_and_the_rest_does_not(folder):
    graph = onnx.load(folder / "int8.onnx").graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    kinds = Counter(
        (node.op_type, made_by.get(node.input[0]) == "DequantizeLinear") for node in graph.node
    )
    assert kinds["Conv", True] == 35
    assert kinds["Conv", False] == 0
    assert kinds["Gemm", True] == 6 * len(LAYERS) + 1
    assert kinds["Sigmoid", False] == 0
    assert kinds["Softmax", False] == len(LAYERS)
    assert kinds["MatMul", True] == 2 * len(LAYERS)
    assert kinds["MatMul", False] == 0
    for node in graph.node:  # the scores of an attention are float as the softmax takes them
        if node.op_type == "Softmax":
            assert made_by[node.input[0]] == "MatMul"
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    scales = [
        weights[node.input[1]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and len(weights.get(node.input[0], ())) == 4
    ]
    assert len(scales) == 35
    assert all(len(scale) == 1 and scale[0] > 1 for scale in scales)  # one for each channel


def test_what_became_int8_is_counted_in_the_file(folder):
    counts = {
        name: FORMAT.open(folder / f"{name}.onnx").describe()["quantised"]
        for name in FORMAT.precisions
    }
    assert counts["fp32"] is None
    assert counts["int8-weights"]["operations"] == 0
    layers = 35 + 7 * len(LAYERS) + 1
    share = layers / (layers + len(LAYERS))
    assert counts["int8"]["operations"] == pytest.approx(share)
    for name in ("int8", "int8-weights"):
        assert counts[name]["bytes"] > 0.9


def test_blocks_stay_in_float(network, folder, tmp_path):
    path = tmp_path / "mixed.onnx"
    config = ExportConfig("int8", float_blocks=("stages.4", "stages.1", "stem"))
    write(FORMAT, network, CONTRACT, path, config, calibration=PICTURES[:1])
    graph = onnx.load(path).graph
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    floats = {
        name.removesuffix(".weight")
        for name, kind in weights.items()
        if kind == onnx.TensorProto.FLOAT and name.endswith(".conv.weight")
    }
    blocks = {name.split(".")[0] + "." + name.split(".")[1] for name in floats}
    assert blocks == {"stem.conv", "stages.1", "stages.4"}
    share, whole = (
        FORMAT.open(file).describe()["quantised"] for file in (path, folder / "int8.onnx")
    )
    assert 0.2 < share["operations"] < whole["operations"] - 0.2
    assert 0.2 < share["bytes"] < whole["bytes"] - 0.2


def test_boxes_are_not_rounded(tmp_path):
    names, size = ("a", "b", "c"), (64, 96)
    contract = Contract("detection", names, size, None, output="candidates")
    made = SSDLite(
        create_model("mobilevit_xxs", num_classes=0, layers=LAYERS), SSDLiteConfig(num_classes=4)
    )
    network = get_task("detection").deploy(enliven(made), contract)
    path = tmp_path / "boxes.onnx"
    write(FORMAT, network, contract, path, ExportConfig("int8"), calibration=PICTURES[:2])
    candidates = FORMAT.open(path).run(PICTURES[:1])[0]
    inside = candidates[:, :4][(candidates[:, :4] > 0) & (candidates[:, :4] < 1)]
    assert len(np.unique(inside)) > 256
    assert noise(path, network, PICTURES[:2]) < 0.3
