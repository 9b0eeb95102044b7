"""The inference form of a network: batch-norm folded, channels-last, one precision."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mobilevit.networks.layers import ConvNormAct
from mobilevit.networks.timm import TimmFeatures, TimmNetwork

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class InferenceNetwork(nn.Module):
    """A network made ready to run; takes and gives float32 like the one it was made from,
    one tensor or a list or tuple of them.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype

    def train(self, mode: bool = True) -> InferenceNetwork:
        """Stay as it is: there is nothing to train, and dropout would come back."""
        return super().train(False)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Any:
        x = x.to(dtype=self.dtype, memory_format=torch.channels_last)
        y = self.network(x)
        return y.float() if isinstance(y, Tensor) else type(y)(z.float() for z in y)


def optimize(network: nn.Module, precision: str = "fp32") -> InferenceNetwork:
    """Return a copy of a network that computes the same faster, and can no longer be trained.

    Every batch-norm that follows a convolution is folded into it (``torch.nn.utils.fusion``),
    activations are in place, the weights lie channels-last, and compute runs in ``precision``.

    Args:
        network: any of this package's networks, a module around one, or what this made, whose
            weights stay as rounded as they are; it is left as it was.
        precision: ``"fp32"`` (same outputs to about 1e-5) or ``"bf16"`` (to about 1e-2).

    Raises:
        ValueError: for another precision.
    """
    if precision not in DTYPES:
        raise ValueError(f"precision is one of {', '.join(DTYPES)}, not '{precision}'")
    inner = network.network if isinstance(network, InferenceNetwork) else network
    network = copy.deepcopy(inner).eval().requires_grad_(False)
    fold_norms(network)
    for module in network.modules():
        if isinstance(module, ConvNormAct) and isinstance(module.act, (nn.SiLU, nn.ReLU)):
            module.act.inplace = True  # nothing else reads what the convolution gave
    dtype = DTYPES[precision]
    network = network.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return InferenceNetwork(network, dtype).eval()


def fold_norms(module: nn.Module) -> None:
    """Fold every batch-norm behind a convolution: by name in our blocks, by place in a sequence."""
    if isinstance(module, (TimmNetwork, TimmFeatures)):
        module.fold_norms()
        return
    conv, norm = getattr(module, "conv", None), getattr(module, "norm", None)
    if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
        module.conv, module.norm = fuse_conv_bn_eval(conv, norm), nn.Identity()
    if isinstance(module, nn.Sequential):
        for i, (conv, norm) in enumerate(pairwise(module)):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[i], module[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    for child in module.children():
        fold_norms(child)
