"""SSDLite with MobileNetV3-Large of torchvision, to be trained and measured beside our own.

Nothing of it is written again: torchvision makes the network, this module feeds it RGB in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mobilevit.networks.ssdlite import default_boxes, shadow

NAME = "torchvision:ssdlite320_mobilenet_v3_large"
"""What the network is called here."""


class TorchvisionSSDLite(nn.Module):
    """A detector: (B, 3, H, W) RGB in [0, 1] to what it predicts for each of A anchors.

    The forward gives class logits (B, A, num_classes) and box offsets (B, A, 4), as ``SSDLite``
    does. It starts with random weights.

    Args:
        num_classes: classes to tell apart; the first is the background.

    Attributes:
        numbers: what makes an equal network, by name.
    """

    def __init__(self, num_classes: int = 81) -> None:
        super().__init__()
        from torchvision.models.detection import ssdlite320_mobilenet_v3_large

        whole = ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=num_classes
        )
        self.numbers = {"num_classes": num_classes}
        self.num_classes = num_classes
        self.backbone = whole.backbone
        self.head = whole.head
        self._ratios = whole.anchor_generator.aspect_ratios
        self._scales = whole.anchor_generator.scales

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        """Return the maps that predictions are made from, at strides 16, 32, 64 ..."""
        return list(self.backbone(2 * x - 1).values())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        predicted = self.head(self.forward_maps(x))
        return predicted["cls_logits"], predicted["bbox_regression"]

    def anchors(self, size: tuple[int, int]) -> Tensor:
        """Return the anchors of a picture, in the order of the predictions.

        Args:
            size: height and width of the picture in pixels.

        Returns:
            (A, 4) left, top, right and bottom as shares of the picture's width and height; 3,234
            of them at 320 x 320. They may reach outside the picture.
        """
        maps = shadow(self).forward_maps(torch.empty(1, 3, *size, device="meta"))
        return default_boxes(self._ratios, self._scales, maps)
