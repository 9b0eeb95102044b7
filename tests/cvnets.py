"""Networks of ml-cvnets, written anew: their names of tensors, their forwards by the formulas.

Nothing is shared with the package: pixels of a patch are picked by slices, attention is a softmax
written out, and norms over channels are means and variances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 2
LAYERS = (2, 4, 3)
STEPS = {  # stride and dilation at the start of layer_3, layer_4 and layer_5 by the output stride
    32: ((2, 1), (2, 1), (2, 1)),
    16: ((2, 1), (2, 1), (1, 1)),
    8: ((2, 1), (1, 1), (1, 2)),
}


@dataclass(frozen=True)
class Sizes:
    stem: int
    widths: tuple[int, int, int, int, int]
    tokens: tuple[int, int, int]
    expansion: int
    depth: int  # blocks of layer_2
    version: int


SIZES = {
    "mobilevit_xxs": Sizes(16, (16, 24, 48, 64, 80), (64, 80, 96), 2, 3, 1),
    "mobilevit_xs": Sizes(16, (32, 48, 64, 80, 96), (96, 120, 144), 4, 3, 1),
    "mobilevit_s": Sizes(16, (32, 64, 96, 128, 160), (144, 192, 240), 4, 3, 1),
    "mobilevitv2_050": Sizes(16, (32, 64, 128, 192, 256), (64, 96, 128), 2, 2, 2),
    "mobilevitv2_100": Sizes(32, (64, 128, 256, 384, 512), (128, 192, 256), 2, 2, 2),
    "mobilevitv2_200": Sizes(64, (128, 256, 512, 768, 1024), (256, 384, 512), 2, 2, 2),
}


def named(**modules: nn.Module) -> nn.Sequential:
    sequence = nn.Sequential()
    for name, module in modules.items():
        sequence.add_module(name, module)
    return sequence


class Conv(nn.Module):
    """A convolution, with batch-norm and Swish unless told otherwise."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        act: bool = True,
        bias: bool = False,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride,
            padding=dilation if kernel == 3 else 0,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        self.block = named(conv=conv)
        if norm:
            self.block.add_module("norm", nn.BatchNorm2d(outputs))
        if act:
            self.block.add_module("act", nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


def bare(inputs: int, outputs: int, bias: bool = True, act: bool = False) -> Conv:
    return Conv(inputs, outputs, norm=False, act=act, bias=bias)


class InvertedResidual(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, dilation: int = 1
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.block = named(
            exp_1x1=Conv(inputs, hidden),
            conv_3x3=Conv(hidden, hidden, 3, stride, groups=hidden, dilation=dilation),
            red_1x1=Conv(hidden, outputs, act=False),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.residual else self.block(x)


class MultiHeadAttention(nn.Module):
    heads = 4

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (B, N, D)
        queries, keys, values = self.qkv_proj(x).chunk(3, dim=-1)
        size = x.shape[-1] // self.heads
        outputs = []
        for head in range(self.heads):
            part = slice(head * size, (head + 1) * size)
            q, k, v = queries[..., part], keys[..., part], values[..., part]
            scores = torch.exp(q @ k.transpose(1, 2) / size**0.5)
            outputs.append((scores / scores.sum(-1, keepdim=True)) @ v)
        return self.out_proj(torch.cat(outputs, -1))


class SeparableAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv_proj = bare(width, 1 + 2 * width)
        self.out_proj = bare(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (B, D, P, N)
        width = x.shape[1]
        qkv = self.qkv_proj(x)
        scores = torch.exp(qkv[:, :1])
        scores = scores / scores.sum(-1, keepdim=True)
        context = (scores * qkv[:, 1 : 1 + width]).sum(-1, keepdim=True)
        return self.out_proj(qkv[:, 1 + width :].clamp(min=0) * context)


class LayerNorm2d(nn.Module):
    """Over channels, pixels and patches of one picture; an affine map for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:  # (B, D, P, N)
        mean = x.mean((1, 2, 3), keepdim=True)
        variance = (x - mean).square().mean((1, 2, 3), keepdim=True)
        x = (x - mean) / (variance + 1e-5).sqrt()
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class Layer1(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.pre_norm_mha = nn.Sequential(nn.LayerNorm(width), MultiHeadAttention(width))
        self.pre_norm_ffn = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.SiLU(),
            nn.Identity(),  # dropout
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pre_norm_mha(x)
        return x + self.pre_norm_ffn(x)


class Layer2(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.pre_norm_attn = nn.Sequential(LayerNorm2d(width), SeparableAttention(width))
        self.pre_norm_ffn = nn.Sequential(
            LayerNorm2d(width),
            bare(width, 2 * width, act=True),
            nn.Identity(),  # dropout
            bare(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pre_norm_attn(x)
        return x + self.pre_norm_ffn(x)


def whole(x: Tensor, align_corners: bool) -> Tensor:
    """Resize a map up to a multiple of the patch where it is none."""
    size = [side + -side % PATCH for side in x.shape[-2:]]
    if size == list(x.shape[-2:]):
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)


def places() -> list[tuple[slice, slice]]:
    """Return, for each place in a patch, the rows and the columns of the pixels there."""
    starts = [(row, column) for row in range(PATCH) for column in range(PATCH)]
    return [(slice(row, None, PATCH), slice(column, None, PATCH)) for row, column in starts]


class Block1(nn.Module):
    def __init__(self, channels: int, width: int, layers: int) -> None:
        super().__init__()
        self.local_rep = named(
            conv_3x3=Conv(channels, channels, 3), conv_1x1=bare(channels, width, bias=False)
        )
        self.global_rep = nn.Sequential(*map(Layer1, [width] * layers), nn.LayerNorm(width))
        self.conv_proj = Conv(width, channels)
        self.fusion = Conv(2 * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        local = self.local_rep(x)
        even = whole(local, align_corners=False)
        y = torch.empty_like(even)
        for rows, columns in places():
            pixels = even[:, :, rows, columns]
            tokens = self.global_rep(pixels.flatten(2).transpose(1, 2))
            y[:, :, rows, columns] = tokens.transpose(1, 2).unflatten(2, pixels.shape[-2:])
        if y.shape != local.shape:
            y = F.interpolate(y, local.shape[-2:], mode="bilinear", align_corners=False)
        return self.fusion(torch.cat((x, self.conv_proj(y)), 1))


class Block2(nn.Module):
    def __init__(self, channels: int, width: int, layers: int) -> None:
        super().__init__()
        self.local_rep = nn.Sequential(
            Conv(channels, channels, 3, groups=channels), bare(channels, width, bias=False)
        )
        self.global_rep = nn.Sequential(*map(Layer2, [width] * layers), LayerNorm2d(width))
        self.conv_proj = Conv(width, channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        local = self.local_rep(whole(x, align_corners=True))
        pixels = [local[:, :, rows, columns] for rows, columns in places()]
        tokens = self.global_rep(torch.stack([p.flatten(2) for p in pixels], 2))
        y = torch.empty_like(local)
        for place, (rows, columns) in enumerate(places()):
            y[:, :, rows, columns] = tokens[:, :, place].unflatten(2, pixels[0].shape[-2:])
        return self.conv_proj(y)


class Classifier(nn.Module):
    """A classifier of ml-cvnets by the name that this package gives to its size."""

    def __init__(self, name: str, classes: int = 1000, output_stride: int = 32) -> None:
        super().__init__()
        sizes = SIZES[name]
        stem, widths, times = sizes.stem, sizes.widths, sizes.expansion
        block: Callable[[int, int, int], nn.Module] = Block1 if sizes.version == 1 else Block2
        self.conv_1 = Conv(3, stem, 3, 2)
        self.layer_1 = nn.Sequential(InvertedResidual(stem, widths[0], 1, times))
        self.layer_2 = nn.Sequential(
            InvertedResidual(widths[0], widths[1], 2, times),
            *(InvertedResidual(widths[1], widths[1], 1, times) for _ in range(sizes.depth - 1)),
        )
        for stage in range(3):
            inputs, outputs = widths[stage + 1 : stage + 3]
            stride, dilation = STEPS[output_stride][stage]
            layer = nn.Sequential(
                InvertedResidual(inputs, outputs, stride, times, dilation),
                block(outputs, sizes.tokens[stage], LAYERS[stage]),
            )
            self.add_module(f"layer_{stage + 3}", layer)
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        if sizes.version == 1:
            last = 4 * widths[-1]
            self.conv_1x1_exp: nn.Module = Conv(widths[-1], last)
            self.classifier = named(global_pool=pool, fc=nn.Linear(last, classes))
        else:
            self.conv_1x1_exp = nn.Identity()
            self.classifier = nn.Sequential(pool, nn.Linear(widths[-1], classes))

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


def relu_conv(inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> Conv:
    conv = Conv(inputs, outputs, kernel, dilation=dilation)
    conv.block.act = nn.ReLU()
    return conv


class PooledBranch(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.aspp_pool = named(
            global_pool=nn.AdaptiveAvgPool2d(1), conv_1x1=relu_conv(inputs, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        return F.interpolate(self.aspp_pool(x), size, mode="bilinear", align_corners=False)


class Pyramid(nn.Module):
    def __init__(self, inputs: int, outputs: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList([relu_conv(inputs, outputs)])
        self.convs.extend(relu_conv(inputs, outputs, 3, rate) for rate in rates)
        self.convs.append(PooledBranch(inputs, outputs))
        self.project = relu_conv(5 * outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([conv(x) for conv in self.convs], 1))


class Segmenter(nn.Module):
    """DeepLabv3 of ml-cvnets without its last upsampling, with the auxiliary head of training."""

    def __init__(
        self, name: str, classes: int, output_stride: int, width: int, rates: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.encoder = Classifier(name, output_stride=output_stride)
        del self.encoder.classifier, self.encoder.conv_1x1_exp
        self.seg_head = named(
            aspp=named(aspp_layer=Pyramid(SIZES[name].widths[-1], width, rates)),
            classifier=bare(width, classes),
        )
        middle = SIZES[name].widths[-2]
        self.aux_head = nn.Sequential(Conv(middle, 128, 3), nn.Dropout2d(), bare(128, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.seg_head(self.encoder(x))

    def file(self) -> dict[str, Tensor]:
        """Return the state dict as theirs is: the auxiliary head lies in the head."""
        return {
            f"seg_head.{name}" if name.startswith("aux_head.") else name: tensor
            for name, tensor in self.state_dict().items()
        }
