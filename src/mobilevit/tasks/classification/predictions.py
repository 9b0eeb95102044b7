"""From logits to names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilevit.data.drawing import caption


@dataclass(frozen=True)
class Label:
    """A class name and its probability, from 0 to 1."""

    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most probable labels of a picture, best first."""

    path: str
    labels: tuple[Label, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {"path": self.path, "labels": [asdict(label) for label in self.labels]}

    def summary(self) -> str:
        """Return the labels as one line for people."""
        said = ", ".join(f"{label.name} {label.probability:.1%}" for label in self.labels)
        return said or "nothing sure enough"

    def draw(self, picture: Image.Image) -> Image.Image:
        """Return a copy of the picture with the labels in its upper left corner."""
        return caption(picture, [f"{label.name} {label.probability:.0%}" for label in self.labels])


def decode(
    logits: NDArray[np.floating[Any]],
    class_names: Sequence[str],
    paths: Sequence[str | Path],
    top: int,
    threshold: float = 0.0,
) -> list[Prediction]:
    """Return a prediction for each row of logits.

    Args:
        logits: (N, K).
        class_names: K names.
        paths: the N pictures.
        top: labels in each prediction, 1 or more; no more than K are given. Of equally probable
            labels the one that comes first in ``class_names`` is first.
        threshold: the smallest probability of a label.

    Raises:
        ValueError: when the shapes do not agree or ``top`` is below 1.
    """
    if logits.shape != (len(paths), len(class_names)):
        raise ValueError(
            f"{len(paths)} pictures and {len(class_names)} classes do not fit logits of shape "
            f"{logits.shape}"
        )
    if top < 1:
        raise ValueError(f"top is {top}; it must be 1 or more")
    probabilities = softmax(logits)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [
        Prediction(
            str(path),
            tuple(Label(class_names[i], float(row[i])) for i in order if row[i] >= threshold),
        )
        for path, row, order in zip(paths, probabilities, best, strict=True)
    ]


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return probabilities that sum to 1 over the last axis, of any finite logits."""
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = exponents / exponents.sum(axis=-1, keepdims=True)
    return probabilities
