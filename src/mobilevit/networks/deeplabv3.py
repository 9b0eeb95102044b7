"""DeepLabv3 (Chen et al., 2017): a class for every place of a backbone's last feature map.

As in the MobileViT papers' code: full 3x3 filters, ReLU, no decoder. Tensors are named as in
``layers.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mobilevit.networks.backbone import Backbone, FeatureExtractor
from mobilevit.networks.layers import ConvNormAct, initialise


@dataclass(frozen=True, kw_only=True)
class DeepLabV3Config:
    """The numbers that make the head (MobileViT paper; at output stride 8 its code has 512 wide and
    rates of 12, 24 and 36).

    Attributes:
        num_classes: outputs at every place, the background among them.
        aspp_width: channels of each branch of the pyramid and of what it gives.
        aspp_rates: dilations of its three 3x3 filters.
        aspp_dropout: rate at which whole channels are dropped before the classifier.
    """

    num_classes: int = 21
    aspp_width: int = 256
    aspp_rates: tuple[int, int, int] = (6, 12, 18)
    aspp_dropout: float = 0.1


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: (B, in, H, W) to (B, width, H, W).

    Every place is seen by itself, with its surroundings at three distances, and with the mean of
    the picture.
    """

    def __init__(self, inputs: int, width: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        conv = partial(ConvNormAct, act=nn.ReLU)
        self.branches = nn.ModuleList(
            [conv(inputs, width, 1), *(conv(inputs, width, 3, dilation=rate) for rate in rates)]
        )
        self.pool = conv(inputs, width, 1)
        self.project = conv((len(rates) + 2) * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [branch(x) for branch in self.branches]
        mean = self.pool(x.mean((2, 3), keepdim=True))
        return self.project(torch.cat((*maps, mean.expand_as(maps[0])), dim=1))


class DeepLabV3(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] to logits (B, num_classes, H / output_stride, W / output_stride).

    Sides that the output stride does not divide are rounded up; where a MobileViTv2 resizes its
    maps to whole patches, the logits are those of the larger map.

    Args:
        backbone: a network at output stride 16 or 8. Its stages are shared; its classifier and the
            convolution before that are left out.
        config: the head's numbers.

    Attributes:
        backbone: the stages; their names are those of the network they are from.
    """

    def __init__(self, backbone: Backbone, config: DeepLabV3Config) -> None:
        super().__init__()
        self.config = config
        self.num_classes = config.num_classes
        self.backbone = FeatureExtractor(backbone, (4,))
        self.aspp = ASPP(backbone.config.widths[-1], config.aspp_width, config.aspp_rates)
        self.dropout = nn.Dropout2d(config.aspp_dropout)
        self.head = nn.Conv2d(config.aspp_width, config.num_classes, 1)
        self.aspp.apply(initialise)
        self.head.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        (features,) = self.backbone(x)
        return self.head(self.dropout(self.aspp(features)))
