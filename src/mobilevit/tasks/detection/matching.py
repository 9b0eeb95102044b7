"""Which anchor learns which box, and SSD's loss (Liu et al., ECCV 2016, section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.ops import box_iou

OVERLAP = 0.5  # IoU from which an anchor learns a box
NEGATIVES = 3  # background anchors that learn, for each that learns a box
CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))
"""Turns boxes into offsets from their anchors: ten times the centre's, in sides of the anchor, and
five times the logarithm of the sides' ratios."""


def match(anchors: Tensor, corners: Tensor, labels: Tensor) -> Tensor:
    """Return what the anchors of one picture should predict.

    An anchor learns the box that it overlaps most, if by ``OVERLAP``; and every box is learned by
    the anchor that overlaps it most, where no later box claims the same one.

    Args:
        anchors: (A, 4) left, top, right and bottom.
        corners: (N, 4) boxes, of some width and height each, in the unit of the anchors.
        labels: (N,) indices of their classes.

    Returns:
        (A, 5) box offsets, then the class: 0 for the background, whose offsets are 0, or a label
        and one.
    """
    target = anchors.new_zeros(len(anchors), 5)
    if len(corners):
        matched = SSDMatcher(OVERLAP)(box_iou(corners, anchors))  # (A,), negative: no box
        positive = matched >= 0
        box = matched[positive]
        target[positive, :4] = CODER.encode_single(corners[box], anchors[positive])
        target[positive, 4] = (labels[box] + 1).to(target.dtype)
    return target


def ssd_loss(
    logits: Tensor, offsets: Tensor, targets: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Return SSD's loss, in float32: of boxes and classes, for each positive anchor of the batch.

    The offsets of positive anchors are held to smooth-L1, and the classes to cross-entropy, those
    of the background only at ``NEGATIVES`` times as many anchors of each picture as are positive:
    the ones with the highest loss. Both sums are divided by the number of positives, at least 1.

    Args:
        logits: (B, A, K + 1), the background first.
        offsets: (B, A, 4).
        targets: (B, A, 5), of ``match``.
        label_smoothing: share of each anchor's target that is spread over all classes.
    """
    classes = targets[..., 4].long()
    positive = classes > 0
    of_boxes = F.smooth_l1_loss(
        offsets.float()[positive], targets[..., :4][positive].float(), reduction="sum"
    )
    of_classes = F.cross_entropy(
        logits.float().transpose(1, 2), classes, reduction="none", label_smoothing=label_smoothing
    )
    hardest = of_classes.masked_fill(positive, 0).sort(dim=1, descending=True).values
    places = torch.arange(hardest.shape[1], device=hardest.device)
    negative = places < NEGATIVES * positive.sum(1, keepdim=True)
    total = of_boxes + of_classes[positive].sum() + hardest[negative].sum()
    return total / positive.sum().clamp(min=1)
