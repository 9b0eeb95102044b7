from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mobilevit.deployment.comparison import compare
from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.exporters import write
from mobilevit.deployment.formats import FORMATS
from mobilevit.deployment.runtimes.pytorch import TorchPredictor
from mobilevit.errors import UserError
from mobilevit.networks import DeepLabV3, DeepLabV3Config, SSDLite, SSDLiteConfig, create_model
from mobilevit.tasks import get_task
from peers import enliven

ct = pytest.importorskip("coremltools")
from mobilevit.deployment.exporters.coreml import CoreMLExporter  # noqa: E402
from mobilevit.deployment.runtimes import coreml  # noqa: E402
from mobilevit.deployment.runtimes.coreml import SPEC, WEIGHTS, CoreMLPredictor  # noqa: E402

NAMES = ("one", "two", "three")
SMALL = {"layers": (1, 1, 1)}
FORMAT = FORMATS["coreml"]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return enliven(create_model("mobilevit_xxs", num_classes=7, **SMALL))


@pytest.fixture(scope="module")
def packages(network, contract, tmp_path_factory) -> dict[str, Path]:
    """The network in every precision."""
    folder = tmp_path_factory.mktemp("packages")
    made = {precision: folder / f"{precision}.mlpackage" for precision in FORMAT.precisions}
    for precision, path in made.items():
        write(FORMAT, network, contract, path, ExportConfig(precision), name="mobilevit_xxs")
    return made


@pytest.fixture
def package(packages, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(packages["fp16"], tmp_path / "copy.mlpackage"))


def pixels(size: tuple[int, int], count: int = 2) -> np.ndarray:
    """Noise of 8 bit, as values in [0, 1]."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 3, *size))
    return (noise / 255).astype(np.float32)


def decibels(expected: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10(np.square(expected).sum() / np.square(expected - found).sum()))


def expected_of(network: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize(("precision", "least"), [("fp32", 90), ("fp16", 45), ("int8-weights", 18)])
def test_the_package_computes_what_the_network_computes(
    packages, network, contract, precision, least
):
    x = pixels(contract.size)
    expected = expected_of(network, x)
    found = CoreMLPredictor(packages[precision]).run(x)
    assert found.dtype == np.float32
    assert np.ptp(expected) > 0.5  # the weights do say something
    assert decibels(expected, found) > least
    if precision == "fp32":
        assert np.abs(expected - found).max() < 1e-4 * np.ptp(expected)


def test_it_agrees_on_real_pictures(packages, network, contract, pictures):
    reference = TorchPredictor(network, contract, Path("network"))
    comparison = compare(reference, CoreMLPredictor(packages["fp16"]), pictures, tolerance=0.02)
    assert comparison.passed
    assert comparison.agreement == 1


def linear_attention() -> tuple[nn.Module, Contract]:
    network = create_model("mobilevitv2_050", num_classes=len(NAMES), **SMALL)
    return network, Contract("classification", NAMES, (80, 72), 80)


def candidates() -> tuple[nn.Module, Contract]:
    backbone = create_model("mobilevit_xxs", num_classes=0, **SMALL)
    contract = Contract("detection", NAMES, (64, 96), None, output="candidates")
    return SSDLite(backbone, SSDLiteConfig(num_classes=len(NAMES) + 1)), contract


def pixel_logits() -> tuple[nn.Module, Contract]:
    backbone = create_model("mobilevit_xxs", num_classes=0, output_stride=16, **SMALL)
    network = DeepLabV3(backbone, DeepLabV3Config(num_classes=len(NAMES), aspp_width=16))
    return network, Contract("segmentation", NAMES, (48, 80), None, output="pixel_logits")


@pytest.mark.parametrize("made", [linear_attention, candidates, pixel_logits])
def test_every_task_is_written(made, tmp_path):
    network, contract = made()
    network = get_task(contract.task).deploy(enliven(network), contract)
    write(FORMAT, network, contract, tmp_path / "made.mlpackage")
    predictor = CoreMLPredictor(tmp_path / "made.mlpackage")
    x = pixels(contract.size)
    assert decibels(expected_of(network, x), predictor.run(x)) > 35
    assert predictor.contract == replace(contract, layout="image")
    if made is linear_attention:  # its norms over all of a picture are one operation each
        operations = predictor.describe()["program"]["operations"]
        assert operations["layer_norm"] == operations["batch_norm"] == 9
        assert not operations.keys() & {"square", "sqrt", "real_div"}


def test_boxes_cannot_be_chosen_inside(tmp_path):
    contract = Contract("detection", NAMES, (64, 64), None, output="detections")
    with pytest.raises(UserError, match="--raw"):
        write(FORMAT, nn.Identity(), contract, tmp_path / "made.mlpackage")
    assert not list(tmp_path.iterdir())


def test_a_picture_goes_in_and_floats_come_out(packages, contract):
    spec = ct.utils.load_spec(str(packages["fp16"]))
    (image,), (output,) = spec.description.input, spec.description.output
    assert (image.name, output.name) == ("image", "logits")
    assert (image.type.imageType.height, image.type.imageType.width) == contract.size
    assert image.type.imageType.colorSpace == image.type.imageType.RGB
    assert output.type.multiArrayType.dataType == output.type.multiArrayType.FLOAT32
    assert spec.specificationVersion == 7  # iOS 16
    assert spec.description.metadata.author == "mobilevit"


def test_the_graph_is_plain(packages):
    """A norm is one operation, batch-norm is folded, no axis more than five."""
    operations = CoreMLPredictor(packages["fp16"]).describe()["program"]["operations"]
    assert operations["layer_norm"] == 9
    assert operations["softmax"] == 3
    assert operations["cast"] == 2
    assert not operations.keys() & {"batch_norm", "upsample_bilinear", "sigmoid", "reduce_sum"}


def test_it_says_what_it_is(packages, network, contract):
    assert [precision for precision in packages] == ["fp16", "fp32", "int8-weights"]
    for precision, path in packages.items():
        predictor = CoreMLPredictor(path)
        described = predictor.describe()
        assert described["precision"] == precision
        assert described["runs_as"] == "interpreted, not run by Core ML on this machine"
        assert described["parameters"] == sum(p.numel() for p in network.parameters())
        assert predictor.contract == replace(contract, layout="image")
        assert FORMAT.made(path)
    fp16, fp32, int8 = (CoreMLPredictor(path).describe() for path in packages.values())
    assert fp16["program"]["kept_in_fp32"] == ["image__scaled__"]
    assert fp32["program"]["computed_in"]["fp16"] == 0
    assert fp16["quantised"] is fp32["quantised"] is None
    assert int8["quantised"]["operations"] == 0
    assert 0.9 < int8["quantised"]["bytes"] < 1
    assert fp16["bytes"] < 0.57 * fp32["bytes"]
    assert int8["bytes"] < 0.6 * fp16["bytes"]


def test_entries_can_be_added(package):
    CoreMLExporter().annotate(package, {"mobilevit.comparison": "{}", "word": "Dögel"})
    CoreMLExporter().annotate(package, {"word": "other"})
    entries = ct.utils.load_spec(str(package)).description.metadata.userDefined
    assert (entries["mobilevit.comparison"], entries["word"]) == ("{}", "other")
    assert CoreMLPredictor(package).contract.class_names[1] == "Dögel"


def test_the_package_tells_nothing_of_the_machine_it_was_made_on(packages):
    files = [file for file in packages["fp16"].rglob("*") if file.is_file()]
    assert {file.name for file in files} == {"Manifest.json", "model.mlmodel", "weight.bin"}
    here = str(Path(__file__).parents[2]).encode()
    assert not any(here in file.read_bytes() for file in files)


class Loud(nn.Module):
    """Convolutions whose weights are all the same."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in weights)
        for layer, weight in zip(self.layers, weights, strict=True):
            nn.init.constant_(layer.weight, weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return x.mean((2, 3))


def test_an_overflow_is_named(tmp_path):
    contract = Contract("classification", NAMES, (8, 8), 8)
    x = pixels(contract.size)
    write(FORMAT, Loud(200, 200), contract, tmp_path / "made.mlpackage")
    with pytest.raises(UserError, match=r"conv2d_1.*\(conv\).*fp16 cannot hold.*precision fp32"):
        CoreMLPredictor(tmp_path / "made.mlpackage").run(x)


def test_a_weight_beyond_fp16_stays_in_fp32_and_is_named(tmp_path):
    contract = Contract("classification", NAMES, (8, 8), 8)
    write(FORMAT, Loud(1e5, 1e-4), contract, tmp_path / "made.mlpackage")
    program = CoreMLPredictor(tmp_path / "made.mlpackage").describe()["program"]
    assert program["kept_in_fp32"] == ["image__scaled__", "conv2d"]


def test_a_damaged_package_is_said_to_be(package, contract, tmp_path):
    def spoiled(message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            CoreMLPredictor(package)
        assert str(package) in str(caught.value)

    whole, weights = (package / SPEC).read_bytes(), (package / WEIGHTS).read_bytes()
    (package / WEIGHTS).write_bytes(weights[:-1] + b"x")
    spoiled("weights.*are damaged or those of another package")
    (package / WEIGHTS).unlink()
    spoiled("its weights, .*weight.bin, are missing")
    (package / WEIGHTS).write_bytes(weights)
    (package / SPEC).write_bytes(whole[: len(whole) // 2])
    spoiled("is damaged or no Core ML package")
    (package / SPEC).write_bytes(b"")
    spoiled("is damaged or no Core ML package")
    (package / SPEC).unlink()
    spoiled("is damaged or no Core ML package")


def test_a_package_without_a_contract_is_refused(package):
    spec = coreml.read_spec(package)
    spec.description.metadata.userDefined.clear()
    (package / SPEC).write_bytes(spec.SerializeToString())
    with pytest.raises(UserError, match="holds no contract"):
        CoreMLPredictor(package)


def test_a_package_that_contradicts_itself_is_refused(package):
    spec = coreml.read_spec(package)
    block = next(iter(spec.mlProgram.functions["main"].block_specializations.values()))
    norm = next(operation for operation in block.operations if operation.type == "layer_norm")
    norm.outputs[0].type.tensorType.dimensions[0].constant.size += 1
    (package / SPEC).write_bytes(spec.SerializeToString())
    with pytest.raises(UserError, match="cannot be read, or contradicts itself"):
        CoreMLPredictor(package)


def test_on_a_mac_core_ml_gets_the_picture(packages, contract, monkeypatch):
    given = []

    def predict(inputs):
        given.append(inputs["image"])
        return {"logits": np.ones((1, 7))}

    monkeypatch.setattr(coreml, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(ct.models, "MLModel", lambda path: SimpleNamespace(predict=predict))
    x = pixels(contract.size)
    predictor = CoreMLPredictor(packages["fp16"])
    assert predictor.run(x).shape == (2, 7)
    assert "runs_as" not in predictor.describe()  # so it is measured like any other
    height, width = contract.size
    assert [(picture.mode, picture.size) for picture in given] == [("RGB", (width, height))] * 2
    np.testing.assert_array_equal(np.asarray(given[1]).transpose(2, 0, 1), np.rint(x[1] * 255))
