"""MobileViT (Mehta & Rastegari, ICLR 2022): convolutions for what is near, attention for the rest.

It reads from top to bottom: the numbers, the transformer, the MobileViT block that joins it to the
convolutions, the network, its sizes. Tensors are named as in ``layers.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilevit.networks.backbone import Backbone, BackboneConfig
from mobilevit.networks.layers import ConvNormAct, fold, unfold, whole_patches


@dataclass(frozen=True, kw_only=True)
class MobileViTConfig(BackboneConfig):
    """The numbers that make one MobileViT (paper, Table 4 and Appendix A; defaults: MobileViT-S).

    Attributes:
        heads: attention heads, at every stage.
        skip: join the block's input to what the transformer made of it before the last convolution
            (paper, Figure 1b); without it that convolution sees the latter alone.
        head_width: channels of the 1x1 convolution before pooling: in the paper's code four times
            the last stage's, 960 at the most.
    """

    stem_width: int = 16
    widths: tuple[int, int, int, int, int] = (32, 64, 96, 128, 160)
    expansion: int = 4
    token_widths: tuple[int, int, int] = (144, 192, 240)
    heads: int = 4
    skip: bool = True
    dropout: float = 0.1
    head_dropout: float = 0.1
    head_width: int = 640


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
        y = self.ffn_dropout(F.silu(self.ffn_in(self.norm2(x))))
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
        self.skip = config.skip
        self.fuse = ConvNormAct((1 + self.skip) * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.to_tokens(self.local(x))
        height, width = y.shape[-2:]
        even = whole_patches(height, width, self.patch)
        if even != (height, width):
            y = F.interpolate(y, even, mode="bilinear", align_corners=False)
        y = unfold(y.permute(0, 2, 3, 1), self.patch)
        y = self.norm(self.transformer(y))
        y = fold(y, even, self.patch).permute(0, 3, 1, 2)
        if even != (height, width):
            y = F.interpolate(y, (height, width), mode="bilinear", align_corners=False)
        y = self.from_tokens(y)
        return self.fuse(torch.cat((x, y), dim=1) if self.skip else y)


class MobileViT(Backbone):
    """A MobileViT with a classifier; see ``Backbone``."""

    config: MobileViTConfig

    def __init__(self, config: MobileViTConfig) -> None:
        block = partial(MobileViTBlock, config=config)
        super().__init__(config, block, depth=3, final_width=config.head_width)


VARIANTS: dict[str, MobileViTConfig] = {
    "mobilevit_xxs": MobileViTConfig(
        widths=(16, 24, 48, 64, 80),
        expansion=2,
        token_widths=(64, 80, 96),
        dropout=0.05,
        head_width=320,
    ),
    "mobilevit_xs": MobileViTConfig(
        widths=(32, 48, 64, 80, 96), token_widths=(96, 120, 144), head_width=384
    ),
    "mobilevit_s": MobileViTConfig(),
}
