"""ONNX files, run by ONNX Runtime. Needs no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilevit.deployment.manifest import Manifest
from mobilevit.deployment.runtimes.artefact import Artefact, check_threads
from mobilevit.errors import UserError, require


class OnnxPredictor(Artefact):
    """A network in an ONNX file, run by ONNX Runtime on the CPU.

    Args:
        path: a file that ``export`` made.
        threads: threads that compute; by default one for each physical core.

    Raises:
        MissingExtraError: when ONNX Runtime is not installed.
        UserError: when the file cannot be read, or holds no contract.
    """

    format = "onnx"

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        runtime = require("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = check_threads(threads) or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has a dozen kinds, with no base of their own
            raise UserError(
                f"{path}: ONNX Runtime cannot load it, it is damaged or no ONNX file. "
                f"({str(error).strip()})"
            ) from error
        entries = self.session.get_modelmeta().custom_metadata_map
        Manifest.read(entries, Path(path))  # before the input, which in others' files may be any
        self._input = self.session.get_inputs()[0]
        batch, _, *size = self._input.shape
        super().__init__(
            Path(path),
            entries,
            size=tuple(size),
            batch=batch if isinstance(batch, int) else None,
        )

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = self.session.run(None, {self._input.name: images})[0]
        return outputs
