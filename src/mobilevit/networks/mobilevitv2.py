"""MobileViTv2 (Mehta & Rastegari, TMLR 2023): attention whose cost is linear in the tokens.

It reads as ``mobilevit.py`` does, and names tensors as ``layers.py`` does. The tokens here are
(B, D, P, N) with D last in memory, so that 1x1 convolutions work on them as they lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from mobilevit.networks.backbone import Backbone, BackboneConfig
from mobilevit.networks.layers import ConvNormAct, fold, unfold, whole_patches


@dataclass(frozen=True, kw_only=True)
class MobileViTV2Config(BackboneConfig):
    """The numbers that make one MobileViTv2 (the authors' code; defaults: width 1.0)."""

    stem_width: int = 32
    widths: tuple[int, int, int, int, int] = (64, 128, 256, 384, 512)
    expansion: int = 2
    token_widths: tuple[int, int, int] = (128, 192, 256)


class SeparableAttention(nn.Module):
    """Separable self-attention (paper, section 3.2): (B, D, P, N) to (B, D, P, N).

    Scores, a softmax over the N patches, sum the keys up to one context vector for each place in a
    patch; every token's values are multiplied by it.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.qkv = nn.Conv2d(width, 1 + 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).split((1, self.width, self.width), dim=1)
        scores = self.dropout(query.softmax(-1))  # (B, 1, P, N)
        context = (key * scores).sum(-1, keepdim=True)  # (B, D, P, 1)
        return self.out(F.relu(value) * context)


class TransformerLayer(nn.Module):
    """Pre-norm transformer layer of 1x1 convolutions: (B, D, P, N) to (B, D, P, N).

    The norms are over all of a picture's tokens and channels together.
    """

    def __init__(self, width: int, config: MobileViTV2Config) -> None:
        super().__init__()
        inner = width * config.ffn_expansion
        self.norm1 = nn.GroupNorm(1, width)
        self.attention = SeparableAttention(width, config.attention_dropout)
        self.norm2 = nn.GroupNorm(1, width)
        self.ffn_in = nn.Conv2d(width, inner, 1)
        self.ffn_out = nn.Conv2d(inner, width, 1)
        self.ffn_dropout = nn.Dropout(config.ffn_dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        y = self.ffn_dropout(F.silu(self.ffn_in(self.norm2(x))))
        return x + self.dropout(self.ffn_out(y))


class MobileViTV2Block(nn.Module):
    """A depth-wise convolution, then attention across the patches: (B, C, H, W) to the same.

    Sides that patches do not fill are resized up, and stay so, as in the authors' code: the output
    is then up to ``patch`` - 1 pixels larger than the input.
    """

    def __init__(
        self, channels: int, width: int, layers: int, patch: int, config: MobileViTV2Config
    ) -> None:
        super().__init__()
        self.patch = patch
        self.local = ConvNormAct(channels, channels, 3, groups=channels)
        self.to_tokens = nn.Conv2d(channels, width, 1, bias=False)
        self.transformer = nn.Sequential(*(TransformerLayer(width, config) for _ in range(layers)))
        self.norm = nn.GroupNorm(1, width)
        self.from_tokens = ConvNormAct(width, channels, 1, act=None)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        even = whole_patches(height, width, self.patch)
        if even != (height, width):
            x = F.interpolate(x, even, mode="bilinear", align_corners=True)
        x = self.to_tokens(self.local(x))
        x = unfold(x.permute(0, 2, 3, 1), self.patch)  # (B * P, N, D)
        x = x.reshape(batch, self.patch**2, *x.shape[1:]).permute(0, 3, 1, 2)  # (B, D, P, N)
        x = self.norm(self.transformer(x))
        x = fold(x.permute(0, 2, 3, 1).flatten(0, 1), even, self.patch)
        return self.from_tokens(x.permute(0, 3, 1, 2))


class MobileViTV2(Backbone):
    """A MobileViTv2 with a classifier; see ``Backbone``."""

    config: MobileViTV2Config

    def __init__(self, config: MobileViTV2Config) -> None:
        super().__init__(config, partial(MobileViTV2Block, config=config), depth=2)


def _in_proportion(stem: int) -> MobileViTV2Config:
    """Return the network whose every width is the authors' multiple of the stem's."""
    return MobileViTV2Config(
        stem_width=stem,
        widths=(2 * stem, 4 * stem, 8 * stem, 12 * stem, 16 * stem),
        token_widths=(4 * stem, 6 * stem, 8 * stem),
    )


VARIANTS: dict[str, MobileViTV2Config] = {
    f"mobilevitv2_{percent:03}": _in_proportion(32 * percent // 100)
    for percent in (50, 75, 100, 125, 150, 175, 200)
}
