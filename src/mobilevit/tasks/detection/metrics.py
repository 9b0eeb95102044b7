"""How good a detector is: COCO's average precision, counted by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilevit.data.boxes import Boxes
from mobilevit.errors import UserError, require
from mobilevit.tasks.detection.predictions import chosen
from mobilevit.tasks.outputs import check_finite

_SIZES = ("small", "medium", "large")


class AveragePrecision:
    """Average precision and recall as COCO measures them, over classes, overlaps and sizes.

    The truth and the detections of every picture are kept until ``compute``, for a detection is
    right or wrong only beside all others.

    Args:
        class_names: the name of each of the K classes.
        output: what is added, ``Contract.output``.

    Raises:
        MissingExtraError: when faster-coco-eval is not installed.
    """

    def __init__(self, class_names: Sequence[str], output: str = "detections") -> None:
        require("faster_coco_eval", "detection")
        self.class_names = tuple(class_names)
        self.output = output
        self._targets: list[Boxes] = []
        self._detections: list[NDArray[np.float32]] = []

    def update(self, outputs: NDArray[np.floating[Any]], labels: Sequence[Boxes]) -> None:
        """Add a batch.

        Args:
            outputs: as ``Contract`` has them; of detections a score of 0 marks a slot that is
                not used.
            labels: the true boxes of the N pictures.

        Raises:
            UserError: when an output is NaN or infinite.
            ValueError: when the shapes do not agree or a class is out of range.
        """
        classes = len(self.class_names)
        check_finite(outputs)
        outputs = chosen(outputs, self.output)
        if outputs.ndim != 3 or outputs.shape[2] != 6 or len(labels) != len(outputs):
            raise ValueError(
                f"detections of shape {outputs.shape} do not fit the boxes of {len(labels)} "
                "pictures"
            )
        found = [rows[rows[:, 4] > 0].astype(np.float32) for rows in outputs]
        named = [*(rows[:, 5] for rows in found), *(boxes.labels(True) for boxes in labels)]
        for indices in named:
            if len(indices) and not 0 <= indices.min() <= indices.max() < classes:
                raise ValueError(
                    f"classes from {indices.min()} to {indices.max()} do not fit {classes} classes"
                )
        self._targets += labels
        self._detections += found

    def merge(self, other: AveragePrecision) -> None:
        """Add what another process has gathered.

        Raises:
            ValueError: when it gathered other classes.
        """
        if other.class_names != self.class_names:
            raise ValueError("metrics of different classes cannot be merged")
        self._targets += other._targets
        self._detections += other._detections

    def compute(self) -> dict[str, Any]:
        """Return the numbers so far.

        Returns:
            ``map``: average precision, mean over the classes that have boxes and the overlaps
            (IoU) 0.5, 0.55 … 0.95; ``ap50`` and ``ap75``: at one overlap; ``ap_small``,
            ``ap_medium``, ``ap_large``: of objects of less than 32², up to 96² and more pixels,
            ``None`` where there is none; ``recall``: the share of boxes found, mean over classes
            and overlaps; ``samples``: pictures; ``boxes``; ``per_class``: for each name its
            ``boxes``, ``map`` and ``ap50`` (``None`` without boxes). Ignored boxes count nowhere.

        Raises:
            UserError: when faster-coco-eval is not installed, or when there is no box to be found.
            ValueError: when there were no samples.
        """
        boxes = self._count()
        if not boxes.sum():
            raise UserError(
                f"none of the {len(self._targets):,} pictures has a box, so that there is no "
                "average precision. Add boxes, or choose other pictures."
            )
        found = self._evaluate()
        precision = found["precision"][..., -1]  # (overlaps, recalls, K, sizes)
        everything = precision[..., 0]
        results: dict[str, Any] = {
            "map": _mean(everything),
            "ap50": _mean(everything[0]),
            "ap75": _mean(everything[5]),
        }
        for i, name in enumerate(_SIZES, start=1):
            results[f"ap_{name}"] = _mean(precision[..., i])
        results["recall"] = _mean(found["recall"][:, :, 0, -1])
        results["samples"] = len(self._targets)
        results["boxes"] = int(boxes.sum())
        results["per_class"] = {
            name: {
                "boxes": int(boxes[i]),
                "map": _mean(everything[:, :, i]),
                "ap50": _mean(everything[0, :, i]),
            }
            for i, name in enumerate(self.class_names)
        }
        return results

    def precision_recall(self) -> dict[str, NDArray[np.float64]]:
        """Return for each class that has boxes its precision (101,) at overlap 0.5.

        The i-th is the best precision at a recall of i / 100 or more, 0 where none is reached.

        Raises:
            UserError: when faster-coco-eval is not installed.
            ValueError: when there were no samples.
        """
        boxes = self._count()
        precision = self._evaluate()["precision"][0, :, :, 0, -1]  # (recalls, K)
        return {name: precision[:, i] for i, name in enumerate(self.class_names) if boxes[i]}

    def _count(self) -> NDArray[np.int64]:
        """Return the number of boxes (K,) of each class."""
        if not self._targets:
            raise ValueError("no samples were added to this metric")
        labels = np.concatenate([boxes.labels() for boxes in self._targets])
        return np.bincount(labels, minlength=len(self.class_names))

    def _evaluate(self) -> dict[str, Any]:
        """Return precision (overlaps, recalls, K, sizes, 3) and recall (overlaps, K, sizes, 3)."""
        library = require("faster_coco_eval", "detection")
        images = [
            {"id": i, "width": boxes.width, "height": boxes.height}
            for i, boxes in enumerate(self._targets)
        ]
        categories = [{"id": i, "name": name} for i, name in enumerate(self.class_names)]
        truth = [
            {
                "image_id": i,
                "category_id": box.label,
                "bbox": [box.left, box.top, box.right - box.left, box.bottom - box.top],
                "area": box.size,
                "iscrowd": int(box.ignored),
            }
            for i, boxes in enumerate(self._targets)
            for box in boxes.items
        ]
        found = [
            {
                "image_id": i,
                "category_id": int(label),
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
                "score": score,
            }
            for i, (boxes, rows) in enumerate(zip(self._targets, self._detections, strict=True))
            for left, top, right, bottom, score, label in _in_pixels(rows, boxes).tolist()
        ]
        data = {"images": images, "categories": categories}
        sides = [
            library.COCO(
                {**data, "annotations": [{"id": i, **box} for i, box in enumerate(side, 1)]}
            )
            for side in (truth, found)
        ]
        evaluator = library.core.COCOeval_faster(*sides, iouType="bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        counted: dict[str, Any] = evaluator.eval
        return counted


def as_detections(labels: Sequence[Boxes]) -> NDArray[np.float32]:
    """Return true boxes as a perfect detector would: (N, D, 6), without the ignored."""
    detections = np.zeros((len(labels), max((len(b.items) for b in labels), default=0), 6))
    for rows, boxes in zip(detections, labels, strict=True):
        corners = boxes.corners()
        rows[: len(corners), :4] = corners
        rows[: len(corners), 4] = 1
        rows[: len(corners), 5] = boxes.labels()
    return detections.astype(np.float32)


def imperfect(labels: Sequence[Boxes], class_names: Sequence[str]) -> list[int]:
    """Return which pictures' true boxes, taken for detections, are not found one and all.

    Of a picture with more than ``box_checks.COUNTED`` boxes of a class that is always so.

    Raises:
        UserError: when faster-coco-eval is not installed.
    """

    def is_perfect(some: Sequence[Boxes]) -> bool:
        metric = AveragePrecision(class_names)
        metric.update(as_detections(some), some)
        if not metric._count().sum():
            return True
        found = metric.compute()
        return bool(found["map"] == found["recall"] == 1)

    def search(start: int, end: int) -> list[int]:
        if start == end or is_perfect(labels[start:end]):
            return []
        if end - start == 1:
            return [start]
        middle = (start + end) // 2
        return search(start, middle) + search(middle, end)

    return search(0, len(labels))


def _in_pixels(rows: NDArray[np.float32], boxes: Boxes) -> NDArray[np.float64]:
    scale = np.array([boxes.width, boxes.height, boxes.width, boxes.height, 1, 1], np.float64)
    return rows * scale


def _mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean of what is defined; -1 marks what is not."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
