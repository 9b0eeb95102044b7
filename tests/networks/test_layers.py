from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mobilevit.networks
from mobilevit.networks import create_model
from mobilevit.networks.inference import optimize
from mobilevit.networks.layers import InvertedResidual, fold, initialise, unfold, whole_patches


def unfold_by_torch(x: torch.Tensor, patch: int) -> torch.Tensor:
    batch, _, _, depth = x.shape
    y = F.unfold(x.permute(0, 3, 1, 2), patch, stride=patch)  # (B, D * P, N)
    return y.reshape(batch, depth, patch * patch, -1).permute(0, 2, 3, 1).flatten(0, 1)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    depth=st.integers(1, 6),
    patch=st.sampled_from((1, 2, 3, 4, 8)),
)
def test_unfold_gathers_like_im2col_and_fold_undoes_it(
    batch: int, rows: int, columns: int, depth: int, patch: int
) -> None:
    height, width = rows * patch, columns * patch
    x = torch.arange(batch * height * width * depth, dtype=torch.float32)
    x = x.reshape(batch, height, width, depth)
    y = unfold(x, patch)
    assert y.shape == (batch * patch * patch, rows * columns, depth)
    assert torch.equal(y, unfold_by_torch(x, patch))
    assert torch.equal(fold(y, (height, width), patch), x)


def test_unfold_by_hand() -> None:
    x = torch.arange(16).reshape(1, 4, 4, 1)
    assert unfold(x, 2).squeeze(-1).tolist() == [
        [0, 2, 8, 10],
        [1, 3, 9, 11],
        [4, 6, 12, 14],
        [5, 7, 13, 15],
    ]


@given(height=st.integers(1, 99), width=st.integers(1, 99), patch=st.integers(1, 9))
def test_whole_patches_fill_the_nearest_size_from_above(
    height: int, width: int, patch: int
) -> None:
    for side, filled in zip((height, width), whole_patches(height, width, patch), strict=True):
        assert filled % patch == 0
        assert side <= filled < side + patch


@pytest.mark.parametrize(("wide", "middle"), [(16, 32), (12, 24), (6, 16), (13, 24), (3, 8)])
def test_an_inverted_residuals_middle_is_a_multiple_of_8(wide: int, middle: int) -> None:
    block = InvertedResidual(wide, wide, 1, expansion=2)
    assert block.depthwise.conv.in_channels == block.depthwise.conv.groups == middle


@pytest.mark.parametrize(
    ("outputs", "stride", "residual"), [(8, 1, True), (8, 2, False), (16, 1, False)]
)
def test_an_inverted_residual_adds_its_input_where_the_shapes_agree(
    outputs: int, stride: int, residual: bool
) -> None:
    block = InvertedResidual(8, outputs, stride, expansion=2).eval()
    nn.init.zeros_(block.project.norm.weight)  # nothing but the residual is left
    x = torch.rand(1, 8, 6, 6)
    y = block(x)
    assert y.shape == (1, outputs, 6 // stride, 6 // stride)
    assert torch.equal(y, x if residual else torch.zeros_like(y))


def test_weights_begin_with_the_promised_spread_and_biases_with_zero() -> None:
    torch.manual_seed(0)
    dense, depthwise = nn.Conv2d(64, 256, 3), nn.Conv2d(4096, 4096, 3, groups=4096)
    linear = nn.Linear(512, 512)
    for module, spread in ((dense, (2 / 576) ** 0.5), (depthwise, (2 / 9) ** 0.5), (linear, 0.02)):
        initialise(module)
        assert module.weight.std().item() == pytest.approx(spread, rel=0.03)
        assert not module.bias.any()


def test_the_networks_need_torch_and_torchvision_and_nothing_else() -> None:
    """Of this package, they import each other; whoever makes one by its name gets our errors."""
    for path in Path(mobilevit.networks.__file__).parent.glob("*.py"):
        modules = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                modules.add(node.module)
            elif isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
        foreign = {
            module
            for module in modules
            if module.split(".")[0] not in {"torch", "torchvision", *sys.stdlib_module_names}
            and not f"{module}.".startswith("mobilevit.networks.")
        }
        with_errors = path.name in ("__init__.py", "timm.py")  # they look names up
        assert foreign == ({"mobilevit.errors"} if with_errors else set()), path


class Operators(TorchDispatchMode):
    """Names of what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.names.append(operator.overloadpacket.__name__)
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050"])
def test_training_copies_no_activation_and_the_inference_form_takes_no_memory_for_any(
    name: str,
) -> None:
    network = create_model(name, num_classes=3).train()
    with Operators() as training:
        network(torch.rand(2, 3, 32, 32)).sum().backward()
    assert "silu" in training.names
    assert "silu_" not in training.names
    stem, x = optimize(network).network.stem, torch.rand(2, 3, 32, 32)
    with torch.no_grad(), Operators() as convolving:
        stem(x)
    assert convolving.names == ["convolution", "silu_"]
