"""One picture through SSDLite at 320: this package's detectors beside torchvision's.

Eager, one thread, from a tensor of pixels to at most 200 boxes: forward, decoding, suppression.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from common import Bar, milliseconds, parser, report, take_turns
from mobilevit import create_model, optimize
from mobilevit.networks import SSDLite, SSDLiteConfig, TorchvisionSSDLite
from mobilevit.tasks.detection.detector import Detector, choose, decode

CLASSES = 80
SIZE = (320, 320)
THEIRS = "torchvision"


class Scored(nn.Module):
    """A detector that finds something: to its logits, which say nothing, drawn ones are added.

    They leave some 500 pairs of anchor and class with a score above 0.01.
    """

    def __init__(self, network: SSDLite | TorchvisionSSDLite) -> None:
        super().__init__()
        self.network = network
        self.anchors = network.anchors
        self.register_buffer("drawn", draw(len(network.anchors(SIZE))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits and box offsets."""
        logits, offsets = self.network(x)
        return logits + self.drawn, offsets


def main() -> None:
    """Run the benchmark."""
    chosen = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    names, rounds = (("xxs",), 2) if chosen.quick else (("xxs", "xs", "s"), 40)
    config = SSDLiteConfig(num_classes=CLASSES + 1)
    networks: dict[str, SSDLite | TorchvisionSSDLite] = {
        f"ours, mobilevit_{name}": SSDLite(create_model(f"mobilevit_{name}", num_classes=0), config)
        for name in names
    }
    networks["ours, torchvision's network"] = TorchvisionSSDLite(CLASSES + 1)

    x = torch.rand(1, 3, *SIZE)
    whole: dict[str, Callable[[], object]] = {THEIRS: torchvisions(x)}
    boxes: dict[str, Callable[[], object]] = {}
    for name, network in networks.items():
        whole[name], boxes[f"{name}, boxes"] = ours(network, x)
    with torch.inference_mode():
        seconds = take_turns(whole | boxes, rounds, warmup=3)

    medians = {name: float(np.median(taken)) for name, taken in seconds.items()}
    rows, bars = [], []
    for name in whole:
        row: dict[str, float | str] = {"contestant": name, **milliseconds(seconds[name])}
        row["x torchvision"] = medians[THEIRS] / medians[name]
        row["share of boxes"] = ""
        if name != THEIRS:
            share = medians[f"{name}, boxes"] / medians[name]
            row["share of boxes"] = share
            bars.append(Bar(f"{name}: share of decoding and suppression", share, 0.15, True))
        rows.append(row)
    report(
        chosen,
        rows,
        bars,
        ("torchvision",),
        f"""320 x 320, {CLASSES} classes, batch 1, one thread. The weights are random and the scores
        drawn: some 500 pairs of anchor and class are above 0.01. Ours: optimize(), and the best
        1,000 pairs go into suppression, however low. torchvision: its own forward and its own code
        for boxes, with the authors' numbers: those above 0.01, 400 of a class, IoU 0.5, 200
        boxes. Share of boxes: decoding, choosing and suppression alone over the whole.""",
    )


def ours(
    network: SSDLite | TorchvisionSSDLite, x: Tensor
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the whole way from pixels to boxes, and the part of it behind the network."""
    scored = Scored(network).eval()
    detector = optimize(Detector(scored, SIZE))
    with torch.inference_mode():
        logits, offsets = optimize(scored)(x)
    anchors = network.anchors(SIZE)
    return lambda: detector(x), lambda: choose(decode(logits, offsets, anchors))


def torchvisions(x: Tensor) -> Callable[[], object]:
    """Return torchvision's whole detector, with random weights and drawn scores."""
    network = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1
    ).eval()
    network.score_thresh, network.topk_candidates = 0.01, 400
    network.nms_thresh, network.detections_per_img = 0.5, 200
    drawn = draw(len(TorchvisionSSDLite().anchors(SIZE)))
    network.head.register_forward_hook(
        lambda module, inputs, outputs: outputs | {"cls_logits": outputs["cls_logits"] + drawn}
    )
    return lambda: network([x[0]])


def draw(anchors: int) -> Tensor:
    """Return logits (anchors, CLASSES + 1) of which a few stand out from the background."""
    logits = 1.2 * torch.randn(anchors, CLASSES + 1, generator=torch.Generator().manual_seed(0))
    logits[:, 0] += 9.3
    return logits


if __name__ == "__main__":
    main()
