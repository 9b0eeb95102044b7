"""The network as XNNPACK takes it whole, and its way into an ExecuTorch program.

XNNPACK has no layer normalisation, takes attention as two batched matrix products only, and of the
means the one over a map. What it does not take stays with ExecuTorch's portable kernels, and cuts
the graph into dozens of pieces.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.config.generic_node_configs import SigmoidConfig
from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from torch import Tensor, nn

from mobilevit.deployment.capture import (
    PLAIN_ATTENTION,
    PLAIN_SILU,
    Decompositions,
    replace_layers,
)
from mobilevit.deployment.exporters.attention import SplitAttention
from mobilevit.networks.mobilevit import Attention


class MatmulLayerNorm(nn.Module):
    """Layer normalisation over the last axis, its two means taken by matrix products."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        (width,) = norm.normalized_shape
        self.weight, self.bias = norm.weight, norm.bias
        self.register_buffer("average", torch.full((1, width), 1 / width), persistent=False)
        self.register_buffer("eps", torch.full((1,), norm.eps), persistent=False)

    average: Tensor
    eps: Tensor

    def forward(self, x: Tensor) -> Tensor:
        x = x - F.linear(x, self.average)
        variance = F.linear(x * x, self.average, self.eps)
        return x * torch.rsqrt(variance) * self.weight + self.bias


def rewrite(network: nn.Module) -> nn.Module:
    """Put what XNNPACK takes in the place of norms and attention; the outputs stay the same.

    The modules keep their names; the linear layer of an attention becomes three.

    Args:
        network: as ``prepare`` gives it; it is changed in place.
    """
    return replace_layers(network, {nn.LayerNorm: _by_products, Attention: SplitAttention})


def _by_products(norm: nn.LayerNorm) -> nn.Module:
    known = norm.weight.dim() == 1 and norm.bias is not None
    return MatmulLayerNorm(norm) if known else norm


def _mean(
    x: Tensor, dim: list[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Any:
    """Keep the axes of a mean over a map's pixels, and drop them afterwards."""
    if keepdim or x.dim() != 4 or dim is None or {axis % 4 for axis in dim} != {2, 3}:
        return NotImplemented
    return x.mean(dim, keepdim=True, dtype=dtype).view(x.shape[:2])


DECOMPOSITIONS: Decompositions = {
    **PLAIN_ATTENTION,
    torch.ops.aten.mean.dim: _mean,
    **PLAIN_SILU,
}
"""How operations are written that XNNPACK takes in another form."""


class _Sigmoid(SigmoidConfig):  # type: ignore[misc]
    """XNNPACK looks the sigmoid of 8-bit numbers up; ExecuTorch would compute it in float."""

    def supported_precision_types(self) -> list[ConfigPrecisionType]:
        return [ConfigPrecisionType.FP32, ConfigPrecisionType.STATIC_QUANT]


def partitioner() -> XnnpackPartitioner:
    """Return what chooses the operations that XNNPACK takes."""
    others = [config for config in ALL_PARTITIONER_CONFIGS if config is not SigmoidConfig]
    return XnnpackPartitioner(configs=[*others, _Sigmoid])
