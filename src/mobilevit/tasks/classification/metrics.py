"""How good a classifier is. Only counts are kept, so that batches and processes add up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilevit.tasks.outputs import check_finite

_TOP = 5


class Accuracy:
    """Accuracy, cross-entropy and the confusion matrix of a classifier.

    Args:
        class_names: the name of each of the K outputs.

    Attributes:
        confusion: (K, K) counts; row: the true class, column: the predicted one.
        in_top5: samples whose true class was among the five highest logits.
        loss: sum of the cross-entropy over the samples.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self.confusion: NDArray[np.int64] = np.zeros((len(class_names),) * 2, np.int64)
        self.in_top5 = 0
        self.loss = 0.0

    def update(self, outputs: NDArray[np.floating[Any]], labels: Sequence[int]) -> None:
        """Add a batch.

        Args:
            outputs: logits (N, K).
            labels: indices (N,) of the true classes, from 0 to K - 1.

        Raises:
            UserError: when a logit is NaN or infinite.
            ValueError: when the shapes do not agree or a target is out of range.
        """
        classes, targets = len(self.class_names), np.asarray(labels, np.int64)
        if outputs.ndim != 2 or outputs.shape[1] != classes or targets.shape != outputs.shape[:1]:
            raise ValueError(
                f"logits of shape {outputs.shape} and targets of shape {targets.shape} do not fit "
                f"{classes} classes"
            )
        if not len(targets):
            return
        if targets.min() < 0 or targets.max() >= classes:
            raise ValueError(
                f"targets from {targets.min()} to {targets.max()} do not fit {classes} classes"
            )
        check_finite(outputs)
        logits = outputs.astype(np.float64)
        truth = logits[np.arange(len(targets)), targets]
        highest = logits.max(axis=1)
        normaliser = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
        self.loss += float((normaliser - truth).sum())
        self.in_top5 += int(((logits > truth[:, None]).sum(axis=1) < _TOP).sum())
        np.add.at(self.confusion, (targets, logits.argmax(axis=1)), 1)

    def merge(self, other: Accuracy) -> None:
        """Add what another process has counted.

        Raises:
            ValueError: when it counted other classes.
        """
        if other.class_names != self.class_names:
            raise ValueError("metrics of different classes cannot be merged")
        self.confusion += other.confusion
        self.in_top5 += other.in_top5
        self.loss += other.loss

    def compute(self) -> dict[str, Any]:
        """Return the numbers so far.

        Returns:
            ``top1`` and, with more than five classes, ``top5``: shares from 0 to 1; ``loss``: mean
            cross-entropy in nats; ``samples``; ``per_class``: for each name its ``recall``,
            ``precision`` (``None`` where there is nothing to divide by) and ``support``;
            ``confusion``: rows of counts, a row for each true class.

        Raises:
            ValueError: when there were no samples.
        """
        samples = int(self.confusion.sum())
        if not samples:
            raise ValueError("no samples were added to this metric")
        right, support = self.confusion.diagonal(), self.confusion.sum(axis=1)
        predicted = self.confusion.sum(axis=0)
        results: dict[str, Any] = {"top1": float(right.sum() / samples)}
        if len(self.class_names) > _TOP:
            results["top5"] = self.in_top5 / samples
        results["loss"] = self.loss / samples
        results["samples"] = samples
        results["per_class"] = {
            name: {
                "recall": _share(right[i], support[i]),
                "precision": _share(right[i], predicted[i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(self.class_names)
        }
        results["confusion"] = self.confusion.tolist()
        return results


def _share(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None
