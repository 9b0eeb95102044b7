"""Say what is on pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from mobilevit.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mobilevit.tasks import Prediction


@dataclass(frozen=True)
class Predictions(Sequence["Prediction"]):
    """Predictions in the order of the pictures; a sequence.

    Attributes:
        model: the file that made them.
        items: one for each picture that could be read.
        unreadable: the other pictures, and why.
        seconds: for reading and running all of them, without loading the model.
    """

    model: str
    items: tuple[Prediction, ...]
    unreadable: dict[str, str]
    seconds: float

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Prediction, ...]: ...
    def __getitem__(self, index: int | slice) -> Prediction | tuple[Prediction, ...]:
        return self.items[index]

    def to_dict(self) -> dict[str, Any]:
        """Return them as plain values for JSON."""
        return {
            "model": self.model,
            "predictions": [item.to_dict() for item in self.items],
            "unreadable": self.unreadable,
            "seconds": round(self.seconds, 4),
        }

    def print(self, console: Console) -> None:
        """Print a line for each picture."""
        for item in self.items:
            console.print(f"{item.path}: {item.summary()}", markup=False, soft_wrap=True)
        for path, reason in self.unreadable.items():
            console.print(f"{path}: left out, {reason}", markup=False, soft_wrap=True)


def predict(
    model: str | Path,
    pictures: Sequence[str | Path],
    top: int = 5,
    threads: int | None = None,
    batch_size: int = 16,
) -> Predictions:
    """Predict what is on pictures.

    Args:
        model: whatever ``load_predictor`` takes; an ``.onnx`` file needs no torch.
        pictures: files, folders (searched to their depth) and patterns like ``"photos/*.jpg"``.
        top: answers for each picture, 1 or more.
        threads: threads that compute; by default as many as the runtime finds good.
        batch_size: pictures run at a time.

    Raises:
        UserError: when the model cannot be used, or one of ``pictures`` names nothing. A picture
            that cannot be read is no error: it is among ``unreadable``.
    """
    from mobilevit.data.folders import pictures as find_pictures
    from mobilevit.deployment.preprocess import batches
    from mobilevit.deployment.runtimes import load_predictor
    from mobilevit.tasks import get_task

    for name, value in (("top", top), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{name} is {value}; it must be 1 or more.")
    paths = find_pictures(pictures)
    predictor = load_predictor(model, threads)
    task = get_task(predictor.contract.task)
    items: list[Prediction] = []
    unreadable: dict[str, str] = {}
    started = time.perf_counter()
    for batch in batches(paths, predictor.contract, batch_size):
        unreadable |= {str(path): reason for path, reason in batch.unreadable.items()}
        if batch.positions:
            outputs = predictor.run(batch.images)
            names = [paths[position] for position in batch.positions]
            items += task.decode(outputs, predictor.contract, names, top)
    seconds = time.perf_counter() - started
    return Predictions(str(predictor.path), tuple(items), unreadable, seconds)
