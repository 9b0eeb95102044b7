"""int8 in ONNX: calibrated for weights and activations, or of the weights alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mobilevit.deployment.quiet import quiet

HEAVY = ("Conv", "MatMul", "Gemm")
QUANTISED = (
    *HEAVY,
    *("Add", "Mul", "Sigmoid", "Relu", "Clip", "HardSwish", "HardSigmoid", "ReduceMean"),
    *("Concat", "Transpose", "Reshape", "Slice", "Squeeze", "Unsqueeze", "Resize"),
)
"""Operations that are rounded. ONNX Runtime computes norms in float, and softmax faster so."""


def quantise(
    source: Path,
    calibration: NDArray[np.float32] | None,
    precision: str,
    float_blocks: tuple[str, ...] = (),
) -> Any:
    """Return an int8 form of a file that ``torch.onnx.export`` made, with its notes still in it.

    With ``"int8"`` weights (signed, one range for each output channel) and activations (unsigned)
    are surrounded by ``QuantizeLinear`` and ``DequantizeLinear``, which ONNX Runtime turns into
    integer kernels. The softmax of an attention stays in float, for in int8 it takes far longer:
    the product before it takes int8 and gives float. So does what belongs to no module but the
    network itself, the arithmetic on boxes.

    With ``"int8-weights"`` the weights are stored in int8 and made float again by a cast and a
    product, which ONNX Runtime does once, when it loads the file.

    Args:
        source: the file in fp32; files are written beside it.
        calibration: (N, 3, H, W) float32 in [0, 1], for ``"int8"``.
        precision: ``"int8"`` or ``"int8-weights"``.
        float_blocks: modules of the network that stay in float, with all below them.
    """
    if precision == "int8-weights":
        model = onnx.load_model(source)
        _round_weights(model.graph)
        return model
    assert calibration is not None
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    scopes = _scopes(onnx.load_model(source))
    prepared, made = (source.with_name(f"{step}.{source.name}") for step in ("prepared", "int8"))
    with quiet():
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        nodes = onnx.load_model(prepared).graph.node
        scores = {name for node in nodes if node.op_type == "Softmax" for name in node.input}
        quantize_static(
            prepared,
            made,
            _Pictures(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[
                node.name
                for node in nodes
                if _stays(node.name, scopes, float_blocks)
                or (node.op_type == "MatMul" and node.output[0] in scores)
            ],
        )
    model = onnx.load_model(made)
    _shorten(model.graph)
    return model


def count_quantised(path: Path) -> dict[str, Any] | None:
    """Count in a file what became int8, see ``Exporter``."""
    graph = onnx.load_model(path).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    taken_by: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            taken_by.setdefault(name, set()).add(node.op_type)
    heavy = [
        all(made_by.get(name) == "DequantizeLinear" for name in node.input[:2])
        and taken_by.get(node.output[0]) == {"QuantizeLinear"}
        for node in graph.node
        if node.op_type in HEAVY
    ]
    stored = {TensorProto.INT8: 0, TensorProto.FLOAT: 0}
    for weight in graph.initializer:
        if weight.data_type in stored:
            stored[weight.data_type] += numpy_helper.to_array(weight).nbytes
    if not stored[TensorProto.INT8]:
        return None
    return {
        "operations": sum(heavy) / len(heavy),
        "bytes": stored[TensorProto.INT8] / sum(stored.values()),
    }


class _Pictures:
    """Pictures, one by one, as ONNX Runtime's quantiser asks for them."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self._images = iter(images[:, None])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self._images, None)
        return None if image is None else {"image": image}


def _scopes(model: Any) -> dict[str, list[str]]:
    """Return by a node's name the modules it came from, the outermost first, and its own name."""
    found = {}
    for node in model.graph.node:
        notes = {note.key: note.value for note in node.metadata_props}
        found[node.name] = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))
    return found


def _stays(name: str, scopes: dict[str, list[str]], float_blocks: tuple[str, ...]) -> bool:
    """Return whether a node stays in float; one that was fused is named ``first/Fusion``."""
    _, *modules, _ = ["", *scopes.get(name.partition("/")[0], ["", "", ""])]
    return modules == [""] or not set(float_blocks).isdisjoint(modules)


def _shorten(graph: Any) -> None:
    """Store equal numbers once, and give all but inputs, outputs and weights short names.

    Otherwise a fifth of a small network's file is names.
    """
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    names |= {tensor.name: tensor.name for tensor in graph.initializer if len(tensor.dims) > 1}

    def short(name: str) -> str:
        return names.setdefault(name, f"{len(names):x}") if name else ""

    stored: dict[bytes, str] = {}
    for tensor in list(graph.initializer):
        name, tensor.name = tensor.name, ""
        content = name.encode() if name in names else tensor.SerializeToString()
        if content in stored:
            names[name] = stored[content]
            graph.initializer.remove(tensor)
        else:
            tensor.name = stored[content] = short(name)
    for node in graph.node:
        node.name = ""
        node.input[:] = map(short, node.input)
        node.output[:] = map(short, node.output)
    del graph.value_info[:]


def _round_weights(graph: Any) -> None:
    """Store the weights of convolutions and matrix products in int8, in the graph's place."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    axes = dict(_weights(graph))
    for name in axes.keys() & weights.keys():
        values = numpy_helper.to_array(weights[name])
        others = tuple(axis for axis in range(values.ndim) if axis != axes[name] % values.ndim)
        scale = np.maximum(np.abs(values).max(others, keepdims=True), 1e-12) / np.float32(127)
        rounded = np.round(values / scale).astype(np.int8)
        weights[name].CopyFrom(numpy_helper.from_array(rounded, f"{name}_int8"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        cast = helper.make_node(
            "Cast", [f"{name}_int8"], [f"{name}_cast"], f"{name}_cast", to=TensorProto.FLOAT
        )
        product = helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [name], f"{name}_mul")
        graph.node.insert(0, product)
        graph.node.insert(0, cast)


def _weights(graph: Any) -> Iterator[tuple[str, int]]:
    """Give for every possible weight its name and the axis of the output channels."""
    for node in graph.node:
        if node.op_type == "Conv":
            yield node.input[1], 0
        elif node.op_type == "MatMul":
            yield node.input[1], -1
        elif node.op_type == "Gemm":
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            yield node.input[1], 0 if transposed else -1
