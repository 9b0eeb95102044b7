"""From what an SSDLite predicts for its anchors to boxes on a picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

from mobilevit.networks import SSDLite, TorchvisionSSDLite

Output = Literal["detections", "candidates"]

CANDIDATES = 1000  # pairs of anchor and class of a picture that are chosen among
DETECTIONS = 200  # of a picture
OVERLAP = 0.5  # IoU with a better box of its class above which a box is dropped
_LARGEST = math.log(1000 / 16)  # of a side's growth over the anchor's, as torchvision has it


class Detector(nn.Module):
    """An SSDLite that puts out boxes: (B, 3, H, W) RGB in [0, 1] to one array.

    With ``"candidates"`` that is ``decode``'s, with ``"detections"`` ``choose``'s.

    Args:
        network: of K classes and the background.
        size: height and width of the pictures in pixels.
        output: what to put out.
    """

    def __init__(
        self,
        network: SSDLite | TorchvisionSSDLite,
        size: tuple[int, int],
        output: Output = "detections",
    ) -> None:
        super().__init__()
        self.network = network
        self.output = output
        device = next(network.parameters()).device
        self.register_buffer("anchors", network.anchors(size).to(device), persistent=False)

    anchors: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        anchors = self.anchors
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.anchors = anchors.to(self.anchors.device)  # in bf16 they would be a pixel off
        return self

    def forward(self, x: Tensor) -> Tensor:
        logits, offsets = self.network(x)
        candidates = decode(logits, offsets, self.anchors)
        return choose(candidates) if self.output == "detections" else candidates


def decode(logits: Tensor, offsets: Tensor, anchors: Tensor) -> Tensor:
    """Return the boxes that are predicted, and how likely they are of each class.

    Args:
        logits: (B, A, K + 1), the background first.
        offsets: (B, A, 4), as ``matching.CODER`` makes them.
        anchors: (A, 4) left, top, right and bottom as shares of the picture's sides.

    Returns:
        (B, A, 4 + K): left, top, right and bottom as shares of the picture's sides, in [0, 1],
        then the probabilities of the classes without the background.
    """
    start, end = anchors[:, :2], anchors[:, 2:]
    sides = end - start
    centre = (start + end) / 2 + offsets[..., :2].float() / 10 * sides
    half = (offsets[..., 2:].float() / 5).clamp(max=_LARGEST).exp() * sides / 2
    corners = torch.cat((centre - half, centre + half), -1).clamp(0, 1)
    return torch.cat((corners, logits.float().softmax(-1)[..., 1:]), -1)


def choose(candidates: Tensor) -> Tensor:
    """Return the best boxes of each picture, none of which overlaps a better one of its class.

    Of a picture the ``CANDIDATES`` likeliest pairs of anchor and class take part in class-wise
    non-maximum suppression, and the ``DETECTIONS`` best of what it leaves come out. Above a score
    of 0.01 that is what the authors' code gives, as long as there are no more such pairs than
    ``CANDIDATES``, and no more than the 400 of one class that they let in.

    Args:
        candidates: (N, A, 4 + K), of ``decode``.

    Returns:
        (N, 200, 6): left, top, right, bottom, score and class by falling score; zeros where there
        are no more.
    """
    return torch.stack([_choose(picture[:, :4], picture[:, 4:]) for picture in candidates])


def choose_array(candidates: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Do what ``choose`` does to what a runtime puts out."""
    return choose(torch.from_numpy(np.asarray(candidates, np.float32))).numpy()


def _choose(corners: Tensor, scores: Tensor) -> Tensor:
    """Choose on one picture: (A, 4) and (A, K) to (200, 6); only the shape of ``kept`` varies."""
    classes = scores.shape[1]
    score, pair = scores.flatten().topk(min(CANDIDATES, scores.numel()))
    box, label = corners[pair // classes], pair % classes
    kept = batched_nms(box, score, label, OVERLAP)
    score = torch.zeros_like(score).scatter(0, kept, score[kept])
    score, best = score.topk(min(DETECTIONS, len(score)))
    rows = torch.cat((box[best], score[:, None], label[best, None].to(score.dtype)), 1)
    return F.pad(rows * (score > 0)[:, None], (0, 0, 0, DETECTIONS - len(rows)))
