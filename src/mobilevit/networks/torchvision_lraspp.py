"""LR-ASPP with MobileNetV3-Large of torchvision, to be trained and measured beside our own.

Nothing of it is written again: torchvision makes the network, this module feeds it RGB in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NAME = "torchvision:lraspp_mobilenet_v3_large"
"""What the network is called here."""


class TorchvisionLRASPP(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] to logits (B, num_classes, H / 8, W / 8), sides rounded up.

    These are what torchvision upsamples to the picture's size at the end of its own forward. It
    starts with random weights.

    Args:
        num_classes: outputs at every place, the background among them.

    Attributes:
        numbers: what makes an equal network, by name.
    """

    def __init__(self, num_classes: int = 21) -> None:
        super().__init__()
        from torchvision.models.segmentation import (
            LRASPP_MobileNet_V3_Large_Weights,
            lraspp_mobilenet_v3_large,
        )

        whole = lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=num_classes
        )
        self.numbers = {"num_classes": num_classes}
        self.num_classes = num_classes
        self.backbone = whole.backbone
        self.head = whole.classifier
        preset = LRASPP_MobileNet_V3_Large_Weights.DEFAULT.transforms()
        for key in ("mean", "std"):
            value = torch.tensor(getattr(preset, key)).reshape(1, 3, 1, 1)
            self.register_buffer(key, value, persistent=False)

    mean: Tensor
    std: Tensor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone((x - self.mean) / self.std))
        return logits
