"""From a detector's output to boxes with names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilevit.data.drawing import draw_boxes
from mobilevit.deployment.contract import Contract
from mobilevit.tasks.outputs import check_finite

BOX, SCORE, CLASS = slice(0, 4), 4, 5
"""What the six numbers of a detection are."""


def image_id(path: str | Path) -> int | str:
    """Return the number that a picture is named with, as COCO's are, or else its name."""
    stem = Path(path).stem
    return int(stem) if stem.isdecimal() else stem


@dataclass(frozen=True)
class FoundBox:
    """A box found on a picture.

    Attributes:
        name: of its class.
        class_id: the user's own number of the class, else its index from 0.
        score: how sure the network is, from 0 to 1.
        box: left, top, right, bottom in pixels of the upright picture.
    """

    name: str
    class_id: int
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Prediction:
    """The boxes found on a picture, best first.

    Attributes:
        path: the picture.
        width: of the upright picture, in pixels.
        height: likewise.
        boxes: what was found.
    """

    path: str
    width: int
    height: int
    boxes: tuple[FoundBox, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return asdict(self)

    def to_coco(self) -> list[dict[str, Any]]:
        """Return the boxes in COCO's format of results.

        ``bbox`` is left, top, width, height in pixels.
        """
        return [
            {
                "image_id": image_id(self.path),
                "category_id": found.class_id,
                "bbox": [left, top, right - left, bottom - top],
                "score": found.score,
            }
            for found in self.boxes
            for left, top, right, bottom in [found.box]
        ]

    def summary(self) -> str:
        """Return the boxes as one line for people, the sizes in pixels."""
        said = [
            f"{b.name} {b.score:.0%} at {b.box[0]:.0f},{b.box[1]:.0f} "
            f"{b.box[2] - b.box[0]:.0f}x{b.box[3] - b.box[1]:.0f}"
            for b in self.boxes
        ]
        return "; ".join(said) or "nothing found"

    def draw(self, picture: Image.Image) -> Image.Image:
        """Return a copy of the picture with the boxes drawn on it."""
        words = [(b.box, f"{b.name} {b.score:.0%}", b.name) for b in self.boxes]
        return draw_boxes(picture, words)


def chosen(outputs: NDArray[np.floating[Any]], output: str) -> NDArray[np.floating[Any]]:
    """Return detections (N, D, 6), choosing among candidates where the choice is still to be made.

    Args:
        outputs: of a detector.
        output: what they are, ``Contract.output``.
    """
    if output == "detections":
        return outputs
    from mobilevit.tasks.detection.detector import choose_array

    return choose_array(outputs)


def decode(
    outputs: NDArray[np.floating[Any]],
    contract: Contract,
    paths: Sequence[str | Path],
    top: int | None,
    threshold: float,
) -> list[Prediction]:
    """Return a prediction for each picture, in pixels of the picture itself.

    Args:
        outputs: of the network, as the contract says.
        contract: of the network.
        paths: the N pictures, whose headers are read for their sizes.
        top: boxes in a prediction, at most; none: all.
        threshold: smallest score.

    Raises:
        UserError: when an output is NaN or infinite.
    """
    from mobilevit.data.decoding import Picture

    check_finite(outputs)
    names = contract.class_names
    ids = contract.class_ids or tuple(range(len(names)))
    predictions = []
    for path, rows in zip(paths, chosen(outputs, contract.output), strict=True):
        with Picture(path) as picture:
            width, height = picture.width, picture.height
        sides = np.array([width, height] * 2)
        rows = rows[(rows[:, SCORE] >= threshold) & (rows[:, SCORE] > 0)][:top]
        found = tuple(
            FoundBox(
                names[int(row[CLASS])],
                ids[int(row[CLASS])],
                float(row[SCORE]),
                tuple(float(edge) for edge in row[BOX] * sides),  # type: ignore[arg-type]
            )
            for row in rows
        )
        predictions.append(Prediction(str(path), width, height, found))
    return predictions


def nearest_rows(
    before: NDArray[np.float64], after: NDArray[np.float64], threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Put each detection of either form beside the most similar one of the same class of the other.

    Args:
        before: (N, D, 6) of the one.
        after: (N, D, 6) of the other.
        threshold: smallest score of the detections that are put beside others; the best one of
            each picture always is.

    Returns:
        (M, 5) of either, corners and score, the score 0 where the form has nothing of that class;
        and for each of the N pictures whether the best detection has the same class, or neither
        form has any. Rows without a score are none.
    """
    left, right = [], []
    for one, other in zip(before, after, strict=True):
        kept, theirs = (
            form[: max(1, int((form[:, SCORE] >= threshold).sum()))] for form in (one, other)
        )
        left += [kept[:, :CLASS], _nearest(theirs, one)]
        right += [_nearest(kept, other), theirs[:, :CLASS]]
    classes, found = ([form[:, 0, c] for form in (before, after)] for c in (CLASS, SCORE))
    same = (classes[0] == classes[1]) & ((found[0] > 0) == (found[1] > 0))
    return np.concatenate(left), np.concatenate(right), same


def _nearest(rows: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each row the nearest of its class, or the row itself with a score of 0."""
    distance = np.abs(rows[:, None, :CLASS] - others[None, :, :CLASS]).max(axis=2)
    distance[rows[:, None, CLASS] != others[None, :, CLASS]] = np.inf
    distance[:, others[:, SCORE] == 0] = distance[rows[:, SCORE] == 0] = np.inf
    lost = np.isinf(distance).all(axis=1)
    nearest = np.where(lost[:, None], rows, others[distance.argmin(axis=1)])[:, :CLASS]
    nearest[lost, SCORE] = 0.0
    return nearest
