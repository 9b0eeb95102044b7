"""How much memory a model takes to run, measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mobilevit.errors import UserError


def measure_peak_memory(
    model: str, size: tuple[int, int], batch_size: int, threads: int, precision: str
) -> int | None:
    """Return the peak resident memory of a fresh process that loads a model and runs one batch.

    The interpreter and the libraries it needs are part of it.

    Args:
        model: a file, a run folder or the name of a network.
        size: height and width of the input, in pixels.
        batch_size: pictures in the batch.
        threads: threads to run with.
        precision: ``"fp32"`` or ``"bf16"``; an artefact has its own.

    Returns:
        Bytes; ``None`` on a system that does not tell.

    Raises:
        UserError: when that process fails.
    """
    numbers = [*map(str, (*size, batch_size, threads)), precision]
    # The folder one stands in, where Python may look for modules first, is the user's own.
    program = "import sys; sys.path[:] = filter(None, sys.path); from {} import main; main()"
    command = [sys.executable, "-c", program.format(__name__), model, *numbers]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it was killed"]
        raise UserError(f"{model}: measuring its memory failed ({lines[-1]}).")
    return int(done.stdout.split()[-1]) or None


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes, 0 where it is not known.

    On Linux, ``ru_maxrss`` of a new process starts at what its parent had taken; ``VmHWM`` does
    not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Be that process: load the model, run one batch, print the peak."""
    import numpy as np

    from mobilevit.verbs.benchmark import open_model

    model, height, width, batch, threads, precision = sys.argv[1:]
    size = (int(height), int(width))
    predictor = open_model(model, size, int(threads), precision)
    predictor.run(np.zeros((int(batch), 3, *size), np.float32))
    print(peak_memory())
