"""What stands in a ``.tflite`` file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

from mobilevit.deployment.quiet import quiet

HEAVY = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL")


def take_and_give_floats(content: bytes) -> bytes:
    """Return a file whose input and output are float32 instead of int8, and smaller.

    The converter takes the rounding off both ends; runtimes in browsers feed and read float alone.
    The names of all tensors between, places in PyTorch's code, are a fifth of a small file.
    """
    model = flatbuffer_utils.read_model_from_bytearray(content)
    (graph,) = model.subgraphs
    (signature,) = model.signatureDefs
    operators = schema.BuiltinOperator
    (taken,), (given,) = graph.inputs, graph.outputs
    if graph.tensors[taken].type == schema.TensorType.INT8:
        graph.inputs = [_float_like(graph, taken)]
        signature.inputs[0].tensorIndex = graph.inputs[0]
        graph.operators.insert(0, _operator(model, operators.QUANTIZE, graph.inputs[0], taken))
    if graph.tensors[given].type == schema.TensorType.INT8:
        graph.outputs = [_float_like(graph, given)]
        signature.outputs[0].tensorIndex = graph.outputs[0]
        graph.operators.append(_operator(model, operators.DEQUANTIZE, given, graph.outputs[0]))
    for tensor in graph.tensors:
        tensor.name = None
    graph.tensors[graph.inputs[0]].name = signature.inputs[0].name
    graph.tensors[graph.outputs[0]].name = signature.outputs[0].name
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _float_like(graph: Any, index: int) -> int:
    """Add a tensor of the shape of another one, in float32; return its index."""
    other = graph.tensors[index]
    tensor = schema.TensorT()
    tensor.shape, tensor.shapeSignature = other.shape, other.shapeSignature
    tensor.hasRank = other.hasRank
    tensor.type = schema.TensorType.FLOAT32
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _operator(model: Any, code: int, source: int, target: int) -> Any:
    codes = [entry.builtinCode for entry in model.operatorCodes]
    if code not in codes:
        entry = schema.OperatorCodeT()
        entry.builtinCode = entry.deprecatedBuiltinCode = code
        model.operatorCodes.append(entry)
        codes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = codes.index(code)
    operator.inputs, operator.outputs = [source], [target]
    return operator


def count_operators(path: Path) -> dict[str, int]:
    """Return how many operators of each kind a file has, the most frequent first."""
    model = flatbuffer_utils.read_model(str(path))
    kinds = [_kind(model, operator) for operator in model.subgraphs[0].operators]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds), key=kinds.count, reverse=True)}


def count_quantised(path: Path) -> dict[str, Any] | None:
    """Count in a file what became int8, see ``Exporter``."""
    model = flatbuffer_utils.read_model(str(path))
    graph, int8 = model.subgraphs[0], schema.TensorType.INT8
    both = [
        all(graph.tensors[i].type == int8 for i in (operator.inputs[0], operator.outputs[0]))
        for operator in _heavy(model)
    ]
    constants = {i for operator in _heavy(model) for i in operator.inputs[1:] if i >= 0}
    sizes = {i: _bytes(model, graph.tensors[i]) for i in constants}
    small = sum(size for i, size in sizes.items() if graph.tensors[i].type == int8)
    if not small:
        return None
    return {"operations": sum(both) / len(both), "bytes": small / sum(sizes.values())}


def count_delegated(path: Path) -> float:
    """Return the share of the multiply-adds that XNNPACK takes."""
    model = flatbuffer_utils.read_model(str(path))
    # Kept from joining what it takes, the delegate shows for every operator whether it takes it.
    with quiet():  # XNNPACK tells of itself
        interpreter = Interpreter(str(path), experimental_disable_delegate_node_fusion=True)
    interpreter.allocate_tensors()
    nodes = interpreter._get_ops_details()
    taken = {i for node in nodes if node["op_name"] == "DELEGATE" for i in node["outputs"]}
    costs = {operator.outputs[0]: _multiply_adds(model, operator) for operator in _heavy(model)}
    return sum(cost for output, cost in costs.items() if output in taken) / sum(costs.values())


def _kind(model: Any, operator: Any) -> str:
    return str(flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex))


def _heavy(model: Any) -> Iterator[Any]:
    return (o for o in model.subgraphs[0].operators if _kind(model, o) in HEAVY)


def _bytes(model: Any, tensor: Any) -> int:
    data = model.buffers[tensor.buffer].data
    return 0 if data is None else len(data)


def _multiply_adds(model: Any, operator: Any) -> int:
    """Return how many numbers come out, times the products that each is a sum of."""
    tensors = model.subgraphs[0].tensors
    taken, weight, given = (
        [int(side) for side in tensors[i].shape]
        for i in (*operator.inputs[:2], operator.outputs[0])
    )
    kind = _kind(model, operator)
    if kind == "CONV_2D":  # weights are (outputs, height, width, inputs)
        return math.prod(given) * math.prod(weight[1:])
    if kind == "DEPTHWISE_CONV_2D":  # (1, height, width, channels)
        return math.prod(given) * math.prod(weight[1:3])
    return math.prod(taken) * given[-1]
