"""How good a segmenter is. Only counts of pixels are kept, so that batches and processes add up."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilevit.data.decoding import PictureError
from mobilevit.data.masks import IGNORED, Mask
from mobilevit.errors import UserError
from mobilevit.tasks.outputs import check_finite
from mobilevit.tasks.segmentation.predictions import likeliest


class IntersectionOverUnion:
    """Intersection over union (Jaccard index) and accuracy of pixels, from a confusion matrix.

    Every pixel of every true mask counts once, at the mask's own size, but for the ignored ones.

    Args:
        class_names: the name of each of the K classes.
        output: what is added, ``Contract.output``; either kind is resized to the masks.
    """

    def __init__(self, class_names: Sequence[str], output: str = "pixel_logits") -> None:
        self.class_names = tuple(class_names)
        self.output = output
        self.samples = 0
        self._confusion: NDArray[np.int64] = np.zeros((len(class_names),) * 2, np.int64)

    def update(self, outputs: NDArray[np.floating[Any]], labels: Sequence[Mask]) -> None:
        """Add a batch.

        Args:
            outputs: logits (N, K, h, w), of any h and w.
            labels: the true masks of the N pictures, each of its own size.

        Raises:
            UserError: when a logit is NaN or infinite.
            ValueError: when the shapes do not agree or a mask has another class.
        """
        classes = len(self.class_names)
        if outputs.ndim != 4 or outputs.shape[:2] != (len(labels), classes):
            raise ValueError(
                f"{self.output} of shape {outputs.shape} do not fit {len(labels)} masks of "
                f"{classes} classes"
            )
        check_finite(outputs)
        for logits, label in zip(outputs, labels, strict=True):
            try:
                truth = label.read()
            except PictureError as error:
                warnings.warn(f"left out: {error}", stacklevel=2)
                continue
            counted = truth != IGNORED
            known = truth[counted]
            if known.max(initial=0) >= classes:
                raise ValueError(f"{label}: class {known.max()} does not fit {classes} classes")
            found = likeliest(logits, truth.shape)[counted]
            pairs = np.bincount(known * np.intp(classes) + found, minlength=classes**2)
            self._confusion += pairs.reshape(classes, classes)
            self.samples += 1

    def merge(self, other: IntersectionOverUnion) -> None:
        """Add what another process has counted.

        Raises:
            ValueError: when it counted other classes.
        """
        if other.class_names != self.class_names:
            raise ValueError("metrics of different classes cannot be merged")
        self._confusion += other._confusion
        self.samples += other.samples

    def confusion(self) -> NDArray[np.int64]:
        """Return counts of pixels (K, K); row: the true class, column: the predicted one."""
        return np.array(self._confusion)

    def compute(self) -> dict[str, Any]:
        """Return the numbers so far, of all pixels together.

        A class's intersection over union (IoU) is the number of its pixels that are found, divided
        by the pixels that are of that class in the truth, in the prediction or in both.

        Returns:
            ``miou``: the mean of the IoU over the classes that occur in the truth or in a
            prediction; ``pixel_accuracy``: the share of the pixels that are given the right class;
            ``mean_accuracy``: the mean over the classes that occur in the truth of the share of
            their pixels that are found; ``samples``: pictures; ``pixels``; ``per_class``: for each
            name its ``iou`` and ``accuracy`` (``None`` where there is nothing to divide by) and its
            ``share`` of the true pixels.

        Raises:
            UserError: when every pixel of the masks is ignored.
            ValueError: when there were no samples.
        """
        if not self.samples:
            raise ValueError("no samples were added to this metric")
        right = self._confusion.diagonal().astype(np.float64)
        true, predicted = self._confusion.sum(axis=1), self._confusion.sum(axis=0)
        pixels = int(true.sum())
        if not pixels:
            raise UserError(
                f"all pixels of the {self.samples:,} masks are ignored, so that there is nothing "
                "to measure. Choose other pictures, or name the classes of the masks' numbers."
            )
        union = true + predicted - right
        iou, accuracy = _share(right, union), _share(right, true)
        return {
            "miou": float(np.nanmean(iou)),
            "pixel_accuracy": float(right.sum() / pixels),
            "mean_accuracy": float(np.nanmean(accuracy)),
            "samples": self.samples,
            "pixels": pixels,
            "per_class": {
                name: {
                    "iou": _defined(iou[i]),
                    "accuracy": _defined(accuracy[i]),
                    "share": float(true[i] / pixels),
                }
                for i, name in enumerate(self.class_names)
            },
        }


def _share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Return quotients, NaN where there is nothing to divide by."""
    shares = np.full(len(part), np.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


def _defined(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
