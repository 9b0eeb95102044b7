from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch

from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.exporters import write
from mobilevit.deployment.formats import FORMATS
from mobilevit.deployment.preprocess import load_batch
from mobilevit.deployment.runtimes.openvino import OpenVINOPredictor, read_entries
from mobilevit.errors import UserError
from mobilevit.networks import DeepLabV3, DeepLabV3Config, SSDLite, SSDLiteConfig, create_model
from mobilevit.tasks import get_task
from peers import enliven

FORMAT = FORMATS["openvino"]
CONTRACT = Contract("classification", ("cat", "Dögel", '<"&">'), size=(64, 64), resize=80)
LAYERS = (1, 1, 1)
PICTURES = np.random.default_rng(0).random((6, 3, 64, 64), dtype=np.float32)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """In the last stage of it, there is one token; attention says much."""
    return enliven(create_model("mobilevit_xxs", num_classes=3, layers=LAYERS))


@pytest.fixture(scope="module")
def expected(network) -> np.ndarray:
    return outputs(network, PICTURES)


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory) -> Path:
    """Every precision of the network, under its name."""
    folder = tmp_path_factory.mktemp("openvino")
    for precision in FORMAT.precisions:
        config = ExportConfig(precision, dynamic_batch=precision == "fp16")
        path = folder / f"{precision}.xml"
        write(FORMAT, network, CONTRACT, path, config, name="xxs", calibration=PICTURES)
    return folder


def outputs(network: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(torch.from_numpy(images)).numpy()


def noise(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the mean difference as a share of the mean of what is expected."""
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [
        ("fp32", 0, 1e-5),
        ("fp16", 1e-5, 3e-3),
        ("bf16", 1e-3, 0.4),
        ("int8", 1e-3, 0.4),
        ("int8-weights", 1e-4, 0.1),
    ],
)
def test_the_files_compute_what_the_network_computes(folder, expected, precision, least, most):
    found = FORMAT.open(folder / f"{precision}.xml", threads=1).run(PICTURES)
    assert least <= noise(found, expected) < most


def test_a_file_for_any_number_of_pictures_takes_them_at_once(folder):
    one, many = (FORMAT.open(folder / f"{name}.xml", 1) for name in ("fp32", "fp16"))
    assert (one.batch, many.batch) == (1, None)
    assert many.infer(PICTURES).shape == (6, 3)
    np.testing.assert_allclose(many.run(PICTURES[:1]), many.run(PICTURES)[:1], atol=1e-4)


def test_small_precisions_make_small_files(folder):
    bytes_ = {name: FORMAT.bytes(folder / f"{name}.xml") for name in FORMAT.precisions}
    weights = (folder / "fp32.bin").stat().st_size
    assert bytes_["fp32"] == weights + (folder / "fp32.xml").stat().st_size
    assert (folder / "fp16.bin").stat().st_size < 0.51 * weights
    for name in ("int8", "int8-weights"):
        assert (folder / f"{name}.bin").stat().st_size < 0.28 * weights
        assert bytes_[name] < 0.5 * bytes_["fp32"]


def test_what_became_int8_is_counted_in_the_file(folder):
    counts = {
        name: FORMAT.open(folder / f"{name}.xml").describe()["quantised"]
        for name in FORMAT.precisions
    }
    assert counts["fp32"] is counts["fp16"] is counts["bf16"] is None
    assert counts["int8-weights"]["operations"] == 0
    assert counts["int8-weights"]["bytes"] > 0.9
    # 35 convolutions, 3 transformers of 6 layers and 2 products, the head; 3 products stay in float
    layers = 35 + 3 * 6 + 1
    assert counts["int8"]["operations"] == pytest.approx((layers + 3) / (layers + 6))
    assert counts["int8"]["bytes"] > 0.9


def test_blocks_stay_in_float(network, tmp_path):
    path = tmp_path / "mixed.xml"
    config = ExportConfig("int8", float_blocks=("stages.4", "stages.1"))
    write(FORMAT, network, CONTRACT, path, config, calibration=PICTURES[:1])
    operations = ov.Core().read_model(path).get_ops()
    rounded = {
        operation.get_friendly_name().split(".conv/")[0].removeprefix("__module.")
        for operation in operations
        if operation.get_type_name() == "Convolution"
        and operation.input_value(0).get_node().get_type_name() == "FakeQuantize"
    }
    assert {"stem", "stages.0.0.expand", "stages.2.0.expand", "stages.3.1.local"} <= rounded
    assert not any(name.startswith(("stages.1.", "stages.4.")) for name in rounded)
    share = FORMAT.open(path).describe()["quantised"]
    assert 0.2 < share["operations"] < 0.8
    assert 0.2 < share["bytes"] < 0.8


def test_it_says_what_it_is(folder, network):
    predictor = FORMAT.open(folder / "int8.xml")
    assert predictor.contract == CONTRACT
    assert FORMAT.made(folder / "int8.xml")
    described = predictor.describe()
    assert (described["format"], described["precision"]) == ("openvino", "int8")
    model = ov.Core().read_model(folder / "int8.xml")
    assert model.input(0).any_name == "image"
    assert model.output(0).any_name == "logits"
    told = model.get_rt_info("mobilevit.contract").astype(str)
    assert Contract.from_json(told, "") == CONTRACT
    assert str(Path(__file__).parents[2]).encode() not in (folder / "int8.xml").read_bytes()


def test_entries_are_added_and_replaced(folder, tmp_path):
    for suffix in (".xml", ".bin"):
        (tmp_path / f"fp32{suffix}").write_bytes((folder / f"fp32{suffix}").read_bytes())
    path = tmp_path / "fp32.xml"
    exporter = FORMAT.exporter()
    exporter.annotate(path, {"a": "first\nline", "b": "ß"})
    exporter.annotate(path, {"a": "second\nline"})
    entries = read_entries(path)
    assert (entries["a"], entries["b"]) == ("second\nline", "ß")
    assert entries.keys() > read_entries(folder / "fp32.xml").keys()
    one, other = (OpenVINOPredictor(file).run(PICTURES) for file in (path, folder / "fp32.xml"))
    np.testing.assert_array_equal(one, other)


def test_the_network_is_left_as_it_was(folder, network):
    """After five exports."""
    assert type(network.stages[2][1].transformer[0].attention).__name__ == "Attention"
    assert isinstance(network.stem.norm, torch.nn.BatchNorm2d)


@pytest.mark.parametrize("output", ["candidates", "coarse_logits"])
def test_the_other_tasks(output, tmp_path):
    names, size = ("a", "b", "c"), (64, 96)
    task = "detection" if output == "candidates" else "segmentation"
    contract = replace(CONTRACT, task=task, class_names=names, size=size, output=output)
    backbone = create_model("mobilevit_xxs", num_classes=0, layers=LAYERS)
    made = (
        SSDLite(backbone, SSDLiteConfig(num_classes=4))
        if output == "candidates"
        else DeepLabV3(backbone, DeepLabV3Config(num_classes=3, aspp_width=16))
    )
    network = get_task(task).deploy(enliven(made), contract)
    images = np.random.default_rng(1).random((2, 3, *size), dtype=np.float32)
    expected = outputs(network, images)
    for precision, most in (("fp32", 1e-4), ("int8", 0.4)):
        path = tmp_path / f"{precision}.xml"
        write(FORMAT, network, contract, path, ExportConfig(precision), calibration=images)
        assert noise(FORMAT.open(path).run(images), expected) < most
    rounded = [
        operation.get_friendly_name()
        for operation in ov.Core().read_model(tmp_path / "int8.xml").get_ops()
        if operation.get_type_name() == "FakeQuantize"
    ]
    assert len(rounded) > 50
    assert not any(name.startswith("aten::") for name in rounded)  # the arithmetic on boxes


def test_boxes_are_chosen_inside(tmp_path):
    contract = replace(
        CONTRACT, task="detection", class_names=("a", "b"), size=(64, 96), output="detections"
    )
    backbone = create_model("mobilevit_xxs", num_classes=0, layers=LAYERS)
    made = enliven(SSDLite(backbone, SSDLiteConfig(num_classes=2)))
    network = get_task("detection").deploy(made, contract)
    write(FORMAT, network, contract, tmp_path / "made.xml", bare=made)
    images = np.random.default_rng(1).random((2, 3, 64, 96), dtype=np.float32)
    expected = np.concatenate([outputs(network, image[None]) for image in images])
    assert (expected[..., 4] > 0.3).sum() > 10
    found = FORMAT.open(tmp_path / "made.xml").run(images)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_files_that_cannot_be_used_are_named(folder, tmp_path):
    def refuses(pattern: str, content: bytes, weights: bytes | None) -> None:
        path = tmp_path / "model.xml"
        path.write_bytes(content)
        path.with_suffix(".bin").unlink(missing_ok=True)
        if weights is not None:
            path.with_suffix(".bin").write_bytes(weights)
        with pytest.raises(UserError, match=pattern) as caught:
            OpenVINOPredictor(path)
        assert str(path) in str(caught.value)

    content, weights = ((folder / f"fp32{suffix}").read_bytes() for suffix in (".xml", ".bin"))
    other = (folder / "fp16.bin").read_bytes()
    refuses("damaged or no OpenVINO file", content[:10_000], weights)
    refuses(r"weights are missing; model\.bin", content, None)
    refuses("damaged, or holds the weights of another", content, weights[:-8])
    refuses("damaged, or holds the weights of another", content, other)
    refuses("holds no contract", content.replace(b"mobilevit.contract", b"contract"), weights)
    refuses("OpenVINO cannot load it", content.replace(b'"Swish"', b'"Swash"'), weights)
    smaller = content.replace(b"&quot;size&quot;: [64, 64]", b"&quot;size&quot;: [64, 32]")
    refuses(r"its input is \(64, 64\), but its contract says \(64, 32\)", smaller, weights)


def test_it_runs_without_torch_and_tells_nobody(folder, photos):
    code = (
        "import json, socket, sys\n"
        "asked = []\n"
        "socket.getaddrinfo = lambda *args, **_: asked.append(args) or []\n"
        "from mobilevit.deployment.preprocess import load_batch\n"
        "from mobilevit.deployment.runtimes import load_predictor\n"
        "predictor = load_predictor(sys.argv[1], 1)\n"
        "outputs = predictor.run(load_batch([sys.argv[2]], predictor.contract))\n"
        "import time; time.sleep(1)\n"
        "loaded = {'torch', 'nncf', 'openvino_telemetry.main'} & sys.modules.keys()\n"
        "print(json.dumps([outputs.tolist(), sorted(loaded), asked]))\n"
    )
    picture = next(photos.glob("val/*/*.jpg"))
    command = [sys.executable, "-c", code, str(folder / "fp32.xml"), str(picture)]
    done = subprocess.run(command, capture_output=True, text=True)
    found, loaded, asked = json.loads(done.stdout or "[0, 0, 0]")
    expected = FORMAT.open(folder / "fp32.xml", 1).run(load_batch([picture], CONTRACT))
    np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=done.stderr)
    assert (loaded, asked) == ([], [])
