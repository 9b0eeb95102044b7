"""Boxes on pictures, as plain Python: what readers make, and what everything else takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilevit.data.masks import Mask


class Box(NamedTuple):
    """A box on a picture.

    Attributes:
        left: distance of its left edge from the picture's left edge, in pixels.
        top: of its upper edge from the picture's upper edge.
        right: of its right edge from the picture's left edge.
        bottom: of its lower edge from the picture's upper edge.
        label: index of its class in ``Folders.class_names``.
        ignored: whether it is a crowd, or too difficult: not trained on, and neither a hit nor a
            miss in evaluation (COCO's rule for crowds).
        area: pixels of the object in it, by which COCO tells small from large; by default the
            box's own.
    """

    left: float
    top: float
    right: float
    bottom: float
    label: int
    ignored: bool = False
    area: float | None = None

    @property
    def size(self) -> float:
        """Pixels that tell how large the object is."""
        if self.area is not None:
            return self.area
        return (self.right - self.left) * (self.bottom - self.top)


@dataclass(frozen=True, slots=True)
class Boxes:
    """The boxes on one picture; there may be none.

    Attributes:
        items: the boxes.
        width: width in pixels of the upright picture that they were drawn on.
        height: its height.
        image_id: the picture's number in the user's own files, if it has one there.
    """

    items: tuple[Box, ...]
    width: int
    height: int
    image_id: int | None = None

    def corners(self, ignored: bool = False) -> NDArray[np.float32]:
        """Return left, top, right, bottom (N, 4) as shares of the picture's width and height.

        Args:
            ignored: whether the ignored boxes are among them.
        """
        chosen = [box[:4] for box in self.items if ignored or not box.ignored]
        sides = np.array([self.width, self.height] * 2, np.float64)
        return (np.array(chosen, np.float64).reshape(-1, 4) / sides).astype(np.float32)

    def labels(self, ignored: bool = False) -> NDArray[np.int64]:
        """Return the indices (N,) of the classes, in the order of ``corners``."""
        return np.array([b.label for b in self.items if ignored or not b.ignored], np.int64)


def classes_of(label: int | Boxes | Mask) -> list[int]:
    """Return the classes of a label: the one it is, that of every box, or those of its pixels."""
    if isinstance(label, int):
        return [label]
    if isinstance(label, Boxes):
        return [box.label for box in label.items]
    return label.classes()


def relabelled(label: int | Boxes | Mask, indices: Sequence[int]) -> int | Boxes | Mask:
    """Return a label with ``indices[i]`` in place of the class ``i``."""
    if isinstance(label, int):
        return indices[label]
    if isinstance(label, Boxes):
        items = tuple(box._replace(label=indices[box.label]) for box in label.items)
        return replace(label, items=items)
    return label.relabelled(indices)
