"""What became int8 in a ``.pte`` file, and what its backend takes: counted, not believed."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from executorch.backends.xnnpack import serialization
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
from executorch.exir._serialize._flatbuffer import _flatc_decompile
from executorch.exir._serialize._program import deserialize_pte_binary
from executorch.exir.schema import DelegateCall, ExecutionPlan, KernelCall, Program

_PORTABLE = {
    "aten::convolution": lambda shapes: math.prod(shapes[1][1:]),
    "aten::linear": lambda shapes: shapes[0][-1],
    "aten::addmm": lambda shapes: shapes[1][-1],
    "aten::mm": lambda shapes: shapes[0][-1],
    "aten::bmm": lambda shapes: shapes[0][-1],
}
"""Multiply-adds for each output number, from the shapes of the inputs."""

_XNNPACK = {
    "XNNConv2d",
    "XNNConvTranspose2d",
    "XNNDepthwiseConv2d",
    "XNNFullyConnected",
    "XNNBatchMatrixMultiply",
}
_INT8 = {"xnn_datatype_qint8", "xnn_datatype_qcint8"}


@dataclass(frozen=True)
class Product:
    """A convolution or matrix product: its multiply-adds, who takes it, and whether in int8."""

    multiply_adds: int
    delegated: bool
    int8: bool


def count_delegated(path: Path) -> float | None:
    """Return the share of the multiply-adds that the file's backend takes.

    ``None`` where that is Core ML, whose programs are not read here, and products are left to
    ExecuTorch's own kernels.
    """
    program = _read(path)
    left = sum(product.multiply_adds for product in _portable_products(program))
    taken = sum(product.multiply_adds for graph in _graphs(program) for product in _products(graph))
    if not taken:
        return None if left or not program.execution_plan[0].delegates else 1.0
    return taken / (taken + left)


def count_quantised(path: Path) -> dict[str, Any] | None:
    """Return which shares of the products and of the weights' bytes are int8.

    A product with a single output channel is the mean of a norm, and is left out.
    """
    program = _read(path)
    graphs = list(_graphs(program))
    products = [*_portable_products(program), *(p for graph in graphs for p in _products(graph))]
    total = sum(len(buffer.storage) for buffer in program.constant_buffer)
    total += sum(constant["size"] for graph in graphs for constant in graph["constant_data"])
    int8 = sum(_int8_bytes(graph) for graph in graphs)
    if not int8:
        return None
    return {
        "operations": sum(product.int8 for product in products) / len(products),
        "bytes": int8 / total,
    }


def operations(path: Path) -> Counter[str]:
    """Count what a file does.

    Returns:
        By name: ExecuTorch's own operators (``aten::…``), its delegates (``XnnpackBackend``), and
        of XNNPACK's graphs the nodes, with `` int8`` behind those that give 8-bit numbers.
    """
    program = _read(path)
    plan = program.execution_plan[0]
    counted = Counter(
        plan.operators[call.op_index].name
        if isinstance(call, KernelCall)
        else plan.delegates[call.delegate_index].id
        for call in _calls(plan)
    )
    for graph in _graphs(program):
        values = _values(graph)
        for node in graph["xnodes"]:
            int8 = values[node["xnode_union"]["output_id"]]["datatype"] in _INT8
            counted[node["xnode_union_type"] + " int8" * int8] += 1
    return counted


def _read(path: Path) -> Program:
    return deserialize_pte_binary(path.read_bytes()).program


def _calls(plan: ExecutionPlan) -> Iterator[KernelCall | DelegateCall]:
    for chain in plan.chains:
        for instruction in chain.instructions:
            if isinstance(instruction.instr_args, (KernelCall, DelegateCall)):
                yield instruction.instr_args


def _portable_products(program: Program) -> Iterator[Product]:
    plan = program.execution_plan[0]
    for call in _calls(plan):
        if not isinstance(call, KernelCall):
            continue
        inner = _PORTABLE.get(plan.operators[call.op_index].name)
        if inner:
            shapes = [getattr(plan.values[i].val, "sizes", []) for i in call.args]
            yield Product(math.prod(shapes[-1]) * inner(shapes), delegated=False, int8=False)


def _graphs(program: Program) -> Iterator[dict[str, Any]]:
    """Yield the graphs of XNNPACK in a program, as its schema has them."""
    for delegate in program.execution_plan[0].delegates:
        if delegate.id == "XnnpackBackend":
            data = program.backend_delegate_data[delegate.processed.index].data
            header = XNNHeader.from_bytes(data[: XNNHeader.EXPECTED_LENGTH])
            yield _decode(data[header.flatbuffer_offset :][: header.flatbuffer_size])


def _decode(flatbuffer: bytes) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        schema, graph = folder / "schema.fbs", folder / "graph.bin"
        schema.write_bytes(resources.files(serialization).joinpath(schema.name).read_bytes())
        graph.write_bytes(flatbuffer)
        _flatc_decompile(name, str(schema), str(graph))
        text = graph.with_suffix(".json").read_bytes()
    decoded: dict[str, Any] = json.loads(re.sub(rb": (-?)inf\b", rb": \1Infinity", text))
    return decoded


def _values(graph: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Return the tensors of a graph by their ids."""
    values = (value["xvalue_union"] for value in graph["xvalues"])
    tensors = (value.get("tensor_value", value) for value in values)
    return {tensor["id_out"]: tensor for tensor in tensors}


def _products(graph: dict[str, Any]) -> Iterator[Product]:
    values = _values(graph)
    for node in graph["xnodes"]:
        if node["xnode_union_type"] not in _XNNPACK:
            continue
        ids = node["xnode_union"]
        x, y = values[ids["input1_id"]], values[ids["output_id"]]
        if node["xnode_union_type"] == "XNNBatchMatrixMultiply":
            inner = x["dims"][-1]
        else:
            channels, *rest = values[ids["filter_id"]]["dims"]
            if channels == 1 and node["xnode_union_type"] == "XNNFullyConnected":
                continue
            depthwise = node["xnode_union_type"] == "XNNDepthwiseConv2d"
            inner = math.prod(rest[:2] if depthwise else rest)
        int8 = x["datatype"] in _INT8 and y["datatype"] in _INT8
        yield Product(math.prod(y["dims"]) * inner, delegated=True, int8=int8)


def _int8_bytes(graph: dict[str, Any]) -> int:
    int8 = {
        value["constant_buffer_idx"]
        for value in _values(graph).values()
        if value["datatype"] in _INT8 and value["constant_buffer_idx"]
    }
    return sum(int(graph["constant_data"][index]["size"]) for index in int8)
