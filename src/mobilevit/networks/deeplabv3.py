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
from mobilevit.networks.timm import TimmFeatures


@dataclass(frozen=True, kw_only=True)
class DeepLabV3Config:
    """The numbers that make the head (MobileViT paper; at output stride 8 its code has 512 wide and
    rates of 12, 24 and 36).

    Attributes:
        num_classes: outputs at every place, the background among them.
        aspp_width: channels of each branch of the pyramid and of what it gives.
        aspp_rates: dilations of its three 3x3 filters.
        aspp_dropout: rate at which whole channels are dropped before a classifier.
        aux: have a second head on the stage before the last, in training only.
    """

    num_classes: int = 21
    aspp_width: int = 256
    aspp_rates: tuple[int, int, int] = (6, 12, 18)
    aspp_dropout: float = 0.1
    aux: bool = False


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: (B, in, H, W) to (B, width, H, W).

    Every place is seen by itself, with its surroundings at three distances, and with the mean of
    the picture. torchvision's module of this name computes the same in evaluation, but drops single
    numbers where the papers' code drops whole channels, and resizes the mean, which is of one
    place, in the graph.
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


class AuxiliaryHead(nn.Module):
    """Logits of an inner map, to teach the stages below it: (B, in, H, W) to (B, classes, H, W)."""

    def __init__(self, inputs: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        width = max(inputs // 4, 128)
        self.hidden = ConvNormAct(inputs, width, 3, act=nn.ReLU)
        self.dropout = nn.Dropout2d(dropout)
        self.predict = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.predict(self.dropout(self.hidden(x)))


class DeepLabV3(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] to logits (B, num_classes, H / output_stride, W / output_stride).

    Sides that the output stride does not divide are rounded up; where a MobileViTv2 resizes its
    maps to whole patches, the logits are those of the larger map. With ``aux`` the forward gives in
    training a pair: these, and the auxiliary head's, at the stride of the stage before the last.

    Args:
        backbone: a network at output stride 16 or 8. Its stages are shared; its classifier and the
            convolution before that are left out. Or one of timm's.
        config: the head's numbers.

    Attributes:
        backbone: the stages; their names are those of the network they are from.
    """

    def __init__(self, backbone: Backbone | TimmFeatures, config: DeepLabV3Config) -> None:
        super().__init__()
        self.config = config
        self.num_classes = config.num_classes
        self.backbone: FeatureExtractor | TimmFeatures
        if isinstance(backbone, Backbone):
            self.backbone = FeatureExtractor(backbone, (3, 4))
            inner, last = backbone.config.widths[-2:]
        else:
            self.backbone = backbone
            inner, last = backbone.widths
        self.aspp = ASPP(last, config.aspp_width, config.aspp_rates)
        self.dropout = nn.Dropout2d(config.aspp_dropout)
        self.head = nn.Conv2d(config.aspp_width, config.num_classes, 1)
        self.aux: AuxiliaryHead | None = None
        if config.aux:
            self.aux = AuxiliaryHead(inner, config.num_classes, config.aspp_dropout)
            self.aux.apply(initialise)
        self.aspp.apply(initialise)
        self.head.apply(initialise)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        inner, last = self.backbone(x)
        logits = self.head(self.dropout(self.aspp(last)))
        if self.training and self.aux is not None:
            return logits, self.aux(inner)
        return logits
