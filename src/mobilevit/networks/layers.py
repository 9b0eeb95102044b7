"""The layers that the networks share.

Tensors are named by shape: B pictures, C channels, H height, W width, D width of the transformer,
P pixels in a patch, N patches.
"""

from __future__ import annotations

from torch import Tensor, nn


class ConvNormAct(nn.Module):
    """Convolution, batch-norm, activation: (B, in, H, W) to (B, out, H / stride, W / stride).

    The activation is not in place, for in training autograd would copy its input first.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        act: type[nn.Module] | None = nn.SiLU,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        padding = kernel // 2 * dilation
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, padding, dilation, groups=groups, bias=False
        )
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.act = act() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: widen, filter depth-wise, narrow; a residual where the shapes agree."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, dilation: int = 1
    ) -> None:
        super().__init__()
        hidden = _multiple_of_8(inputs * expansion)
        self.expand = ConvNormAct(inputs, hidden, 1)
        self.depthwise = ConvNormAct(hidden, hidden, 3, stride, groups=hidden, dilation=dilation)
        self.project = ConvNormAct(hidden, outputs, 1, act=None)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


def whole_patches(height: int, width: int, patch: int) -> tuple[int, int]:
    """Return the nearest size from above that patches of ``patch`` x ``patch`` fill."""
    return -(-height // patch) * patch, -(-width // patch) * patch


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


def initialise(module: nn.Module) -> None:
    """Kaiming for convolutions, truncated normal (0.02) for linear layers, zeros for biases.

    The papers' code has the same two. The fan is that of the inputs: counted by outputs, depth-wise
    filters would start some hundred times too small, and short trainings suffer for it.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _multiple_of_8(width: int) -> int:
    """Round to a multiple of 8, never by more than 10 % downwards (MobileNetV2)."""
    rounded = max(8, (width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded
