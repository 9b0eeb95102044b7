"""ExecuTorch programs. Their Python runtime imports torch itself."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilevit.deployment.attachment import read_attached
from mobilevit.deployment.runtimes.artefact import Artefact, check_threads
from mobilevit.errors import UserError, require

BACKEND = "mobilevit.backend"
"""Key of the entry that says who computes."""

_NAMES = {"xnnpack": "XnnpackBackend", "coreml": "CoreMLBackend"}


class ExecuTorchPredictor(Artefact):
    """A network in a ``.pte`` file, run by ExecuTorch.

    Args:
        path: a file that ``export`` made.
        threads: threads that compute; by default as many as ExecuTorch chooses. All programs of a
            process share one pool of threads, which is set anew when two of them differ in this.

    Raises:
        MissingExtraError: when ExecuTorch is not installed.
        UserError: when the file cannot be read, holds no contract, or is for other machines.
    """

    format = "executorch"

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        self.threads = check_threads(threads)
        entries = read_attached(Path(path))
        self.backend = entries.get(BACKEND, "xnnpack")
        with contextlib.redirect_stderr(io.StringIO()):
            self._runtime = require("executorch.runtime", "executorch").Runtime.get()
        if not self._runtime.backend_registry.is_available(_NAMES.get(self.backend, self.backend)):
            raise UserError(
                f"{path}: it is for ExecuTorch's backend {self.backend}, which is not on this "
                "machine. To run one here, export with backend xnnpack."
            )
        self._file = Path(path)
        self._changes = -1
        try:
            size = self._forward().metadata.input_tensor_meta(0).sizes()
        except (RuntimeError, ValueError, IndexError, KeyError) as error:
            raise UserError(
                f"{path}: ExecuTorch cannot load it, it is damaged or of another version. ({error})"
            ) from error
        super().__init__(Path(path), entries, size=tuple(size[2:]), batch=1)

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        (output,) = self._forward().execute((torch.from_numpy(images),))
        outputs: NDArray[np.float32] = output.numpy()
        return outputs

    def describe(self) -> dict[str, Any]:
        """Return what is known of it, with its ``backend``; see ``Predictor``."""
        return {**super().describe(), "backend": self.backend}

    def _forward(self) -> Any:
        """Return the program, loaded again where the pool has changed: XNNPACK keeps the old."""
        changes = _pool.set(self.threads)
        if changes != self._changes:
            with contextlib.redirect_stderr(io.StringIO()):
                self._program = self._runtime.load_program(self._file)  # kept: no method does it
                self._method = self._program.load_method("forward")
            self._changes = changes
        return self._method


class _Pool:
    """The threads that all programs of the process share."""

    def __init__(self) -> None:
        self.usual: int | None = None
        self.changes = 0

    def set(self, threads: int | None) -> int:
        """Make them as many as wanted, and return how often they were changed."""
        library = require("executorch.extension.pybindings.portable_lib", "executorch")
        with contextlib.redirect_stderr(io.StringIO()):
            now = library._threadpool_get_thread_count()
            self.usual = self.usual or now
            wanted = threads or self.usual
            if now != wanted:
                library._unsafe_reset_threadpool(wanted)
                self.changes += 1
        return self.changes


_pool = _Pool()
