"""SSDLite detectors of ml-cvnets, written anew: their names of tensors, their order of anchors.

Nothing is shared with the package: what is predicted is put together pixel by pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import cvnets
from cvnets import Conv, named, relu_conv

STRIDES = (16, 32, 64, 128, 256, -1)  # the last stands for a single pixel
WIDTHS = (512, 256, 256, 128, 128, 64)
RATIOS = ((2, 3), (2, 3), (2, 3), (2, 3), (2, 3), (2,))


def separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return named(
        dw_conv=Conv(inputs, inputs, 3, stride, groups=inputs, act=False),
        pw_conv=relu_conv(inputs, outputs),
    )


class Head(nn.Module):
    """Gives the (x, y, w, h, classes...) of the anchors of a map as a list, in order."""

    def __init__(self, inputs: int, width: int, outputs: int, ratios: int, last: bool) -> None:
        super().__init__()
        self.anchors = 2 + 2 * ratios  # two squares, and each ratio lying and standing
        channels = self.anchors * outputs
        self.proj_layer = None
        if last:
            self.loc_cls_layer: nn.Module = cvnets.bare(width, channels)
            return
        if inputs != width:
            self.proj_layer = relu_conv(inputs, width)
        self.loc_cls_layer = named(
            dw_conv=Conv(width, width, 3, groups=width, act=False),
            pw_conv=cvnets.bare(width, channels),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.proj_layer is not None:
            x = self.proj_layer(x)
        x = self.loc_cls_layer(x)
        pixels = [x[:, :, row, column] for row in range(x.shape[2]) for column in range(x.shape[3])]
        return [anchor for pixel in pixels for anchor in pixel.chunk(self.anchors, 1)]


class Detector(nn.Module):
    """A detector of ml-cvnets by the name that this package gives to its backbone."""

    def __init__(self, name: str, classes: int = 81) -> None:
        super().__init__()
        self.encoder = cvnets.Classifier(name)
        self.encoder.classifier = self.encoder.conv_1x1_exp = nn.Identity()
        widths = cvnets.SIZES[name].widths
        maps = (*widths[-2:], *WIDTHS[2:])
        self.extra_layers = nn.ModuleDict(
            {
                f"os_{stride}": separable(inputs, outputs, 2)
                for stride, inputs, outputs in zip(STRIDES[2:-1], maps[1:], maps[2:], strict=False)
            }
        )
        pooled = cvnets.bare(maps[-2], maps[-1], bias=False)
        pooled.block.add_module("act", nn.ReLU())
        self.extra_layers["os_-1"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), pooled)
        self.ssd_heads = nn.ModuleList(
            Head(inputs, width, 4 + classes, len(ratios), stride == -1)
            for stride, inputs, width, ratios in zip(STRIDES, maps, WIDTHS, RATIOS, strict=True)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        layers = dict(self.encoder.named_children())
        for name in ("conv_1", "layer_1", "layer_2", "layer_3"):
            x = layers[name](x)
        maps = [layers["layer_4"](x)]
        maps.append(layers["layer_5"](maps[0]))
        for layer in self.extra_layers.values():
            maps.append(layer(maps[-1]))
        anchors = [a for head, y in zip(self.ssd_heads, maps, strict=True) for a in head(y)]
        predicted = torch.stack(anchors, 1)
        return predicted[:, :, 4:], predicted[:, :, :4]
