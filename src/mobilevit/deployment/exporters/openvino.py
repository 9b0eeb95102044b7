"""OpenVINO: for Intel's processors, and for servers and small computers with others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mobilevit.deployment.capture import prepare, replace_layers
from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.exporters.attention import split_projection
from mobilevit.deployment.quiet import quiet
from mobilevit.deployment.runtimes.openvino import WEIGHTS, hash_weights, import_openvino
from mobilevit.networks.mobilevit import Attention

ov: Any = import_openvino()
nncf: Any = import_module("nncf")  # after OpenVINO, see there


class OpenVINOExporter:
    """Writes a network as an ``.xml`` file and the ``.bin`` of its weights.

    The input is ``image`` (batch, 3, H, W), the output has the name that the contract gives it;
    both are float32, whatever lies between. With fp16 and bf16 the weights are stored in fp16;
    in which of them OpenVINO computes is said by whoever runs it, as with what int8 leaves in
    float. Entries lie among the file's own information (``rt_info``), and the hash of the weights.
    """

    def export(
        self,
        network: nn.Module,
        contract: Contract,
        path: Path,
        config: ExportConfig,
        calibration: NDArray[np.float32] | None = None,
    ) -> Contract:
        """Write an artefact that says nothing of itself yet, see ``Exporter``."""
        with quiet():
            network = replace_layers(prepare(network), {Attention: FusedAttention})
            model = _convert(network, contract, config.dynamic_batch)
            if config.precision == "int8":
                assert calibration is not None
                model = _quantise(model, calibration, config.float_blocks)
            elif config.precision == "int8-weights":
                model = nncf.compress_weights(model)
            halved = config.precision in ("fp16", "bf16")
            ov.save_model(model, path, compress_to_fp16=halved)
        self.annotate(path, {WEIGHTS: hash_weights(path)})
        return contract

    def annotate(self, path: Path, entries: Mapping[str, str]) -> None:
        """Add entries to the information in a file, see ``Exporter``; its indentation goes."""
        tree = ElementTree.parse(path)
        for element in tree.iter():
            element.tail = None
            if not (element.text or "").strip():
                element.text = None
        information = tree.getroot().find("rt_info")
        assert information is not None
        held = {entry.get("name"): entry for entry in information.iterfind("info")}
        for name, value in entries.items():
            if name not in held:
                held[name] = ElementTree.SubElement(information, "info", name=name)
            held[name].set("value", value)
        tree.write(path, encoding="utf-8", xml_declaration=True)

    def count_quantised(self, path: Path) -> dict[str, Any] | None:
        """Count in a file what became int8, see ``Exporter``.

        An operation counts when all that it multiplies is int8. What it gives is int8 too where
        the next one takes that: OpenVINO fuses the rounding behind it into its kernel. Of the two
        products of an attention the second does not count, for the softmax stays in float.
        """
        operations = ov.Core().read_model(path).get_ops()
        heavy = [taken for operation in operations for taken in _products(operation)]
        stored = {True: 0, False: 0}
        for operation in operations:
            if operation.get_type_name() == "Constant" and operation.get_element_type().is_real():
                stored[False] += operation.get_byte_size()
            elif _is_int8(operation):
                stored[True] += operation.get_byte_size()
        if not stored[True]:
            return None
        return {
            "operations": sum(map(all, heavy)) / len(heavy),
            "bytes": stored[True] / sum(stored.values()),
        }

    def count_delegated(self, path: Path) -> float | None:
        """Return ``None``: all of it is run by one plug-in, see ``Exporter``."""
        return None


class FusedAttention(nn.Module):
    """Multi-head self-attention with a layer each for queries, keys and values.

    OpenVINO fuses it with the transposes around it. Of a joint layer, which is cut up again, it
    leaves some of them, and computes other numbers where there are few tokens (2026.4, on x86).
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.query, self.key, self.value = split_projection(attention)
        self.out = attention.out

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        split = (batch, tokens, self.heads, width // self.heads)
        q, k, v = (
            layer(x).reshape(split).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        merged: Tensor = self.out(y.transpose(1, 2).reshape(batch, tokens, width))
        return merged


def _convert(network: nn.Module, contract: Contract, dynamic_batch: bool) -> Any:
    """Return OpenVINO's model of a network; its operations are named after the modules."""
    example = torch.zeros(2 if dynamic_batch else 1, 3, *contract.size)
    trace: Any = torch.jit.trace
    traced = trace(network, example, strict=False, check_trace=False)
    model = ov.convert_model(
        traced,
        example_input=example,
        input=[-1 if dynamic_batch else 1, *example.shape[1:]],
    )
    model.input(0).set_names({"image"})
    model.output(0).set_names({contract.output})
    return model


def _quantise(model: Any, calibration: NDArray[np.float32], float_blocks: tuple[str, ...]) -> Any:
    """Round weights, one range for each output channel, and activations, but no boxes.

    What belongs to no module but the network itself is the arithmetic on boxes.
    """
    patterns = [rf"__module\.{re.escape(block)}[./].*" for block in float_blocks]
    return nncf.quantize(
        model,
        nncf.Dataset(list(calibration[:, None])),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(calibration),
        ignored_scope=nncf.IgnoredScope(patterns=[*patterns, "aten::.*"], validate=False),
    )


def _products(operation: Any) -> Iterator[tuple[bool, ...]]:
    """Give for every product in an operation whether each of its factors is int8."""
    kind = operation.get_type_name()
    if kind in ("Convolution", "GroupConvolution", "MatMul"):
        yield tuple(_takes_int8(operation, index) for index in range(2))
    elif kind == "ScaledDotProductAttention":
        yield tuple(_takes_int8(operation, index) for index in range(2))
        yield (False,)


def _takes_int8(operation: Any, index: int) -> bool:
    """Return whether an input was rounded to int8, wherever it was moved to since."""
    source = operation.input_value(index).get_node()
    while source.get_type_name() in ("Reshape", "Transpose", "Squeeze", "Split", "Slice", "Concat"):
        source = source.input_value(0).get_node()
    if source.get_type_name() == "FakeQuantize":
        return True
    while source.get_type_name() in ("Multiply", "Subtract", "Convert"):
        source = source.input_value(0).get_node()
    return _is_int8(source)


def _is_int8(operation: Any) -> bool:
    return operation.get_type_name() == "Constant" and operation.get_element_type() in (
        ov.Type.i8,
        ov.Type.u8,
    )
