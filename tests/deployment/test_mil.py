from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mobilevit.errors import UserError

ct = pytest.importorskip("coremltools")
from coremltools.converters.mil.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402

from mobilevit.deployment.mil import Program  # noqa: E402

random = np.random.default_rng(0)
FILTERS = random.normal(size=(6, 2, 3, 3)).astype(np.float32)
ROWS = random.normal(size=(5, 6)).astype(np.float32)
CHANNELS = random.uniform(0.5, 2, (4, 4)).astype(np.float32)
MATRIX = random.normal(size=(1, 4, 9, 6)).astype(np.float32)
X = random.normal(size=(1, 4, 6, 6)).astype(np.float32)

OPERATIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Tensor], Tensor]]] = {
    "a convolution in groups, with strides and dilation, padded on two sides": (
        lambda x: mb.conv(
            x=x,
            weight=FILTERS,
            bias=FILTERS[:, 0, 0, 0],
            strides=[2, 1],
            dilations=[1, 2],
            groups=2,
            pad_type="custom",
            pad=[1, 0, 2, 1],
        ),
        lambda x: F.conv2d(
            F.pad(x, (2, 1, 1, 0)),
            torch.from_numpy(FILTERS),
            torch.from_numpy(FILTERS[:, 0, 0, 0].copy()),
            (2, 1),
            0,
            (1, 2),
            2,
        ),
    ),
    "a linear layer": (
        lambda x: mb.linear(x=x, weight=ROWS, bias=ROWS[:, 0]),
        lambda x: x @ torch.from_numpy(ROWS).T + torch.from_numpy(ROWS[:, 0]),
    ),
    "a norm over two axes": (
        lambda x: mb.layer_norm(x=x, axes=[-2, -1], epsilon=0.1),
        lambda x: (x - x.mean((2, 3), True)) / (x.var((2, 3), False, keepdim=True) + 0.1).sqrt(),
    ),
    "a folded norm": (
        lambda x: mb.batch_norm(
            x=x,
            mean=CHANNELS[0],
            variance=CHANNELS[1],
            gamma=CHANNELS[2],
            beta=CHANNELS[3],
            epsilon=0.01,
        ),
        lambda x: (
            (x - per_channel(0)) / (per_channel(1) + 0.01).sqrt() * per_channel(2) + per_channel(3)
        ),
    ),
    "a product with a transposed matrix": (
        lambda x: mb.matmul(x=x, y=MATRIX, transpose_x=True, transpose_y=True),
        lambda x: x.transpose(2, 3) @ torch.from_numpy(MATRIX).transpose(2, 3),
    ),
    "upsampling between corners": (
        lambda x: mb.upsample_bilinear(
            x=x, scale_factor_height=2.0, scale_factor_width=1.5, align_corners=True
        ),
        lambda x: F.interpolate(x, (12, 9), mode="bilinear", align_corners=True),
    ),
    "upsampling between edges": (
        lambda x: mb.upsample_bilinear(
            x=x, scale_factor_height=1.0, scale_factor_width=3.0, align_corners=False
        ),
        lambda x: F.interpolate(x, (6, 18), mode="bilinear", align_corners=False),
    ),
    "parts of different sizes": (
        lambda x: mb.concat(values=mb.split(x=x, split_sizes=[1, 2, 1], axis=1)[::-1], axis=1),
        lambda x: torch.cat((x[:, 3:], x[:, 1:3], x[:, :1]), 1),
    ),
    "a part": (
        lambda x: mb.slice_by_index(
            x=x, begin=[0, 1, 2, 0], end=[1, 3, 0, 5], end_mask=[False, False, True, False]
        ),
        lambda x: x[:, 1:3, 2:, :5],
    ),
    "tiles": (lambda x: mb.tile(x=x, reps=[1, 1, 2, 3]), lambda x: x.repeat(1, 1, 2, 3)),
    "other axes": (
        lambda x: mb.squeeze(x=mb.transpose(x=x, perm=[2, 0, 3, 1]), axes=[1]),
        lambda x: x[0].permute(1, 2, 0),
    ),
    "another shape": (lambda x: mb.reshape(x=x, shape=[8, -1]), lambda x: x.reshape(8, 18)),
    "means": (
        lambda x: mb.reduce_mean(x=x, axes=[1, 3], keep_dims=False),
        lambda x: x.mean((1, 3)),
    ),
    "sums": (
        lambda x: mb.reduce_sum(x=x, axes=[-1], keep_dims=True),
        lambda x: x.sum(-1, keepdim=True),
    ),
    "probabilities": (lambda x: mb.softmax(x=x, axis=1), lambda x: x.softmax(1)),
    "limits": (lambda x: mb.clip(x=x, alpha=-0.5, beta=0.2), lambda x: x.clamp(-0.5, 0.2)),
    "arithmetic": (
        lambda x: mb.real_div(x=mb.sub(x=mb.mul(x=x, y=3.0), y=mb.exp(x=x)), y=mb.add(x=9.0, y=x)),
        lambda x: (3 * x - x.exp()) / (9 + x),
    ),
    "SiLU": (lambda x: mb.silu(x=x), lambda x: x / (1 + (-x).exp())),
    "ReLU": (lambda x: mb.relu(x=x), lambda x: x * (x > 0)),
    "a gate": (lambda x: mb.sigmoid(x=x), lambda x: 1 / (1 + (-x).exp())),
    "a straight gate": (
        lambda x: mb.sigmoid_hard(x=x, alpha=0.3, beta=0.4),
        lambda x: (0.3 * x + 0.4).clamp(0, 1),
    ),
    "a threshold": (
        lambda x: mb.thresholded_relu(x=x, alpha=-0.3),
        lambda x: torch.where(x >= -0.3, x, 0),
    ),
}


def per_channel(row: int) -> Tensor:
    return torch.from_numpy(CHANNELS[row])[:, None, None]


def build(operations: Callable[[Any], Any], shape: tuple[int, ...] = X.shape, dtype=types.fp32):
    specs = [mb.TensorSpec(shape=shape, dtype=dtype)]
    return mb.program(input_specs=specs, opset_version=ct.target.iOS16)(lambda x: operations(x))


def run(program, x: np.ndarray = X) -> np.ndarray:
    return Program(program, "here").run(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_what_torch_computes(name):
    made, expected = OPERATIONS[name]
    found = run(build(made))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(torch.from_numpy(X)), atol=1e-5)


def test_half_precision_is_rounded_after_every_operation():
    found = run(build(lambda x: mb.add(x=mb.mul(x=x, y=x), y=x), dtype=types.fp16))
    half = X.astype(np.float16)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, half * half + half)


def test_an_overflow_is_named():
    def operations(x):
        return mb.mul(x=mb.add(x=x, y=x), y=x, name="squared")

    half = build(operations, (3,), types.fp16)
    x = np.array([1, 200, 7], np.float32)
    assert run(build(operations, (3,)), x).max() == 80000
    with pytest.raises(UserError, match=r"'squared' \(mul\) gives 8e\+04, which fp16 cannot hold"):
        run(half, x)
    program = Program(half, "here")
    program.run(torch.from_numpy(x / 2))
    assert program.peak == ("squared", 20000)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (types.tensor(types.fp32, (1, 4, 6, 6)), "'found' .relu. computes in fp16, but is .* fp32"),
        (types.tensor(types.fp16, (1, 4, 9, 4)), r"'found' .relu. gives \(1, 4, 6, 6\), but is"),
    ],
    ids=["type", "shape"],
)
def test_a_wrong_declaration_is_noticed(declared, message):
    program = build(lambda x: mb.relu(x=mb.silu(x=x), name="found"), dtype=types.fp16)
    operation = program.functions["main"].find_ops(op_type="relu")[0]
    operation.outputs[0]._sym_type = declared
    with pytest.raises(UserError, match=message):
        run(program)


def test_an_operation_that_is_not_known_is_named():
    with pytest.raises(UserError, match="the operation 'erf' cannot be interpreted here"):
        run(build(lambda x: mb.erf(x=x)))


def test_operations_types_and_weights_are_counted():
    def operations(x):
        y = mb.cast(x=mb.relu(x=mb.relu(x=x)), dtype="fp16")
        return mb.conv(x=y, weight=FILTERS.astype(np.float16), groups=2, name="filtered")

    program = Program(build(operations), "here")
    assert program.operations == {"relu": 2, "cast": 1, "conv": 1}
    assert len(program.computed["fp32"]) == 2
    assert program.computed["fp16"] == ["filtered"]
    assert program.weights == {"float16": 2 * FILTERS.size}


def test_compressed_weights_are_taken_as_they_are_stored():
    codes = random.integers(-127, 128, FILTERS.shape).astype(np.int8)
    scales = random.uniform(0.01, 0.1, 6).astype(np.float32)

    def operations(x):
        weight = mb.constexpr_affine_dequantize(
            quantized_data=codes, zero_point=np.int8(3), scale=scales, axis=0
        )
        return mb.conv(x=x, weight=weight, groups=2)

    program = Program(build(operations), "here")
    weight = (codes.astype(np.float32) - 3) * scales[:, None, None, None]
    expected = F.conv2d(torch.from_numpy(X), torch.from_numpy(weight), groups=2)
    torch.testing.assert_close(program.run(torch.from_numpy(X)), expected)
    assert program.weights == {"int8": codes.size, "float32": 4 * 6}
