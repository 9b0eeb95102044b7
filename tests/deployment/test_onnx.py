from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from mobilevit.deployment.comparison import compare
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.exporters.onnx import OnnxExporter
from mobilevit.deployment.formats import FORMATS
from mobilevit.deployment.manifest import Origin
from mobilevit.deployment.runtimes.onnx import OnnxPredictor
from mobilevit.deployment.runtimes.pytorch import TorchPredictor
from mobilevit.networks import MobileViT


@pytest.fixture(params=["exported", "exported_dynamic"])
def path(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_the_file_computes_what_the_network_computes(path, network, contract):
    x = np.random.default_rng(0).random((3, 3, *contract.size), dtype=np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    assert np.ptp(expected) > 0.5  # the weights do say something
    np.testing.assert_allclose(OnnxPredictor(path).run(x), expected, atol=1e-4)


def test_it_agrees_on_real_pictures(path, network, contract, pictures):
    comparison = compare(
        TorchPredictor(network, contract, Path("network")), OnnxPredictor(path), pictures
    )
    assert comparison.passed
    assert comparison.pictures == len(pictures)
    assert comparison.agreement == 1
    assert comparison.sqnr > 80


def test_the_graph_is_plain(path, contract):
    """No axis more than five, no resize where the size divides evenly, no batch-norm left."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    assert len(values) > len(inferred.node)
    assert max(len(value.type.tensor_type.shape.dim) for value in values) <= 5
    kinds = Counter(node.op_type for node in inferred.node)
    assert not kinds.keys() & {"Resize", "BatchNormalization", "Loop", "If"}
    assert kinds["Softmax"] == 3
    assert [opset.version for opset in model.opset_import] == [20]


def test_one_file_with_everything_in_it(exported, exported_dynamic, network, contract):
    model = onnx.load(exported, load_external_data=False)
    assert [entry.name for entry in exported.parent.iterdir()] == ["model.onnx"]
    shape = [d.dim_value or d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("image", "logits")
    assert shape == [1, 3, 64, 128]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert Contract.from_json(metadata["mobilevit.contract"], "") == contract
    assert json.loads(metadata["class_names"]) == list(contract.class_names)
    described = json.loads(metadata["mobilevit.network"])
    assert described["parameters"] == sum(p.numel() for p in network.parameters())
    assert model.producer_name == "mobilevit"
    dynamic = onnx.load(exported_dynamic).graph.input[0].type.tensor_type.shape.dim[0]
    assert dynamic.dim_param


def test_the_file_tells_nothing_of_the_machine_it_was_made_on(exported):
    content = exported.read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b"stack_trace" not in content


def test_the_network_is_left_as_it_was(network: MobileViT):
    assert not any(parameter.device.type == "meta" for parameter in network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_entries_can_be_added(exported, tmp_path):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(exported.read_bytes())
    OnnxExporter().annotate(copy, {"mobilevit.comparison": "{}"})
    predictor = OnnxPredictor(copy)
    assert predictor.entries["mobilevit.comparison"] == "{}"
    assert predictor.contract == OnnxPredictor(exported).contract


def test_it_knows_its_own_files(exported, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(b"something else")
    assert FORMATS["onnx"].made(exported)
    assert not FORMATS["onnx"].made(other)


def test_the_origin_hides_the_folder(tmp_path):
    origin = Origin.of(tmp_path, 0.3)
    assert origin.is_at(tmp_path / "." / "x" / "..")
    assert not origin.is_at(tmp_path.parent)
    assert not Origin().is_at(tmp_path)
    assert tmp_path.name not in origin.data
