from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from mobilevit.networks import SSDLite, SSDLiteConfig, create_model
from mobilevit.tasks.detection.matching import CODER, match, ssd_loss


@pytest.fixture(scope="module")
def anchors() -> Tensor:
    with torch.device("meta"):
        network = SSDLite(create_model("mobilevit_xxs", num_classes=0), SSDLiteConfig())
    return network.anchors((320, 320))


def random_boxes(count: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=random).sort(dim=1).values
    corners[:, 1] += 0.02
    return corners.flatten(1)


def expected_targets(anchors: np.ndarray, corners: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What each anchor should predict, worked out pair by pair from the formulas.

    In float32: a small box lies inside several anchors, and rounding decides which is its best.
    """
    overlaps = np.zeros((len(corners), len(anchors)), np.float32)
    for i, (left, top, right, bottom) in enumerate(corners):
        width = np.minimum(right, anchors[:, 2]) - np.maximum(left, anchors[:, 0])
        height = np.minimum(bottom, anchors[:, 3]) - np.maximum(top, anchors[:, 1])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        sides = anchors[:, 2:] - anchors[:, :2]
        overlaps[i] = shared / ((right - left) * (bottom - top) + sides.prod(1) - shared)
    owner = {a: int(overlaps[:, a].argmax()) for a in np.flatnonzero(overlaps.max(0) >= 0.5)}
    owner |= {int(overlaps[i].argmax()): i for i in range(len(corners))}
    targets = np.zeros((len(anchors), 5))
    for a, i in owner.items():
        (x0, y0, x1, y1), (left, top, right, bottom) = anchors[a], corners[i]
        width, height = x1 - x0, y1 - y0
        targets[a] = (
            ((left + right) / 2 - (x0 + x1) / 2) / width / 0.1,
            ((top + bottom) / 2 - (y0 + y1) / 2) / height / 0.1,
            np.log((right - left) / width) / 0.2,
            np.log((bottom - top) / height) / 0.2,
            labels[i] + 1,
        )
    return targets


def test_targets_on_real_pictures_are_those_of_the_formulas(
    anchors: Tensor, shared_data: Path
) -> None:
    file = next((shared_data / "coco" / "annotations").glob("*val*.json"))
    told = json.loads(file.read_text(encoding="utf-8"))
    sides = {image["id"]: [image["width"], image["height"]] * 2 for image in told["images"]}
    boxes: dict[int, list[list[float]]] = {}
    for box in told["annotations"]:
        x, y, width, height = box["bbox"]
        if width > 0 and height > 0:
            row = [x, y, x + width, y + height, box["category_id"]]
            boxes.setdefault(box["image_id"], []).append(row)
    assert len(boxes) > 30
    shared = 0
    for image, rows in boxes.items():
        table = np.array(rows)
        corners = (table[:, :4] / sides[image]).astype(np.float32)
        labels = table[:, 4].astype(np.int64)
        found = match(anchors, torch.from_numpy(corners), torch.from_numpy(labels)).numpy()
        expected = expected_targets(anchors.numpy(), corners, labels)
        assert np.array_equal(found[:, 4], expected[:, 4]), image
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
        shared += int((found[:, 4] > 0).sum() > len(rows))
    assert shared > len(boxes) / 2  # most pictures have boxes that several anchors learn


def test_every_box_is_learned_by_the_anchor_that_overlaps_it_most(anchors: Tensor) -> None:
    places = [(x / 8, y / 8) for x in range(8) for y in range(8)]
    corners = torch.tensor([(x + 0.05, y + 0.05, x + 0.08, y + 0.08) for x, y in places])
    overlaps = box_iou(corners, anchors)
    assert overlaps.max() < 0.5
    target = match(anchors, corners, torch.arange(64))
    best = overlaps.argmax(1)
    assert len(set(best.tolist())) == 64
    assert torch.equal(target[best, 4], torch.arange(1.0, 65))
    assert (target[:, 4] > 0).sum() == 64


def test_an_anchor_learns_the_box_that_it_overlaps_most() -> None:
    anchors = torch.tensor([[0.0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]])
    corners = torch.tensor([[0.0, 0, 0.5, 0.4], [0.0, 0.0, 0.5, 0.5]])
    target = match(anchors, corners[:1], torch.tensor([4]))
    assert target[:, 4].tolist() == [5, 0]
    target = match(anchors, corners, torch.tensor([4, 6]))
    assert target[:, 4].tolist() == [7, 0]
    assert target[:, :4].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_picture_without_boxes_is_all_background(anchors: Tensor) -> None:
    target = match(anchors, torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
    assert target.shape == (3232, 5)
    assert not target.any()


def test_offsets_bring_anchors_to_their_boxes(anchors: Tensor) -> None:
    corners = random_boxes(5, seed=2)
    target = match(anchors, corners, torch.arange(5))
    positive = target[:, 4] > 0
    decoded = CODER.decode_single(target[positive, :4], anchors[positive])
    own = corners[(target[positive, 4] - 1).long()]
    torch.testing.assert_close(decoded, own, atol=1e-5, rtol=1e-5)


def test_the_loss_is_torchvisions(anchors: Tensor) -> None:
    torch.manual_seed(0)
    logits, offsets = torch.randn(3, 3232, 8) * 3, torch.randn(3, 3232, 4) * 2
    boxes = [random_boxes(n, seed=n) for n in (1, 7, 3)]
    labels = [torch.randint(0, 7, (len(corners),)) for corners in boxes]
    targets = torch.stack([match(anchors, *pair) for pair in zip(boxes, labels, strict=True)])
    theirs = SimpleNamespace(box_coder=CODER, neg_to_pos_ratio=3)
    matched = []
    for corners, target in zip(boxes, targets, strict=True):
        near = [
            CODER.encode_single(box.expand_as(anchors), anchors).sub(target[:, :4]).abs().amax(1)
            for box in corners
        ]
        matched.append(torch.where(target[:, 4] > 0, torch.stack(near).argmin(0), -1))
    expected = SSD.compute_loss(
        theirs,
        [{"boxes": b, "labels": c + 1} for b, c in zip(boxes, labels, strict=True)],
        {"bbox_regression": offsets, "cls_logits": logits},
        [anchors] * 3,
        matched,
    )
    found = ssd_loss(logits, offsets, targets)
    torch.testing.assert_close(found, sum(expected.values()), atol=1e-4, rtol=1e-5)


def test_labels_are_smoothed_on_request() -> None:
    logits, targets = torch.randn(1, 10, 4), torch.zeros(1, 10, 5)
    targets[0, :3, 4] = torch.tensor([1.0, 2.0, 3.0])
    offsets = torch.zeros(1, 10, 4)
    lot = torch.nn.functional.cross_entropy(
        logits[0], targets[0, :, 4].long(), reduction="none", label_smoothing=0.3
    )
    expected = (lot[:3].sum() + lot[3:].sum()) / 3  # 7 negatives are fewer than 9
    torch.testing.assert_close(ssd_loss(logits, offsets, targets, 0.3), expected)


def test_hard_negatives_are_three_for_each_positive_of_their_own_picture() -> None:
    logits = torch.zeros(2, 10, 2, requires_grad=True)
    with torch.no_grad():
        logits[0, :, 1] = torch.arange(10.0)  # the last ones are hardest
    targets = torch.zeros(2, 10, 5)
    targets[0, 9, 4] = 1
    ssd_loss(logits, torch.zeros(2, 10, 4), targets).backward()
    assert logits.grad is not None
    learned = logits.grad.abs().sum(-1) > 0
    assert learned[0].nonzero().flatten().tolist() == [6, 7, 8, 9]
    assert not learned[1].any()


def test_a_picture_full_of_positives_is_counted_once() -> None:
    logits, offsets = torch.randn(1, 4, 3), torch.randn(1, 4, 4)
    targets = torch.ones(1, 4, 5)
    targets[0, 3, 4] = 0
    whole = torch.nn.functional.cross_entropy(
        logits[0], targets[0, :, 4].long(), reduction="sum"
    ) + torch.nn.functional.smooth_l1_loss(offsets[0, :3], targets[0, :3, :4], reduction="sum")
    torch.testing.assert_close(ssd_loss(logits, offsets, targets), whole / 3)


def test_a_batch_without_boxes_has_no_loss_and_finite_gradients() -> None:
    logits = torch.randn(2, 10, 3, requires_grad=True)
    loss = ssd_loss(logits, torch.randn(2, 10, 4), torch.zeros(2, 10, 5))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_gradients_are_finite_in_mixed_precision(anchors: Tensor) -> None:
    torch.manual_seed(0)
    network = SSDLite(create_model("mobilevit_xxs", num_classes=0), SSDLiteConfig(num_classes=4))
    small = network.anchors((64, 64))
    target = match(small, random_boxes(3, seed=1), torch.arange(3))
    with torch.autocast("cpu", torch.bfloat16):
        logits, offsets = network(torch.rand(2, 3, 64, 64))
        assert logits.dtype == torch.bfloat16
        loss = ssd_loss(logits, offsets, torch.stack([target, target]))
    assert loss.dtype == torch.float32
    loss.backward()
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in grads)
    assert sum(g.abs().sum() for g in grads) > 0
