"""ONNX: for ONNX Runtime, browsers, OpenVINO and most toolkits of chip makers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from mobilevit import __version__
from mobilevit.deployment.capture import prepare, replace_layers
from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.exporters.attention import SplitAttention
from mobilevit.deployment.quiet import quiet
from mobilevit.networks.mobilevit import Attention

OPSET = 20


class OnnxExporter:
    """Writes a network as one ONNX file, with its weights inside.

    The input is ``image`` (batch, 3, H, W), the output has the name that the contract gives it.
    Attention is left to the runtime, but in int8, where its products are multiplied as integers.
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
        network = prepare(network)
        if config.precision == "int8":
            network = replace_layers(network, {Attention: SplitAttention})
        model = _convert(network, contract, config.dynamic_batch)
        if config.precision and config.precision != "fp32":
            from mobilevit.deployment.exporters.onnx_int8 import quantise

            with tempfile.TemporaryDirectory() as folder:
                floats = Path(folder) / "fp32.onnx"
                onnx.save_model(model, floats)
                model = quantise(floats, calibration, config.precision, config.float_blocks)
        _forget_source(model)
        model.producer_name, model.producer_version = "mobilevit", __version__
        onnx.checker.check_model(model, full_check=True)
        onnx.save_model(model, path)
        return contract

    def annotate(self, path: Path, entries: Mapping[str, str]) -> None:
        """Add entries to the metadata of a file, see ``Exporter``."""
        model = onnx.load_model(path)
        held = {entry.key: entry.value for entry in model.metadata_props} | dict(entries)
        onnx.helper.set_model_props(model, held)
        onnx.save_model(model, path)

    def count_quantised(self, path: Path) -> dict[str, Any] | None:
        """Count in a file what became int8, see ``Exporter``."""
        from mobilevit.deployment.exporters.onnx_int8 import count_quantised

        return count_quantised(path)

    def count_delegated(self, path: Path) -> float | None:
        """Return ``None``: ONNX Runtime has no delegate on the CPU, see ``Exporter``."""
        return None


def _convert(network: nn.Module, contract: Contract, dynamic_batch: bool) -> Any:
    example = torch.zeros(2 if dynamic_batch else 1, 3, *contract.size)
    with quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=[contract.output],
            dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic_batch else None,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _forget_source(model: Any) -> None:
    """Remove the exporter's notes: stack traces, with paths of the machine it ran on."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:]
    for part in (*graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
