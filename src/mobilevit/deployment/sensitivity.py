"""Which blocks of a network lose what in int8, found with PyTorch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mobilevit.deployment.capture import plain_attention

_WEIGHTED = (F.conv2d, F.linear)
_PRODUCTS = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__}
_ROUNDED = {
    *_WEIGHTED,
    *_PRODUCTS,
    *(F.silu, F.relu, torch.relu, Tensor.relu, F.relu6, F.hardswish, F.hardsigmoid, F.gelu),
    *(torch.sigmoid, Tensor.sigmoid, F.softmax, torch.softmax, Tensor.softmax),
    *(F.batch_norm, F.layer_norm, F.group_norm, torch.matmul, Tensor.matmul, Tensor.__matmul__),
    *(torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, torch.cat),
    *(F.interpolate, F.adaptive_avg_pool2d, Tensor.mean, Tensor.sum),
}


class SimulatedInt8(TorchFunctionMode):
    """Computes as static int8 does: every operation's result is rounded to one of 256 numbers.

    Weights are rounded symmetrically for each output channel, results asymmetrically between their
    smallest and largest (Jacob et al., CVPR 2018); gradients pass as if nothing were rounded. A
    convolution without a bias stands before a norm, and what that gives is rounded; a product with
    a single number only has another scale. Within ``rounding`` alone; elsewhere everything is as
    ever.

    Attributes:
        stage: ``"learn"`` the ranges of results, and round nothing; ``"round"`` to those ranges;
            or ``"follow"``: round each result to the range that it has itself, to train with.
    """

    def __init__(self, stage: Literal["learn", "round", "follow"] = "learn") -> None:
        super().__init__()
        self.stage = stage
        self._ranges: dict[tuple[str, int], tuple[float, float]] = {}
        self._block: str | None = None
        self._turn = 0

    @contextmanager
    def rounding(self, blocks: dict[str, nn.Module]) -> Iterator[None]:
        """Round within some modules, which do not hold one another, by name."""
        hooks = [
            hook
            for name, module in blocks.items()
            for hook in (
                module.register_forward_pre_hook(lambda *_, name=name: self._enter(name)),
                module.register_forward_hook(lambda *_: self._enter(None)),
            )
        ]
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, name: str | None) -> None:
        self._block, self._turn = name, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._block is None:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            with self:  # so that its parts come here again
                return plain_attention(*args, **kwargs)
        if func in _WEIGHTED and self.stage != "learn":
            args = (args[0], _round_weight(args[1]), *args[2:])
        result = func(*args, **kwargs)
        if func not in _ROUNDED or (func is F.conv2d and args[2] is None):
            return result
        if func in _PRODUCTS and not all(isinstance(factor, Tensor) for factor in args[:2]):
            return result
        key, self._turn = (self._block, self._turn), self._turn + 1
        if self.stage == "round":
            return _round(result, *self._ranges[key])
        low, high = _range(result)
        if self.stage == "follow":
            return _round(result, low, high)
        before = self._ranges.get(key, (0.0, 0.0))
        self._ranges[key] = min(low, before[0]), max(high, before[1])
        return result


def find_blocks(network: nn.Module) -> dict[str, nn.Module]:
    """Return the modules to choose among, by name; none of them holds another.

    Those are the network's modules down to the last that consists of a list of others: inverted
    residuals, the convolutions around a transformer, each of its layers, the head.
    """
    found: dict[str, nn.Module] = {}
    listed = (nn.Sequential, nn.ModuleList)

    def descend(name: str, module: nn.Module) -> None:
        children = dict(module.named_children())
        inner = islice(module.modules(), 1, None)
        if isinstance(module, listed) or any(isinstance(part, listed) for part in inner):
            for child, part in children.items():
                descend(f"{name}.{child}" if name else child, part)
        elif any(True for _ in module.parameters()):
            found[name] = module

    descend("", network)
    return found


def _range(x: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest number or 0, read in the order of memory for speed."""
    x = x.detach()
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    low, high = x.aminmax()
    return min(low.item(), 0.0), max(high.item(), 0.0)


class _Rounded(torch.autograd.Function):
    """Numbers rounded to the multiples of a scale in a range; the gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, low: int, high: int) -> Tensor:
        return x.div(scale).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None, None, None


def _round(x: Tensor, low: float, high: float) -> Tensor:
    scale = max((high - low) / 255, 1e-12)
    zero = round(-low / scale)
    return cast(Tensor, _Rounded.apply(x, scale, -zero, 255 - zero))


def _round_weight(weight: Tensor) -> Tensor:
    scale = weight.detach().abs().flatten(1).amax(1).clamp_min(1e-12) / 127
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)
