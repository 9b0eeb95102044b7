"""ONNX: for ONNX Runtime, browsers, OpenVINO and most toolkits of chip makers."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mobilevit import __version__
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.cost import count_multiply_adds, count_parameters
from mobilevit.deployment.runtimes import CONTRACT, NETWORK, ORIGIN, OnnxPredictor, Origin
from mobilevit.errors import require

OPSET = 20


class OnnxExporter:
    """Writes a network as one ONNX file, in fp32, with its weights and its contract inside.

    The input is ``image`` (batch, 3, H, W), the output has the name that the contract gives it.
    Batch-norm is folded into the convolutions by the exporter; attention is left to the runtime.
    """

    suffix = ".onnx"

    def check(self) -> None:
        """Find out whether this machine can export.

        Raises:
            MissingExtraError: with the pip line that installs what is missing.
        """
        for module in ("onnx", "onnxscript", "onnxruntime"):
            require(module, "onnx")

    def export(
        self,
        network: nn.Module,
        contract: Contract,
        path: Path,
        *,
        name: str | None = None,
        bare: nn.Module | None = None,
        origin: Origin | None = None,
        dynamic_batch: bool = False,
    ) -> None:
        """Write the file. Nothing is checked against the network yet: ``compare`` does that.

        Args:
            network: maps (N, 3, H, W) to the contract's output; it is left as it was.
            contract: how to feed and read it.
            path: the file to write.
            name: name of the network, for the file's metadata.
            bare: what of the network costs are counted of, likewise; none: all of it.
            origin: what it was trained on, for the file's metadata.
            dynamic_batch: take any number of pictures instead of one; a few percent slower.
        """
        network = copy.deepcopy(network).float().cpu().eval()
        example = torch.zeros(2 if dynamic_batch else 1, 3, *contract.size)
        batch = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
        with _quiet():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=[contract.output],
                dynamic_shapes=batch,
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
        _forget_source(model)
        model.producer_name, model.producer_version = "mobilevit", __version__
        described = {
            "network": name,
            "precision": "fp32",
            "parameters": count_parameters(bare or network),
            "multiply_adds": count_multiply_adds(bare or network, contract.size),
        }
        _annotate(
            model,
            {
                CONTRACT: contract.to_json(),
                NETWORK: json.dumps(described),
                ORIGIN: json.dumps(asdict(origin or Origin())),
                "class_names": json.dumps(contract.class_names, ensure_ascii=False),
            },
        )
        onnx = require("onnx", "onnx")
        onnx.checker.check_model(model, full_check=True)
        onnx.save_model(model, path)

    def annotate(self, path: Path, entries: Mapping[str, str]) -> None:
        """Add entries to the metadata of a file that ``export`` wrote."""
        onnx = require("onnx", "onnx")
        model = onnx.load_model(path)
        _annotate(model, entries)
        onnx.save_model(model, path)

    def open(self, path: Path) -> OnnxPredictor:
        """Return a predictor that runs a file that ``export`` wrote."""
        return OnnxPredictor(path)

    def made(self, path: Path) -> bool:
        """Return whether a file is one that ``export`` wrote."""
        return path.suffix == self.suffix and CONTRACT.encode() in path.read_bytes()


def _annotate(model: Any, entries: Mapping[str, str]) -> None:
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)


def _forget_source(model: Any) -> None:
    """Remove the exporter's notes: stack traces, with paths of the machine it ran on."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:]
    for part in (*graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's chatter to itself; its errors still come through."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
