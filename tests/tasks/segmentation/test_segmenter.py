from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mobilevit.deployment.comparison import compare
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.exporters import write
from mobilevit.deployment.formats import FORMATS
from mobilevit.deployment.manifest import Origin
from mobilevit.deployment.runtimes.onnx import OnnxPredictor
from mobilevit.deployment.runtimes.pytorch import TorchPredictor
from mobilevit.networks import DeepLabV3, DeepLabV3Config, TorchvisionLRASPP, create_model
from mobilevit.networks.inference import optimize
from mobilevit.tasks.segmentation.segmenter import Segmenter
from peers import enliven

NAMES = tuple("abcd")
SIZE = (64, 96)


def deeplab(output_stride: int = 16) -> DeepLabV3:
    numbers = {"layers": (1, 1, 1), "output_stride": output_stride}
    backbone = create_model("mobilevit_xxs", num_classes=0, **numbers)
    made = enliven(DeepLabV3(backbone, DeepLabV3Config(num_classes=len(NAMES), aspp_width=16)))
    assert isinstance(made, DeepLabV3)
    return made


class Constant(nn.Module):
    """A network that says the same of every picture."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits


@pytest.mark.parametrize(("coarse", "size"), [((4, 6), (64, 96)), ((5, 7), (75, 100))])
def test_every_pixel_is_interpolated_as_pillow_does_it(
    coarse: tuple[int, int], size: tuple[int, int]
) -> None:
    logits = torch.randn(1, 2, *coarse, generator=torch.Generator().manual_seed(0))
    (found,) = Segmenter(Constant(logits), size)(torch.empty(1, 3, *size))
    height, width = size
    for plane, expected in zip(found.numpy(), logits[0].numpy(), strict=True):
        image = Image.fromarray(expected).resize((width, height), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(plane, np.asarray(image), atol=1e-5)


@pytest.mark.parametrize("make", [deeplab, lambda: enliven(TorchvisionLRASPP(len(NAMES)))])
def test_what_it_puts_out_is_as_asked_for(make) -> None:
    network = make()
    x = torch.rand(2, 3, 100, 75)
    with torch.no_grad():
        logits = network(x)
        coarse = Segmenter(network, (100, 75), "coarse_logits").eval()(x)
        pixels = Segmenter(network, (100, 75)).eval()(x)
    assert torch.equal(coarse, logits)
    assert pixels.shape == (2, len(NAMES), 100, 75)
    assert 0 < pixels.std() <= logits.std()


def test_in_half_precision_the_upsampling_is_still_exact() -> None:
    network, x = deeplab(), torch.rand(1, 3, *SIZE)
    coarse = optimize(Segmenter(network, SIZE, "coarse_logits"), "bf16")(x)
    expected = Segmenter(Constant(coarse), SIZE)(x)
    torch.testing.assert_close(optimize(Segmenter(network, SIZE), "bf16")(x), expected)


@pytest.mark.parametrize(
    ("output", "shape", "resizes"),
    [("pixel_logits", (1, 4, 64, 96), 1), ("coarse_logits", (1, 4, 8, 12), 0)],
)
def test_onnx_says_the_same_of_every_pixel(
    output: str, shape: tuple[int, ...], resizes: int, photos: Path, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    contract = Contract("segmentation", NAMES, SIZE, None, output=output)
    network = deeplab(8)
    path = tmp_path / "model.onnx"
    write(FORMATS["onnx"], Segmenter(network, SIZE, output), contract, path)
    graph = onnx.load_model(path).graph
    assert [node.op_type for node in graph.node].count("Resize") == resizes
    (told,) = graph.output
    assert told.name == output
    assert tuple(side.dim_value for side in told.type.tensor_type.shape.dim) == shape

    reference = TorchPredictor(network, contract, Path("network"))
    pictures = sorted(photos.glob("val/*/*.jpg"))[:6]
    result = compare(reference, OnnxPredictor(path), pictures)
    assert result.passed
    assert result.agreement > 0.999
    assert result.max_difference < 1e-4 * result.value_range


def test_agreement_is_the_share_of_all_pixels(photos: Path) -> None:
    """Of 64 x 96 pixels one row is given another class by the second form, in every picture."""
    contract = Contract("segmentation", NAMES, SIZE, None, output="pixel_logits")

    def predictor(rows: int) -> SimpleNamespace:
        logits = np.zeros((1, len(NAMES), *SIZE), np.float32)
        logits[:, 0] = 1
        logits[:, 1, :rows] = 2
        return SimpleNamespace(
            path=Path(str(rows)),
            contract=contract,
            origin=Origin(),
            run=lambda images: logits.repeat(len(images), 0),
        )

    pictures = sorted(photos.glob("val/*/*.jpg"))[:5]
    result = compare(predictor(0), predictor(1), pictures)
    assert result.pictures == 5
    assert result.agreement == pytest.approx(1 - 1 / 64)
    assert result.max_difference == 2
