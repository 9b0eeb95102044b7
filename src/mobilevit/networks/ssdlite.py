"""SSDLite (Liu et al., ECCV 2016; Sandler et al., CVPR 2018): boxes and classes in one pass.

Six maps, each coarser than the one before it, predict for the anchors at every one of their
pixels. What comes out is raw: losses and the choice among boxes stand with the task.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from mobilevit.networks.backbone import Backbone, FeatureExtractor
from mobilevit.networks.layers import ConvNormAct, initialise
from mobilevit.networks.timm import TimmFeatures

BOX = 4  # numbers that place a box: x and y of the centre, width, height


@dataclass(frozen=True, kw_only=True)
class SSDLiteConfig:
    """The numbers that make an SSDLite (defaults: the authors' code, for COCO).

    The first two maps are the backbone's last two, then each halves the sides of the one before,
    and the last is a single pixel.

    Attributes:
        num_classes: classes to tell apart; the first is the background.
        widths: channels that each map predicts from.
        anchors: anchors at every pixel of each map: two squares, then a lying and a standing box
            for each of the first ``ratios``.
        ratios: long over short side of the boxes that are no squares.
        scales: side of the first map's small square, as a share of the picture's, and of what
            would be the small square of a map after the last; the others are spaced evenly between.
    """

    num_classes: int = 81
    widths: tuple[int, ...] = (512, 256, 256, 128, 128, 64)
    anchors: tuple[int, ...] = (6, 6, 6, 6, 6, 4)
    ratios: tuple[int, ...] = (2, 3)
    scales: tuple[float, float] = (0.1, 1.05)


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
            convolution before that are left out. Or one of timm's that gives maps at strides 16
            and 32.
        config: the detector's numbers.

    Attributes:
        backbone: the stages; their names are those of the network they are from.
        in_chans: channels of the input.

    Raises:
        ValueError: when ``widths`` and ``anchors`` are not of the same three or more maps, or
            ``anchors`` are not those that ``ratios`` can make.
    """

    def __init__(self, backbone: Backbone | TimmFeatures, config: SSDLiteConfig) -> None:
        super().__init__()
        if not 3 <= len(config.widths) == len(config.anchors):
            raise ValueError(
                "widths and anchors are of the same three or more maps, not of "
                f"{len(config.widths)} and {len(config.anchors)}"
            )
        possible = [2 + 2 * n for n in range(len(config.ratios) + 1)]
        if not set(config.anchors) <= set(possible):
            raise ValueError(
                f"anchors of a map are one of {possible} with {len(config.ratios)} ratios, not "
                f"{config.anchors}"
            )
        self.config = config
        self.num_classes = config.num_classes
        widths = config.widths
        self.backbone: FeatureExtractor | TimmFeatures
        if isinstance(backbone, Backbone):
            self.backbone = FeatureExtractor(backbone, (3, 4))
            self.in_chans = backbone.config.in_chans
            inputs = backbone.config.widths[-2:] + widths[2:]
        else:
            self.backbone = backbone
            self.in_chans = 3
            inputs = backbone.widths + widths[2:]
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

    def anchors(self, size: tuple[int, int]) -> Tensor:
        """Return the anchors of a picture, in the order of the predictions.

        Args:
            size: height and width of the picture in pixels.

        Returns:
            (A, 4) left, top, right and bottom as shares of the picture's width and height; 3,232
            of them at 320 x 320. They may reach outside the picture.
        """
        config = self.config
        steps, (low, high) = len(config.anchors), config.scales
        ratios = [list(config.ratios[: count // 2 - 1]) for count in config.anchors]
        scales = [low + (high - low) * step / steps for step in range(steps + 1)]
        x = torch.empty(1, self.in_chans, *size, device="meta")
        return default_boxes(ratios, scales, shadow(self).forward_maps(x))


Network = TypeVar("Network", bound=nn.Module)


def shadow(network: Network) -> Network:
    """Return a copy without weights, that makes tensors without values: to learn their shapes."""
    return copy.deepcopy(network).to("meta").eval()


def default_boxes(
    ratios: list[list[int]], scales: Sequence[float], maps: Sequence[Tensor]
) -> Tensor:
    """Return SSD's anchors (section 2.2 of its paper), made by torchvision.

    A map's anchors stand on the middle of its pixels: a square of the map's scale, one of the
    geometric mean of that and the next map's, and for each ratio a lying and a standing box of the
    first square's area. No side is longer than the picture's.

    Args:
        ratios: for each map those of its boxes that are no squares.
        scales: one for each map and one more, as shares of the picture's sides.
        maps: (B, C, H, W) each; only their sides count.

    Returns:
        (A, 4) left, top, right and bottom as shares of the picture's width and height.
    """
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.image_list import ImageList

    picture = ImageList(torch.empty(1, 1, 1, 1), [(1, 1)])  # of one pixel: what is left are shares
    grids = [torch.empty(1, 0, *y.shape[-2:]) for y in maps]
    anchors: Tensor = DefaultBoxGenerator(ratios, scales=list(scales))(picture, grids)[0]
    return anchors
