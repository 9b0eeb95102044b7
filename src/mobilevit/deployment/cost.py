"""What a network costs, counted and not measured."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mobilevit.networks.deeplabv3 import AuxiliaryHead


def count_parameters(network: nn.Module) -> int:
    """Return the number of trained numbers that evaluation needs.

    Batch-norm's running statistics are none of them, nor is an auxiliary head.
    """
    spared = (m for m in network.modules() if isinstance(m, AuxiliaryHead))
    return _numbers(network) - sum(map(_numbers, spared))


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def count_multiply_adds(network: nn.Module, size: tuple[int, int]) -> int:
    """Return the multiply-adds of one picture.

    Counted are the convolutions, the linear layers and both matrix products of every attention;
    not counted are biases, norms, activations and softmax. Nothing is computed: shapes alone pass
    through a copy of the network.

    Args:
        network: takes (1, 3, H, W); it is left as it was.
        size: height and width, in pixels.
    """
    shell = copy.deepcopy(network).to("meta").eval()
    picture = torch.empty(1, 3, *size, device="meta")
    # The fused attention kernels of a CPU are not counted; the plain matrix products are.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        shell(picture)
    return int(counter.get_total_flops()) // 2
