"""ExecuTorch: for apps on Android and iOS, and for Linux on small computers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram

from mobilevit.deployment.attachment import attach
from mobilevit.deployment.capture import capture, is_inside, prepare
from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.quiet import quiet
from mobilevit.deployment.runtimes.executorch import BACKEND


class ExecuTorchExporter:
    """Writes a network as one ``.pte`` file, with its weights inside.

    The input is (1, 3, H, W) and there is one output. With the backend ``"xnnpack"`` it is
    rewritten so that XNNPACK takes all of it; ``"coreml"`` leaves it to Apple's converter, in fp16,
    and the file runs on Apple's machines alone.
    """

    def export(
        self,
        network: nn.Module,
        contract: Contract,
        path: Path,
        config: ExportConfig,
        calibration: NDArray[np.float32] | None = None,
    ) -> Contract:
        """Write an artefact that says nothing of itself yet but its backend, see ``Exporter``."""
        backend = config.backend or "xnnpack"
        with quiet():
            if backend == "coreml":
                program, partitioner = _for_coreml(prepare(network), contract)
            else:
                pictures = calibration if config.precision == "int8" else None
                program, partitioner = _for_xnnpack(
                    prepare(network), contract, pictures, config.float_blocks
                )
            lowered = to_edge_transform_and_lower(program, partitioner=[partitioner])
            written = lowered.to_executorch(ExecutorchBackendConfig())
        path.write_bytes(written.buffer)
        attach(path, {BACKEND: backend})
        return contract

    def annotate(self, path: Path, entries: Mapping[str, str]) -> None:
        """Add entries to the end of a file, see ``Exporter``."""
        attach(path, entries)

    def count_quantised(self, path: Path) -> dict[str, Any] | None:
        """Count in a file what became int8, see ``Exporter``."""
        from mobilevit.deployment.exporters.executorch_counts import count_quantised

        return count_quantised(path)

    def count_delegated(self, path: Path) -> float | None:
        """Return the share of the multiply-adds that the backend takes, see ``Exporter``."""
        from mobilevit.deployment.exporters.executorch_counts import count_delegated

        return count_delegated(path)


def _for_coreml(network: nn.Module, contract: Contract) -> tuple[ExportedProgram, Any]:
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    return capture(network, contract.size), CoreMLPartitioner()


def _for_xnnpack(
    network: nn.Module,
    contract: Contract,
    calibration: NDArray[np.float32] | None,
    float_blocks: tuple[str, ...],
) -> tuple[ExportedProgram, Any]:
    from mobilevit.deployment.exporters.xnnpack import (
        DECOMPOSITIONS,
        MatmulLayerNorm,
        partitioner,
        rewrite,
    )

    network = rewrite(network)
    program = capture(network, contract.size, decompositions=DECOMPOSITIONS)
    if calibration is not None:
        norms = (n for n, module in network.named_modules() if isinstance(module, MatmulLayerNorm))
        quantised = _quantise(program.module(), calibration, (*float_blocks, *norms))
        program = capture(quantised, contract.size)
    return program, partitioner()


def _quantise(
    graph: nn.Module, calibration: NDArray[np.float32], floats: tuple[str, ...]
) -> nn.Module:
    """Return a captured network with rounding to int8 in its graph (torchao's PT2E).

    Weights are rounded per channel, activations per tensor, to the ranges that the pictures show.

    Args:
        graph: a program's module.
        calibration: (N, 3, H, W) pictures.
        floats: names of the modules that stay in float; the insides of norms are among them.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer()
    quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True))
    quantizer.set_filter_function(lambda node: not is_inside(node, floats))
    observed = prepare_pt2e(graph, quantizer)
    with torch.no_grad():
        for picture in calibration:
            observed(torch.from_numpy(picture[None]))
    quantised: nn.Module = convert_pt2e(observed)
    return quantised
