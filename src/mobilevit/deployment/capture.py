"""The network as a graph: what every exporter starts from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from mobilevit.networks.inference import fold_norms

Decompositions = Mapping[Any, Callable[..., Any]]


def prepare(network: nn.Module) -> nn.Module:
    """Return a copy to export: float32, on the CPU, in evaluation, batch-norm folded.

    The names of the modules stay as they are.
    """
    network = copy.deepcopy(network).float().cpu().eval().requires_grad_(False)
    fold_norms(network)
    return network


def capture(
    network: nn.Module,
    size: tuple[int, int],
    batch: int = 1,
    decompositions: Decompositions | None = None,
) -> ExportedProgram:
    """Return the graph of a prepared network.

    Args:
        network: maps (N, 3, H, W) to one tensor; see ``prepare``.
        size: height and width of the input, in pixels.
        batch: pictures it takes.
        decompositions: how some operations are written with others; none: they stay as they are.
    """
    program: ExportedProgram = torch.export.export(network, (torch.zeros(batch, 3, *size),))
    if decompositions is not None:
        program = program.run_decompositions(dict(decompositions))
    return program


def plain_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot-product attention as two matrix products around a softmax."""
    assert attn_mask is None
    assert not is_causal
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    shares = torch.softmax((q * scale) @ k.transpose(-1, -2), dim=-1)
    return (torch.dropout(shares, dropout_p, train=True) if dropout_p else shares) @ v


PLAIN_ATTENTION: Decompositions = {
    torch.ops.aten.scaled_dot_product_attention.default: plain_attention
}
"""For runtimes whose fast kernels know matrix products and softmax, and no attention."""


def plain_silu(x: Tensor) -> Tensor:
    """SiLU as the sigmoid and product it is made of."""
    return x * torch.sigmoid(x)


PLAIN_SILU: Decompositions = {
    torch.ops.aten.silu.default: plain_silu,
    torch.ops.aten.silu_.default: plain_silu,
}
"""For runtimes that have no SiLU."""


def replace_layers(
    network: nn.Module, replacements: Mapping[type[nn.Module], Callable[[Any], nn.Module]]
) -> nn.Module:
    """Put other layers in the place of some; the outputs should stay the same.

    Args:
        network: as ``prepare`` gives it; it is changed in place.
        replacements: by the very class of a layer, no subclass of it, what makes another of it.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in replacements:
                setattr(parent, name, replacements[type(child)](child))
    return network


def is_inside(node: fx.Node, names: tuple[str, ...]) -> bool:
    """Return whether an operation of the graph stands in one of the modules named."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    return any(path == name or path.startswith(f"{name}.") for path in stack for name in names)
