"""One way to run a network, whatever it is stored in."""

from __future__ import annotations

from pathlib import Path

from mobilevit.deployment.formats import format_of
from mobilevit.deployment.runtimes.artefact import Predictor
from mobilevit.files import find_model

__all__ = ["Predictor", "load_predictor"]


def load_predictor(
    model: str | Path, threads: int | None = None, precision: str = "fp32"
) -> Predictor:
    """Open a network to run it.

    Args:
        model: an artefact that ``export`` made, which needs its runtime alone, or whatever
            ``load_pretrained`` takes: a run folder, a checkpoint, weights of another library, a
            name on the Hugging Face hub.
        threads: threads that compute; by default as many as the runtime finds good.
        precision: ``"fp32"`` or ``"bf16"``, of a checkpoint; an artefact has its own.

    Raises:
        MissingExtraError: when the artefact's runtime is not installed.
        UserError: when there is no such model, it cannot be read, or has no classifier.
    """
    format = format_of(model)
    if format:
        return format.open(_found(Path(model)), threads)
    from mobilevit.checkpoints import load_pretrained
    from mobilevit.deployment.runtimes.pytorch import TorchPredictor

    return TorchPredictor.from_pretrained(load_pretrained(model), threads, precision)


def _found(path: Path) -> Path:
    """Return an artefact that is there; one may be a folder."""
    return path if path.is_dir() else find_model(path)
