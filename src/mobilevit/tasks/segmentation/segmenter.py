"""From what a network says of its last map to logits of every pixel."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Segmenter(nn.Module):
    """A network that puts out one array: (B, 3, H, W) RGB in [0, 1] to logits of K classes.

    With ``"pixel_logits"`` that is (B, K, H, W), upsampled bilinearly, the corners of pixels not
    aligned; with ``"coarse_logits"`` (B, K, h, w), what the network itself gives.

    Args:
        network: gives logits (B, K, h, w), as ``DeepLabV3`` and ``TorchvisionLRASPP`` do.
        size: height and width of the pictures in pixels.
        output: what to put out, ``Contract.output``.
    """

    def __init__(
        self, network: nn.Module, size: tuple[int, int], output: str = "pixel_logits"
    ) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        if self.output == "coarse_logits":
            return logits
        return F.interpolate(logits.float(), self.size, mode="bilinear", align_corners=False)
