"""One picture through segmentation networks at 512: DeepLabv3 on MobileViT beside torchvision's.

One thread and two, from a tensor of pixels to logits of every pixel.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.segmentation import (
    deeplabv3_mobilenet_v3_large,
    lraspp_mobilenet_v3_large,
)

from common import agree, milliseconds, parser, report, take_turns
from mobilevit import Contract, create_model, optimize
from mobilevit.deployment.cost import count_multiply_adds, count_parameters
from mobilevit.deployment.exporters import write
from mobilevit.deployment.formats import FORMATS
from mobilevit.deployment.runtimes.onnx import OnnxPredictor
from mobilevit.errors import MissingExtraError
from mobilevit.networks import DeepLabV3, DeepLabV3Config, TorchvisionLRASPP
from mobilevit.tasks.segmentation.segmenter import Segmenter

CLASSES = 21
LRASPP, DEEPLAB = "torchvision, lraspp", "torchvision, deeplabv3"
TORCH, ONNX = "PyTorch", "ONNX"
Run = Callable[[], np.ndarray]


class Whole(nn.Module):
    """A segmentation network of torchvision as it is, without the dictionary around its output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, CLASSES, H, W)."""
        return self.network(x)["out"]


def main() -> None:
    """Run the benchmark."""
    chosen = parser(__doc__).parse_args()
    torch.manual_seed(0)
    names, side, counts, rounds = ("xxs", "xs", "s"), 512, (1, 2), 20
    if chosen.quick:
        names, side, counts, rounds = ("xxs",), 64, (1,), 2
    size = (side, side)
    theirs = {"weights": None, "weights_backbone": None, "num_classes": CLASSES}
    networks: dict[str, nn.Module] = {
        LRASPP: Whole(lraspp_mobilenet_v3_large(**theirs)),
        DEEPLAB: Whole(deeplabv3_mobilenet_v3_large(**theirs)),
    }
    for name in names:
        backbone = create_model(f"mobilevit_{name}", num_classes=0, output_stride=16)
        deeplab = DeepLabV3(backbone, DeepLabV3Config(num_classes=CLASSES))
        networks[f"ours, mobilevit_{name}"] = Segmenter(deeplab, size)
    networks["ours, torchvision's lraspp"] = Segmenter(TorchvisionLRASPP(CLASSES), size)

    for network in networks.values():
        network.eval()
    x = torch.rand(1, 3, *size)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        exported = list(networks)[2:3] if chosen.quick else list(networks)
        files = {
            name: export(networks[name], size, Path(folder) / f"{i}.onnx")
            for i, name in enumerate(exported)
        }
        for threads in counts:
            torch.set_num_threads(threads)
            contestants: dict[tuple[str, str], Run] = {}
            for name, network in networks.items():
                contestants[name, TORCH] = in_torch(network, x)
                if path := files.get(name):
                    contestants[name, ONNX] = in_onnx(path, x, threads)
                    expected = contestants[name, TORCH]()
                    agree(f"{name} in {ONNX}", contestants[name, ONNX](), expected, 1e-3)
            seconds = take_turns(contestants, rounds)
            medians = {key: float(np.median(taken)) for key, taken in seconds.items()}
            rows += [
                {
                    "contestant": key[0],
                    "run by": key[1],
                    "threads": threads,
                    **milliseconds(taken),
                    "x lraspp": medians[LRASPP, TORCH] / medians[key],
                    "x deeplabv3": medians[DEEPLAB, TORCH] / medians[key],
                    "M params": count_parameters(networks[key[0]]) / 1e6,
                    "G mul-adds": count_multiply_adds(networks[key[0]], size) / 1e9,
                }
                for key, taken in seconds.items()
            ]
    report(
        chosen,
        rows,
        (),
        ("torchvision", "onnxruntime"),
        f"""{side} x {side}, {CLASSES} classes, batch 1, fp32, random weights. Ours: DeepLabv3 at
        output stride 16, upsampled in the graph, as predict runs it (optimize()); torchvision's
        lraspp likewise. torchvision: its own forward in evaluation, on mobilenet_v3_large. ONNX:
        either in ONNX Runtime, written by this package's exporter. x: how many times as fast as
        torchvision's in PyTorch with as many threads.""",
    )


def in_torch(network: nn.Module, x: Tensor) -> Run:
    """Return what runs a network in PyTorch; ours in its inference form."""
    fast = optimize(network) if isinstance(network, Segmenter) else network

    @torch.inference_mode()
    def run() -> np.ndarray:
        return fast(x).numpy()

    return run


def in_onnx(path: Path, x: Tensor, threads: int) -> Run:
    """Return what runs an exported network in ONNX Runtime."""
    predictor, images = OnnxPredictor(path, threads), x.numpy()
    return lambda: predictor.run(images)


def export(network: nn.Module, size: tuple[int, int], path: Path) -> Path | None:
    """Write a network as ONNX, if the libraries for that are installed."""
    names = tuple(map(str, range(CLASSES)))
    contract = Contract("segmentation", names, size, None, output="pixel_logits")
    try:
        FORMATS["onnx"].check(FORMATS["onnx"].builds)
    except MissingExtraError:
        return None
    write(FORMATS["onnx"], network, contract, path)
    return path


if __name__ == "__main__":
    main()
