"""SSDLite (Liu et al., ECCV 2016; Sandler et al., CVPR 2018): boxes and classes in one pass.

Six maps, each coarser than the one before it, predict for the anchors at every one of their
pixels. What comes out is raw: anchors, losses and the choice among boxes stand with the task.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from mobilevit.networks.backbone import Backbone, FeatureExtractor
from mobilevit.networks.layers import ConvNormAct, initialise

BOX = 4  # numbers that place a box: x and y of the centre, width, height


@dataclass(frozen=True, kw_only=True)
class SSDLiteConfig:
    """The numbers that make an SSDLite (defaults: the authors' code, for COCO).

    The first two maps are the backbone's last two, then each halves the sides of the one before,
    and the last is a single pixel.

    Attributes:
        num_classes: classes to tell apart; the first is the background.
        widths: channels that each map predicts from.
        anchors: anchors at every pixel of each map.
    """

    num_classes: int = 81
    widths: tuple[int, ...] = (512, 256, 256, 128, 128, 64)
    anchors: tuple[int, ...] = (6, 6, 6, 6, 6, 4)


class HalvedMap(nn.Module):
    """A map of half the sides, by a separable convolution: (B, in, H, W) to (B, out, H/2, W/2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(inputs, inputs, 3, stride=2, groups=inputs, act=None)
        self.pointwise = ConvNormAct(inputs, outputs, 1, act=nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class PooledMap(nn.Module):
    """A map of one pixel, the mean of all: (B, in, H, W) to (B, out, 1, 1)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(x.mean((2, 3), keepdim=True)).relu()


class Predictor(nn.Module):
    """Predicts for the anchors of one map: (B, in, H, W) to (B, H * W * anchors, outputs).

    Args:
        inputs: channels of the map.
        width: channels to predict from; a 1x1 convolution makes them where they are not the map's.
        anchors: anchors at every pixel.
        outputs: numbers to predict for an anchor.
        neighbours: look at the pixels around as well.
    """

    def __init__(
        self, inputs: int, width: int, anchors: int, outputs: int, neighbours: bool
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.project = (
            nn.Identity() if inputs == width else ConvNormAct(inputs, width, 1, act=nn.ReLU)
        )
        self.depthwise = (
            ConvNormAct(width, width, 3, groups=width, act=None) if neighbours else nn.Identity()
        )
        self.predict = nn.Conv2d(width, anchors * outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.predict(self.depthwise(self.project(x))).permute(0, 2, 3, 1)
        return x.reshape(x.shape[0], -1, self.outputs)


class SSDLite(nn.Module):
    """A detector: (B, in_chans, H, W) RGB in [0, 1] to what it predicts for each of A anchors.

    The forward gives class logits (B, A, num_classes) and box offsets (B, A, 4). Anchors are in the
    order of the maps from fine to coarse, in a map of rows, then columns, then a pixel's anchors.

    Args:
        backbone: a network at output stride 32. Its stages are shared; its classifier and the
            convolution before that are left out.
        config: the detector's numbers.

    Attributes:
        backbone: the stages; their names are those of the network they are from.

    Raises:
        ValueError: when ``widths`` and ``anchors`` are not of the same three or more maps.
    """

    def __init__(self, backbone: Backbone, config: SSDLiteConfig) -> None:
        super().__init__()
        if not 3 <= len(config.widths) == len(config.anchors):
            raise ValueError(
                "widths and anchors are of the same three or more maps, not of "
                f"{len(config.widths)} and {len(config.anchors)}"
            )
        self.config = config
        self.num_classes = config.num_classes
        self.backbone = FeatureExtractor(backbone, (3, 4))
        widths = config.widths
        inputs = backbone.config.widths[-2:] + widths[2:]
        self.extras = nn.ModuleList(
            [HalvedMap(*pair) for pair in pairwise(inputs[1:-1])] + [PooledMap(*inputs[-2:])]
        )
        self.heads = nn.ModuleList(
            Predictor(channels, width, anchors, BOX + config.num_classes, i < len(widths) - 1)
            for i, (channels, width, anchors) in enumerate(
                zip(inputs, widths, config.anchors, strict=True)
            )
        )
        self.extras.apply(initialise)
        self.heads.apply(initialise)

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        """Return the maps that predictions are made from, at strides 16, 32, 64 ... and pooled."""
        maps: list[Tensor] = self.backbone(x)
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return maps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.forward_maps(x)
        predicted = torch.cat([head(y) for head, y in zip(self.heads, maps, strict=True)], dim=1)
        return predicted[..., BOX:], predicted[..., :BOX]
