"""LiteRT's files, run by LiteRT on the CPU. Needs no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilevit.deployment.attachment import read_attached
from mobilevit.deployment.quiet import quiet
from mobilevit.deployment.runtimes.artefact import Artefact, check_threads
from mobilevit.errors import UserError, require


class LiteRTPredictor(Artefact):
    """A network in a ``.tflite`` file, run by LiteRT's interpreter with XNNPACK.

    Args:
        path: a file that ``export`` made.
        threads: threads that compute; by default one, LiteRT's own choice.

    Raises:
        MissingExtraError: when LiteRT is not installed.
        UserError: when the file cannot be read, or holds no contract of its own.
    """

    format = "litert"

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        runtime = require("ai_edge_litert.interpreter", "litert")
        check_threads(threads)
        path = Path(path)
        entries = read_attached(path)
        try:
            with quiet():  # XNNPACK tells of itself
                self.interpreter = runtime.Interpreter(str(path), num_threads=threads)
                self.interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"{path}: LiteRT cannot load it, it is damaged or of a newer LiteRT. "
                f"({str(error).strip()})"
            ) from error
        (self._input,) = self.interpreter.get_input_details()
        (self._output,) = self.interpreter.get_output_details()
        batch, *size, _ = map(int, self._input["shape"])
        super().__init__(path, entries, size=tuple(size), batch=batch)

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map one picture to its output, see ``Artefact``."""
        # Channel by channel this takes a third of the time of ``np.ascontiguousarray``.
        channels_last = np.stack([images[:, channel] for channel in range(3)], axis=-1)
        self.interpreter.set_tensor(self._input["index"], channels_last)
        self.interpreter.invoke()
        outputs: NDArray[np.float32] = self.interpreter.get_tensor(self._output["index"])
        return outputs
