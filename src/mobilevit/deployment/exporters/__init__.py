"""How a network is written in each format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.cost import count_multiply_adds, count_parameters
from mobilevit.deployment.formats import Format
from mobilevit.deployment.manifest import Manifest, Origin
from mobilevit.errors import UserError, unknown
from mobilevit.machine import versions


class Exporter(Protocol):
    """Writes a network in one format. Nothing is checked against the network: ``compare`` does."""

    def export(
        self,
        network: nn.Module,
        contract: Contract,
        path: Path,
        config: ExportConfig,
        calibration: NDArray[np.float32] | None = None,
    ) -> Contract:
        """Write an artefact that says nothing of itself yet.

        Args:
            network: maps (N, 3, H, W) in [0, 1] to the contract's output; it is left as it was.
            contract: how to feed and read it.
            path: the file or folder to write.
            config: the options, as ``Format.resolve`` gives them.
            calibration: (N, 3, H, W) float32 in [0, 1], for int8.

        Returns:
            The contract of the artefact; its layout may be another.
        """

    def annotate(self, path: Path, entries: Mapping[str, str]) -> None:
        """Add entries to what an artefact says of itself; a key that is there gets the new text."""

    def count_quantised(self, path: Path) -> dict[str, Any] | None:
        """Count in an artefact what became int8.

        Returns:
            ``operations``: the share of the convolutions and matrix products that take and give
            int8; ``bytes``: the share of the weights' bytes that is int8. ``None`` where it is
            nothing.
        """

    def count_delegated(self, path: Path) -> float | None:
        """Return the share of the multiply-adds that the runtime's accelerated kernels take.

        ``None`` where the runtime does not tell.
        """


def check(format: Format, network: nn.Module, contract: Contract, config: ExportConfig) -> None:
    """Find out whether a format can hold a network, before any work.

    Raises:
        UserError: when it does not honour an option with this network.
    """
    if contract.output == "detections":
        if not format.detections:
            raise UserError(
                f"{format.title} does not choose among boxes here: take raw (--raw), and choose "
                "among them in the app."
            )
        if config.dynamic_batch:
            raise UserError(
                "boxes are chosen on one picture at a time: take dynamic_batch with raw (--raw)."
            )
    names = dict(network.named_modules())
    for block in config.float_blocks:
        if not block or block not in names:
            raise unknown("block", block, [name for name in names if name])


def write(
    format: Format,
    network: nn.Module,
    contract: Contract,
    path: Path,
    config: ExportConfig | None = None,
    *,
    name: str | None = None,
    bare: nn.Module | None = None,
    origin: Origin | None = None,
    calibration: NDArray[np.float32] | None = None,
) -> None:
    """Write an artefact that says what it is. Nothing is checked against the network yet.

    Args:
        format: which.
        network: maps (N, 3, H, W) to the contract's output; it is left as it was.
        contract: how to feed and read it.
        path: the file or folder to write.
        config: the options.
        name: name of the network.
        bare: what of the network costs are counted of; none: all of it.
        origin: what it was trained on.
        calibration: (N, 3, H, W) float32 in [0, 1], for int8.

    Raises:
        MissingExtraError: when the libraries of the format are not installed.
        UserError: when the format does not honour an option, or its converter fails.
    """
    config = format.resolve(config or ExportConfig())
    check(format, network, contract, config)
    exporter = format.exporter()
    try:
        written = exporter.export(network, contract, path, config, calibration)
    except (UserError, OSError):
        raise
    except Exception as error:
        why = next(iter(str(error).strip().splitlines()), "no reason given")
        raise UserError(
            f"{format.title} is not written: its converter fails on {name or 'this network'} "
            f"({type(error).__name__}: {why})."
        ) from error
    known = {
        "network": name,
        "precision": config.precision,
        "parameters": count_parameters(bare or network),
        "multiply_adds": count_multiply_adds(bare or network, contract.size),
        "quantised": exporter.count_quantised(path),
        "delegated": exporter.count_delegated(path),
        "versions": versions(("mobilevit", "torch", *format.builds)),
    }
    exporter.annotate(path, Manifest(written, known, origin or Origin()).entries())
