"""OpenVINO's files, run by OpenVINO on the CPU. Needs no torch."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from mobilevit.deployment.manifest import Manifest
from mobilevit.deployment.runtimes.artefact import Artefact, check_threads
from mobilevit.errors import UserError, require

WEIGHTS = "openvino.weights"
"""Key of the SHA-256 of the weights, which lie in a file of their own."""


class OpenVINOPredictor(Artefact):
    """A network in an ``.xml`` file and the ``.bin`` of its weights beside it.

    OpenVINO would compute in bfloat16 wherever the processor can. Here that is so in bf16, and in
    int8 for what stays in float; fp32, fp16 and int8-weights are computed in float32.

    Args:
        path: an ``.xml`` file that ``export`` made.
        threads: threads that compute; by default one for each physical core.

    Raises:
        MissingExtraError: when OpenVINO is not installed.
        UserError: when the files cannot be read, do not belong together, or hold no contract.
    """

    format = "openvino"

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        runtime = import_openvino()
        path = Path(path)
        entries = read_entries(path)
        low = Manifest.read(entries, path).network.get("precision") in ("bf16", "int8")
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if low else "f32",
        }
        if check_threads(threads):
            options["INFERENCE_NUM_THREADS"] = str(threads)
        _check_weights(path, entries)
        try:
            self._compiled = runtime.Core().compile_model(str(path), "CPU", options)
        except RuntimeError as error:
            raise UserError(
                f"{path}: OpenVINO cannot load it, it is damaged or of a newer OpenVINO. "
                f"({str(error).strip()})"
            ) from error
        batch, _, *size = self._compiled.input(0).partial_shape
        super().__init__(
            path,
            entries,
            size=tuple(side.get_length() for side in size),
            batch=batch.get_length() if batch.is_static else None,
        )

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map pictures to outputs, see ``Artefact``."""
        outputs: NDArray[np.float32] = self._compiled(images)[0]
        return outputs


def import_openvino() -> ModuleType:
    """Import OpenVINO with nothing told to its makers: its import alone would report home.

    OpenVINO and NNCF do without the library that reports where that cannot be imported.

    Raises:
        MissingExtraError: when OpenVINO is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return require("openvino", "openvino")


def read_entries(path: Path) -> dict[str, str]:
    """Return what an ``.xml`` file says of itself.

    Raises:
        UserError: when it cannot be read.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: it is damaged or no OpenVINO file. ({error})") from error
    held = root.iterfind("rt_info/info")
    return {entry.get("name", ""): entry.get("value", "") for entry in held}


def hash_weights(path: Path) -> str:
    """Return the SHA-256 of the weights of an ``.xml`` file."""
    return hashlib.sha256(path.with_suffix(".bin").read_bytes()).hexdigest()


def _check_weights(path: Path, entries: dict[str, str]) -> None:
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise UserError(f"{path}: its weights are missing; {weights.name} belongs beside it.")
    if hash_weights(path) != entries.get(WEIGHTS):
        raise UserError(
            f"{path}: {weights.name} beside it is damaged, or holds the weights of another file. "
            "The two are only good together."
        )
