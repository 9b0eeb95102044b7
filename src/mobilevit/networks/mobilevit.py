"""MobileViT (Mehta & Rastegari, ICLR 2022): convolutions for what is near, attention for the rest.

This file needs torch and nothing else, and reads from top to bottom: the building blocks of the
convolutional half, the transformer, the MobileViT block that joins them, the network, its sizes.

Tensors are named by shape: B pictures, C channels, H height, W width, D width of the transformer,
P pixels in a patch, N patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class MobileViTConfig:
    """The numbers that make one MobileViT (paper, Table 4 and Appendix A; defaults: MobileViT-S).

    Attributes:
        num_classes: outputs of the classifier; 0 leaves the pooled features as they are.
        in_chans: channels of the input.
        stem_width: channels after the first convolution.
        widths: channels of the five stages.
        expansion: width of an inverted residual's middle over its input.
        token_widths: D in the last three stages.
        layers: transformer layers in the last three stages.
        patch_sizes: side of the square patches in the last three stages, in feature-map pixels.
        heads: attention heads, at every stage.
        ffn_expansion: inner width of the feed-forward part over D.
        dropout: rate after attention and after the feed-forward part.
        attention_dropout: rate on the attention weights.
        ffn_dropout: rate inside the feed-forward part.
        head_dropout: rate before the classifier.
    """

    num_classes: int = 1000
    in_chans: int = 3
    stem_width: int = 16
    widths: tuple[int, int, int, int, int] = (32, 64, 96, 128, 160)
    expansion: int = 4
    token_widths: tuple[int, int, int] = (144, 192, 240)
    layers: tuple[int, int, int] = (2, 4, 3)
    patch_sizes: tuple[int, int, int] = (2, 2, 2)
    heads: int = 4
    ffn_expansion: int = 2
    dropout: float = 0.1
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0
    head_dropout: float = 0.1

    @property
    def head_width(self) -> int:
        """Channels before pooling: four times the last stage, 960 at the most."""
        return min(4 * self.widths[-1], 960)


class ConvNormAct(nn.Module):
    """Convolution, batch-norm, SiLU: (B, in, H, W) to (B, out, H / stride, W / stride)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.act = nn.SiLU(inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: widen, filter depth-wise, narrow; a residual where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = _multiple_of_8(inputs * expansion)
        self.expand = ConvNormAct(inputs, hidden, 1)
        self.depthwise = ConvNormAct(hidden, hidden, 3, stride, groups=hidden)
        self.project = ConvNormAct(hidden, outputs, 1, act=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class Attention(nn.Module):
    """Multi-head self-attention over the second-last axis: (B, N, D) to (B, N, D)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"token width {width} cannot be split over {heads} heads")
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, D / heads)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))


class TransformerLayer(nn.Module):
    """Pre-norm transformer layer, no positional embedding: (B, N, D) to (B, N, D)."""

    def __init__(self, width: int, config: MobileViTConfig) -> None:
        super().__init__()
        inner = width * config.ffn_expansion
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, config.heads, config.attention_dropout)
        self.norm2 = nn.LayerNorm(width)
        self.ffn_in = nn.Linear(width, inner)
        self.ffn_out = nn.Linear(inner, width)
        self.ffn_dropout = nn.Dropout(config.ffn_dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        y = self.ffn_dropout(F.silu(self.ffn_in(self.norm2(x)), inplace=True))
        return x + self.dropout(self.ffn_out(y))


class MobileViTBlock(nn.Module):
    """Transformers as convolutions (paper, section 3.1): (B, C, H, W) to (B, C, H, W).

    A convolution sees the neighbours; then every pixel attends to the pixels at its own place in
    all the other patches. With patches no larger than the kernel, each pixel so sees all others.
    """

    def __init__(self, channels: int, width: int, layers: int, patch: int, config: MobileViTConfig):
        super().__init__()
        self.patch = patch
        self.local = ConvNormAct(channels, channels, 3)
        self.to_tokens = nn.Conv2d(channels, width, 1, bias=False)
        self.transformer = nn.Sequential(*(TransformerLayer(width, config) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.from_tokens = ConvNormAct(width, channels, 1)
        self.fuse = ConvNormAct(2 * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.to_tokens(self.local(x))
        height, width = y.shape[-2:]
        rows, columns = -(-height // self.patch), -(-width // self.patch)  # of patches
        even = (rows * self.patch, columns * self.patch)
        if even != (height, width):
            y = F.interpolate(y, even, mode="bilinear", align_corners=False)
        y = unfold(y.permute(0, 2, 3, 1), self.patch)
        y = self.norm(self.transformer(y))
        y = fold(y, even, self.patch).permute(0, 3, 1, 2)
        if even != (height, width):
            y = F.interpolate(y, (height, width), mode="bilinear", align_corners=False)
        return self.fuse(torch.cat((x, self.from_tokens(y)), dim=1))


def unfold(x: Tensor, patch: int) -> Tensor:
    """Gather the pixels that share a place in their patch: (B, H, W, D) to (B * P, N, D).

    Two permutes of at most five axes, because converters to phones refuse more. H and W are
    multiples of ``patch``; P is ``patch``², N the number of patches.
    """
    batch, height, width, depth = x.shape
    rows, columns = height // patch, width // patch
    x = x.reshape(batch * height, columns, patch, depth).transpose(1, 2)
    x = x.reshape(batch, rows, patch, patch, columns * depth).permute(0, 2, 3, 1, 4)
    return x.reshape(batch * patch * patch, rows * columns, depth)


def fold(x: Tensor, size: tuple[int, int], patch: int) -> Tensor:
    """Undo ``unfold``: (B * P, N, D) to (B, H, W, D) with ``size`` = (H, W)."""
    height, width = size
    rows, columns, depth = height // patch, width // patch, x.shape[-1]
    x = x.reshape(-1, patch, patch, rows, columns * depth).permute(0, 3, 1, 2, 4)
    x = x.reshape(-1, patch, columns, depth).transpose(1, 2)
    return x.reshape(-1, height, width, depth)


class MobileViT(nn.Module):
    """A MobileViT with a classifier: (B, in_chans, H, W) RGB in [0, 1] to (B, num_classes) logits.

    Attributes:
        feature_info: for each of the five stages its ``num_chs``, ``reduction`` (stride) and
            ``module`` name, as timm has it.
        num_features: channels of the pooled features.
    """

    def __init__(self, config: MobileViTConfig) -> None:
        super().__init__()
        self.config = config
        self.num_classes = config.num_classes
        self.num_features = config.head_width
        widths, expansion = config.widths, config.expansion
        self.stem = ConvNormAct(config.in_chans, config.stem_width, 3, stride=2)
        stages: list[list[nn.Module]] = [
            [InvertedResidual(config.stem_width, widths[0], 1, expansion)],
            [
                InvertedResidual(widths[0], widths[1], 2, expansion),
                InvertedResidual(widths[1], widths[1], 1, expansion),
                InvertedResidual(widths[1], widths[1], 1, expansion),
            ],
        ]
        for inputs, outputs, tokens, layers, patch in zip(
            widths[1:-1],
            widths[2:],
            config.token_widths,
            config.layers,
            config.patch_sizes,
            strict=True,
        ):
            stages.append(
                [
                    InvertedResidual(inputs, outputs, 2, expansion),
                    MobileViTBlock(outputs, tokens, layers, patch, config),
                ]
            )
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)
        self.feature_info = [
            {"num_chs": channels, "reduction": 2 << i, "module": f"stages.{i}"}
            for i, channels in enumerate(widths)
        ]
        self.final = ConvNormAct(widths[-1], config.head_width, 1)
        self.dropout = nn.Dropout(config.head_dropout)
        self.head: nn.Module = _classifier(config.head_width, config.num_classes)
        self.apply(_initialise)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """Return the five stages' feature maps, at strides 2, 4, 8, 16 and 32."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map, (B, num_features, H / 32, W / 32)."""
        return self.final(self.forward_stages(x)[-1])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool a last feature map and classify it.

        Args:
            x: (B, num_features, H, W), of ``forward_features``.
            pre_logits: return the pooled features, (B, num_features), instead.
        """
        x = x.mean((2, 3))
        return x if pre_logits else self.head(self.dropout(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new, untrained classifier in; 0 for none."""
        weight = self.final.conv.weight
        self.num_classes = num_classes
        self.head = _classifier(self.num_features, num_classes)
        self.head.apply(_initialise).to(weight.device, weight.dtype)

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.head


class FeatureExtractor(nn.Module):
    """A MobileViT without its head: a picture to the list of the stages' feature maps.

    Args:
        network: the network to take the stages from; its weights are shared.
        out_indices: which of the five stages to return, in order.
    """

    def __init__(self, network: MobileViT, out_indices: Sequence[int] = (0, 1, 2, 3, 4)) -> None:
        super().__init__()
        if not out_indices or any(not 0 <= i < 5 for i in out_indices):
            raise ValueError(f"out_indices are stages from 0 to 4, not {tuple(out_indices)}")
        self.out_indices = tuple(out_indices)
        self.feature_info = [network.feature_info[i] for i in self.out_indices]
        self.stem = network.stem
        self.stages = network.stages[: max(self.out_indices) + 1]

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [maps[i] for i in self.out_indices]


def _multiple_of_8(width: int) -> int:
    """Round to a multiple of 8, never by more than 10 % downwards (MobileNetV2)."""
    rounded = max(8, (width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


def _classifier(features: int, num_classes: int) -> nn.Module:
    return nn.Linear(features, num_classes) if num_classes else nn.Identity()


def _initialise(module: nn.Module) -> None:
    """Kaiming for convolutions, truncated normal (0.02) for linear layers.

    The paper's code has the same two. The fan is that of the inputs: counted by outputs, depth-wise
    filters would start some hundred times too small, and short trainings suffer for it.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


VARIANTS: dict[str, MobileViTConfig] = {
    "mobilevit_xxs": MobileViTConfig(
        widths=(16, 24, 48, 64, 80), expansion=2, token_widths=(64, 80, 96), dropout=0.05
    ),
    "mobilevit_xs": MobileViTConfig(
        stem_width=16, widths=(32, 48, 64, 80, 96), token_widths=(96, 120, 144)
    ),
    "mobilevit_s": MobileViTConfig(),
}
