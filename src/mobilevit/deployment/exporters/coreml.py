"""Core ML: for iPhones, iPads and Macs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from mobilevit import __version__
from mobilevit.deployment.capture import Decompositions, capture, prepare
from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.mil import Program
from mobilevit.deployment.quiet import quiet
from mobilevit.deployment.runtimes.coreml import (
    SPEC,
    WEIGHTS,
    WEIGHTS_HASH,
    hash_of,
    load_coremltools,
    read_spec,
)


class CoreMLExporter:
    """Writes a network as an ML program: an ``.mlpackage``, which is a folder, for iOS 16 or later.

    The input is ``image``, a picture of 8 bit in RGB, which the program divides by 255; the output,
    in float32, has the name that the contract gives it. A network computes in half precision unless
    it is asked for fp32; with int8-weights, weights alone are stored in int8, per channel.
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
        program = capture(prepare(network), contract.size, decompositions=FUSED_NORM)
        with quiet():
            model = _convert(program, contract, config.precision == "fp32")
            if config.precision == "int8-weights":
                model = _compress(model)
            model.author, model.version = "mobilevit", __version__
            model.short_description = (
                f"{contract.task}: '{contract.output}' of a picture of {contract.size[1]} x "
                f"{contract.size[0]} pixels; the metadata say how to prepare it and what they mean"
            )
            model.save(str(path))
        (path / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
        self.annotate(path, {WEIGHTS_HASH: hash_of(path / WEIGHTS)})
        return replace(contract, layout="image")

    def annotate(self, path: Path, entries: Mapping[str, str]) -> None:
        """Add entries to the metadata of a package, see ``Exporter``."""
        spec = read_spec(path)
        spec.description.metadata.userDefined.update(entries)
        (path / SPEC).write_bytes(spec.SerializeToString())

    def count_quantised(self, path: Path) -> dict[str, Any] | None:
        """Count what became int8: weights alone, see ``Exporter``."""
        weights = Program.read(read_spec(path), (path / WEIGHTS).parent, str(path)).weights
        if not weights["int8"]:
            return None
        return {"operations": 0.0, "bytes": weights["int8"] / weights.total()}

    def count_delegated(self, path: Path) -> float | None:
        """Return ``None``: the device chooses, see ``Exporter``."""
        return None


def fused_group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    """A norm over all of a picture: (B, C, H, W), as one layer norm with the channels' own scales.

    Core ML has no group norm; coremltools writes it as nine operations, one of which squares, and
    in half precision that overflows from 256 on.
    """
    assert groups == 1
    assert weight is not None
    assert bias is not None
    normed = F.layer_norm(x, x.shape[1:], eps=eps)
    return normed * weight[:, None, None] + bias[:, None, None]


FUSED_NORM: Decompositions = {torch.ops.aten.group_norm.default: fused_group_norm}
"""How MobileViTv2's norms are written."""


def _convert(program: ExportedProgram, contract: Contract, single: bool) -> Any:
    ct = load_coremltools()
    height, width = contract.size
    image = ct.ImageType(
        "image", (1, 3, height, width), scale=1 / 255, color_layout=ct.colorlayout.RGB
    )
    return ct.convert(
        program,
        convert_to="mlprogram",
        inputs=[image],
        outputs=[ct.TensorType(contract.output, dtype=np.float32)],
        compute_precision=ct.precision.FLOAT32 if single else ct.precision.FLOAT16,
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )


def _compress(model: Any) -> Any:
    """Return a model whose larger weights are of 8 bit, one scale for each output."""
    load_coremltools()
    from coremltools.optimize import coreml

    config = coreml.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8")
    return coreml.linear_quantize_weights(model, coreml.OptimizationConfig(config))
