from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mobilevit.deployment.capture import prepare
from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.exporters import write
from mobilevit.deployment.formats import FORMATS
from mobilevit.deployment.manifest import COMPARISON
from mobilevit.errors import UserError
from mobilevit.networks import DeepLabV3, DeepLabV3Config, SSDLite, SSDLiteConfig, create_model
from mobilevit.tasks import get_task
from peers import enliven

pytest.importorskip("litert_torch")
from mobilevit.deployment.exporters.litert import (
    DECOMPOSITIONS,
    LiteRTExporter,
    RootMeanSquareNorm,
    centre_tokens,
)
from mobilevit.deployment.exporters.litert_file import count_operators
from mobilevit.deployment.exporters.litert_int8 import LiteRTQuantizer
from mobilevit.deployment.runtimes.litert import LiteRTPredictor

NAMES = ("one", "two", "three")
SMALL = {"layers": (1, 1, 1)}
FORMAT = FORMATS["litert"]


def noise(size: tuple[int, int], count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, *size), dtype=np.float32)


def decibels(expected: np.ndarray, found: np.ndarray) -> float:
    assert expected.shape == found.shape
    return float(10 * np.log10(np.square(expected).sum() / np.square(expected - found).sum()))


def expected_of(network: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(torch.from_numpy(x)).numpy()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return enliven(create_model("mobilevit_xxs", num_classes=7, **SMALL))


@pytest.fixture(scope="module")
def files(network, contract, tmp_path_factory) -> dict[str, Path]:
    """The network in every precision, calibrated on what it is compared on."""
    folder = tmp_path_factory.mktemp("files")
    made = {precision: folder / f"{precision}.tflite" for precision in FORMAT.precisions}
    before = copy.deepcopy(network.state_dict())
    for precision, path in made.items():
        pictures = noise(contract.size, 16) if precision == "int8" else None
        write(FORMAT, network, contract, path, ExportConfig(precision), calibration=pictures)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    return made


@pytest.fixture
def file(files, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copy(files["fp32"], tmp_path / "copy.tflite"))


@pytest.mark.parametrize(("precision", "least"), [("fp32", 90), ("int8", 10), ("int8-weights", 15)])
def test_the_file_computes_what_the_network_computes(files, network, contract, precision, least):
    predictor = LiteRTPredictor(files[precision], threads=1)
    x = noise(contract.size)
    expected = expected_of(network, x)
    assert np.ptp(expected, axis=0).max() > 0.5  # it does not say the same of every picture
    assert decibels(expected, predictor.run(x)) > least


def test_a_file_says_what_it_is(files, contract):
    for precision, path in files.items():
        predictor = LiteRTPredictor(path)
        assert predictor.contract == replace(contract, layout="NHWC")
        described = predictor.describe()
        assert described["precision"] == precision
        assert (described["batch"], described["format"]) == (1, "litert")
        assert described["bytes"] == path.stat().st_size


def test_floats_go_in_and_come_out_whatever_lies_between(files, contract):
    for path in files.values():
        interpreter = LiteRTPredictor(path).interpreter
        (signature,) = interpreter.get_signature_list().values()
        assert signature == {"inputs": ["image"], "outputs": ["logits"]}
        (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
        assert taken["dtype"] is given["dtype"] is np.float32
        assert taken["shape"].tolist() == [1, *contract.size, 3]


def test_what_became_int8_is_counted(files):
    """Of XXS with three layers of attention: 35 convolutions, 13 linear layers, 6 products."""
    quantised = {
        precision: LiteRTPredictor(path).describe()["quantised"]
        for precision, path in files.items()
    }
    assert quantised["fp32"] is None
    assert quantised["int8"]["operations"] == pytest.approx(48 / 54)
    assert quantised["int8-weights"]["operations"] == 0
    for precision in ("int8", "int8-weights"):
        assert 0.9 < quantised[precision]["bytes"] < 1
        assert files[precision].stat().st_size < 0.5 * files["fp32"].stat().st_size


def test_xnnpack_takes_all_multiply_adds(files):
    for precision in ("fp32", "int8"):
        assert LiteRTPredictor(files[precision]).describe()["delegated"] == 1


def test_the_graph_is_plain(files):
    """Per block five transposes to tokens and back and four of attention; norms of two means."""
    fp32, int8 = (count_operators(files[precision]) for precision in ("fp32", "int8"))
    assert fp32["TRANSPOSE"] <= 26
    assert fp32["RSQRT"] == 7 - 1 + 3
    assert fp32["MEAN"] == fp32["RSQRT"] + 1
    assert "SQUARED_DIFFERENCE" not in fp32
    assert int8["LOGISTIC"] == fp32["LOGISTIC"]
    # float: into and out of three blocks and their attention, feed-forward and norms
    assert int8["QUANTIZE"] == 1 + 3 * 3 + 3


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_centring_the_tokens_changes_nothing(network, size):
    x = noise(size)
    prepared = prepare(network)
    with torch.no_grad():
        tokens = []
        prepared.stages[3][1].norm.register_forward_pre_hook(
            lambda _, inputs: tokens.append(inputs[0])
        )
        expected = expected_of(prepared, x)
        centre_tokens(prepared)
        prepared.stages[3][1].norm.register_forward_pre_hook(
            lambda _, inputs: tokens.append(inputs[0])
        )
        found = expected_of(prepared, x)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    before, after = (t.mean(-1).abs().max() for t in tokens)
    assert before > 0.01
    assert after < 1e-5
    assert not any(isinstance(module, nn.LayerNorm) for module in prepared.modules())


def test_tokens_of_zeros_stay_zeros():
    zeros = torch.zeros(2, 8)
    assert torch.equal(RootMeanSquareNorm(1e-5)(zeros), zeros)


def test_blocks_stay_in_float_that_are_named(network):
    def marked(*blocks: str) -> set[str]:
        exported = torch.export.export(prepare(network), (torch.zeros(1, 3, 64, 64),))
        graph = exported.run_decompositions(dict(DECOMPOSITIONS)).module()
        LiteRTQuantizer(blocks).annotate(graph)
        return {
            [path for path, _ in node.meta["nn_module_stack"].values()][-1]
            for node in graph.graph.nodes
            if node.target in (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
            and "quantization_annotation" in node.meta
        }

    everything = marked()
    assert {"stem.conv", "stages.4.1.transformer.0.ffn_in", "head"} <= everything
    spared = everything - marked("stages.3", "head")
    assert spared == {name for name in everything if name.startswith("stages.3.") or name == "head"}


def candidates() -> tuple[nn.Module, Contract]:
    backbone = create_model("mobilevit_xxs", num_classes=0, **SMALL)
    network = SSDLite(backbone, SSDLiteConfig(num_classes=len(NAMES) + 1))
    return network, Contract("detection", NAMES, (64, 96), None, output="candidates")


def pixel_logits() -> tuple[nn.Module, Contract]:
    backbone = create_model("mobilevit_xxs", num_classes=0, output_stride=16, **SMALL)
    network = DeepLabV3(backbone, DeepLabV3Config(num_classes=len(NAMES), aspp_width=16))
    return network, Contract("segmentation", NAMES, (48, 80), None, output="pixel_logits")


@pytest.mark.parametrize("made", [candidates, pixel_logits])
def test_every_task_is_written(made, tmp_path):
    network, contract = made()
    network = get_task(contract.task).deploy(enliven(network), contract)
    write(FORMAT, network, contract, tmp_path / "made.tflite")
    predictor = LiteRTPredictor(tmp_path / "made.tflite")
    x = noise(contract.size, 2)
    assert decibels(expected_of(network, x), predictor.run(x)) > 70


def test_the_choice_among_boxes_is_left_to_the_app(contract, tmp_path):
    chosen = replace(contract, task="detection", output="detections")
    with pytest.raises(UserError, match="--raw"):
        write(FORMAT, nn.Identity(), chosen, tmp_path / "x.tflite")
    assert not (tmp_path / "x.tflite").exists()


def test_entries_are_replaced_and_the_file_still_runs(file, contract):
    x = noise(contract.size, 1)
    before = LiteRTPredictor(file)
    for text in ('{"a": 1}', '{"a": 2}'):
        LiteRTExporter().annotate(file, {COMPARISON: text})
    after = LiteRTPredictor(file)
    assert after.entries == {**before.entries, COMPARISON: '{"a": 2}'}
    np.testing.assert_array_equal(after.run(x), before.run(x))


def test_files_that_cannot_be_run_are_refused(file, files, contract):
    whole = file.read_bytes()

    def refuses(content: bytes, pattern: str) -> None:
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"copy\.tflite: {pattern}"):
            LiteRTPredictor(file)

    refuses(whole[: len(whole) // 2], "it holds no contract, or was cut off")
    refuses(b"", "it holds no contract, or was cut off")
    refuses(whole[:5000] + b"\0" + whole[5001:], "its contract was made for another file")
    file.write_bytes(b"not a flatbuffer, by any means" * 10)
    LiteRTExporter().annotate(file, LiteRTPredictor(files["fp32"]).entries)
    refuses(file.read_bytes(), "LiteRT cannot load it")
    file.write_bytes(whole)
    other = replace(contract, size=(32, 32), layout="NHWC")
    LiteRTExporter().annotate(file, {"mobilevit.contract": other.to_json()})
    refuses(file.read_bytes(), r"its input is \(64, 128\), but its contract says \(32, 32\)")
    with pytest.raises(UserError, match="threads is 0"):
        LiteRTPredictor(files["fp32"], threads=0)


def test_running_needs_no_torch(files):
    code = (
        "import sys, numpy as np\n"
        "from mobilevit.deployment.runtimes import load_predictor\n"
        "predictor = load_predictor(sys.argv[1], 1)\n"
        "print(predictor.run(np.zeros((2, 3, *predictor.contract.size), np.float32)).shape)\n"
        "assert not {'torch', 'tensorflow', 'litert_torch'} & sys.modules.keys()\n"
    )
    command = [sys.executable, "-c", code, str(files["int8"])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "(2, 7)", done.stderr
