"""A Core ML program, read back from its package and computed by torch, operation by operation.

Core ML runs on Apple's machines alone. Elsewhere this proves that a package says what it should:
the type and shape of every operation are held against what the package declares, weights are taken
as they are stored, and what is half precision on the device is rounded to it here. Sums inside one
operation are taken in single precision; a device may take them otherwise.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mobilevit.errors import UserError, require

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
"""What activations are of, by the names that MIL has for it."""
STORED = ("float32", "float16", "int8")
"""What weights are of, by the names that NumPy has for it."""


@dataclass(frozen=True)
class Declared:
    """What a package says of a value."""

    name: str
    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """An operation.

    Attributes:
        kind: its name in MIL.
        compute: what it does, in single precision.
        arguments: names of values, one or several, by parameter.
        results: what it gives.
    """

    kind: str
    compute: Callable[..., Any]
    arguments: Mapping[str, str | tuple[str, ...]]
    results: tuple[Declared, ...]


class Program:
    """A program with one input and one output.

    Args:
        program: of coremltools.
        source: the package it came from, for errors.

    Attributes:
        operations: how many there are, by kind.
        computed: names of those that compute in each type; casts compute nothing.
        weights: bytes of the stored numbers by their type; compressed ones as they are stored.
        peak: the largest absolute value that an operation gave so far, after its name.

    Raises:
        UserError: when there is an operation that is not known here, or one of another type than
            its inputs.
    """

    def __init__(self, program: Any, source: str) -> None:
        self.source = source
        self.operations: Counter[str] = Counter()
        self.computed: dict[str, list[str]] = {name: [] for name in DTYPES}
        self.weights: Counter[str] = Counter()
        self.peak = ("", 0.0)
        self._constants: dict[str, Any] = {}
        self._steps: list[Step] = []
        function = program.functions["main"]
        (self.input,) = map(_declared, function.inputs.values())
        (self.output,) = map(_declared, function.outputs)
        for operation in function.operations:
            self._add(operation)

    @classmethod
    def read(cls, spec: Any, weights: Path, source: str) -> Program:
        """Read the program of a package.

        Args:
            spec: its description, as coremltools gives it.
            weights: the folder of its weights.
            source: the package, for errors.

        Raises:
            UserError: when it cannot be read, or says of an operation's type or shape what cannot
                be.
        """
        milproto = require("coremltools.converters.mil.frontend.milproto.load", "coreml")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            program = milproto.load(spec, spec.specificationVersion, str(weights))
        except Exception as error:  # it asserts, and its parts raise what they like
            raise UserError(
                f"{source}: its program cannot be read, or contradicts itself. ({error})"
            ) from error
        finally:
            logging.disable(before)
        return cls(program, source)

    def _add(self, operation: Any) -> None:
        kind = operation.op_type
        if kind == "const":
            value = operation.outputs[0].val
            self._constants[operation.outputs[0].name] = _constant(value)
            self._weigh(value)
            return
        if kind.startswith("constexpr_"):
            weight = operation.materialized_val_inference()
            self._constants[operation.outputs[0].name] = _constant(weight)
            return
        if kind not in _COMPUTE:
            raise UserError(f"{self.source}: the operation '{kind}' cannot be interpreted here.")
        given = {key: value for key, value in operation.inputs.items() if value is not None}
        results = tuple(map(_declared, operation.outputs))
        self._check_types(operation, given, results)
        arguments = {
            key: tuple(v.name for v in value) if isinstance(value, Sequence) else value.name
            for key, value in given.items()
        }
        self._steps.append(Step(kind, _COMPUTE[kind], arguments, results))
        self.operations[kind] += 1
        if kind != "cast":
            self.computed[results[0].type].append(results[0].name)

    def _weigh(self, value: Any) -> None:
        if isinstance(value, np.ndarray) and str(value.dtype) in STORED:
            self.weights[str(value.dtype)] += value.nbytes

    def _check_types(
        self, operation: Any, given: Mapping[str, Any], results: tuple[Declared, ...]
    ) -> None:
        """Hold the type of every result against that of the inputs, which share one.

        Single numbers are no such inputs: a norm's epsilon or a resize's factor has its own.
        """
        if operation.op_type == "cast":
            expected = {given["dtype"].val}
        else:
            flat = [var for v in given.values() for var in (v if isinstance(v, Sequence) else (v,))]
            expected = {_declared(var).type for var in flat if var.shape}
        expected &= DTYPES.keys()
        if {result.type for result in results} != expected:
            takes = " and ".join(sorted(expected))
            self._contradicts(operation.op_type, results[0], f"computes in {takes}")

    def _contradicts(self, kind: str, declared: Declared, fact: str) -> None:
        raise UserError(
            f"{self.source}: the operation '{declared.name}' ({kind}) {fact}, but is declared to "
            f"give {declared.type} {declared.shape}."
        )

    @torch.inference_mode()
    def run(self, image: Tensor) -> Tensor:
        """Compute the output of an input.

        Raises:
            UserError: when an operation gives another shape than declared, or a number that its
                type cannot hold.
        """
        values: dict[str, Any] = {self.input.name: image.to(DTYPES[self.input.type])}

        def value(name: str) -> Any:
            found = values[name] if name in values else self._constants[name]
            return found.float() if isinstance(found, Tensor) else found

        for step in self._steps:
            given = {
                key: value(names) if isinstance(names, str) else [value(name) for name in names]
                for key, names in step.arguments.items()
            }
            results = step.compute(**given)
            results = (results,) if isinstance(results, Tensor) else results
            for declared, result in zip(step.results, results, strict=True):
                values[declared.name] = self._checked(step.kind, declared, result)
        output: Tensor = values[self.output.name]
        return output

    def _checked(self, kind: str, declared: Declared, result: Tensor) -> Tensor:
        """Return a result in its type, after a look at its shape and at its largest value."""
        if tuple(result.shape) != declared.shape:
            self._contradicts(kind, declared, f"gives {tuple(result.shape)}")
        rounded = result.to(DTYPES[declared.type])
        largest = float(rounded.abs().max())
        if not math.isfinite(largest):
            reached = float(result.abs().max())
            raise UserError(
                f"{self.source}: the operation '{declared.name}' ({kind}) gives {reached:.3g}, "
                f"which {declared.type} cannot hold. Export with precision fp32."
            )
        if largest > self.peak[1]:
            self.peak = (declared.name, largest)
        return rounded


def _declared(var: Any) -> Declared:
    types = require("coremltools.converters.mil.mil.types", "coreml")
    return Declared(var.name, types.builtin_to_string(var.dtype), tuple(var.shape))


def _constant(value: Any) -> Any:
    """Return a constant as the operations below take it: floats as a tensor, others plainly."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return torch.from_numpy(np.array(value, np.float32))
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, epsilon: float, gamma: Tensor, beta: Tensor
) -> Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


def _conv(
    x: Tensor,
    weight: Tensor,
    strides: list[int],
    pad_type: str,
    pad: list[int],
    dilations: list[int],
    groups: int,
    bias: Tensor | None = None,
) -> Tensor:
    if pad_type == "custom":
        top, bottom, left, right = pad
        x = F.pad(x, (left, right, top, bottom))
    elif pad_type != "valid":
        raise NotImplementedError(f"padding '{pad_type}'")
    return F.conv2d(x, weight, bias, strides, 0, dilations, groups)


def _layer_norm(
    x: Tensor,
    axes: list[int],
    epsilon: float,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
) -> Tensor:
    if axes != list(range(-len(axes), 0)):
        raise NotImplementedError(f"a norm over axes {axes}")
    return F.layer_norm(x, x.shape[-len(axes) :], gamma, beta, epsilon)


def _matmul(x: Tensor, y: Tensor, transpose_x: bool, transpose_y: bool) -> Tensor:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def _upsample(
    x: Tensor, scale_factor_height: float, scale_factor_width: float, align_corners: bool
) -> Tensor:
    factors = (scale_factor_height, scale_factor_width)
    size = [math.floor(side * by) for side, by in zip(x.shape[2:], factors, strict=True)]
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)


def _split(
    x: Tensor, axis: int, num_splits: int = 1, split_sizes: list[int] | None = None
) -> tuple[Tensor, ...]:
    sizes = split_sizes or x.shape[axis] // num_splits
    return torch.split(x, sizes, axis)


def _slice(
    x: Tensor,
    begin: list[int],
    end: list[int],
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
) -> Tensor:
    """Cut along every axis; a mask says where the beginning or the end is the axis' own."""
    free = [False] * x.ndim
    return x[
        tuple(
            slice(None if all_before else start, None if all_after else stop)
            for start, stop, all_before, all_after in zip(
                begin, end, begin_mask or free, end_mask or free, strict=True
            )
        )
    ]


def _concat(values: list[Tensor], axis: int, interleave: bool) -> Tensor:
    if interleave:
        raise NotImplementedError("interleaved concatenation")
    return torch.cat(values, axis)


def _squeeze(x: Tensor, axes: list[int]) -> Tensor:
    return x.squeeze(tuple(axes))


_COMPUTE: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "batch_norm": _batch_norm,
    "cast": lambda x, dtype: x,
    "clip": lambda x, alpha, beta: x.clamp(alpha, beta),
    "concat": _concat,
    "conv": _conv,
    "exp": lambda x: x.exp(),
    "layer_norm": _layer_norm,
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "matmul": _matmul,
    "mul": lambda x, y: x * y,
    "real_div": lambda x, y: x / y,
    "reduce_mean": lambda x, axes, keep_dims: x.mean(axes, keep_dims),
    "reduce_sum": lambda x, axes, keep_dims: x.sum(axes, keep_dims),
    "relu": lambda x: x.relu(),
    "reshape": lambda x, shape: x.reshape(shape),
    "sigmoid": lambda x: x.sigmoid(),
    "sigmoid_hard": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "silu": lambda x: F.silu(x),
    "slice_by_index": _slice,
    "softmax": lambda x, axis: x.softmax(axis),
    "split": _split,
    "squeeze": _squeeze,
    "sub": lambda x, y: x - y,
    "thresholded_relu": lambda x, alpha: F.threshold(x, alpha, 0),
    "tile": lambda x, reps: x.tile(reps),
    "transpose": lambda x, perm: x.permute(perm),
    "upsample_bilinear": _upsample,
}
