from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobilevit.data.masks import IGNORED, MaskFile, MaskShapes, outline
from mobilevit.errors import UserError
from mobilevit.tasks.segmentation.metrics import IntersectionOverUnion

NAMES = ("sky", "road", "car")


class Known:
    """A mask that needs no file."""

    def __init__(self, indices: list[list[int]] | np.ndarray) -> None:
        self.indices = np.asarray(indices, np.uint8)

    def read(self) -> np.ndarray:
        return self.indices


def sure(answer: list[list[int]] | np.ndarray, classes: int = 3) -> np.ndarray:
    """Return logits (1, K, H, W) whose highest is the answer's."""
    return (np.arange(classes)[:, None, None] == np.asarray(answer)).astype(np.float32)[None]


def measure(answer: np.ndarray, truth: np.ndarray, classes: int = 3) -> IntersectionOverUnion:
    metric = IntersectionOverUnion([str(i) for i in range(classes)])
    metric.update(sure(answer, classes), [Known(truth)])
    return metric


def test_numbers_counted_by_hand() -> None:
    metric = IntersectionOverUnion(NAMES, "coarse_logits")
    truth = [[0, 0, 0, 0], [1, 1, IGNORED, IGNORED]]
    metric.update(sure([[0, 0, 0, 1], [1, 2, 0, 1]]), [Known(truth)])
    np.testing.assert_array_equal(metric.confusion(), [[3, 1, 0], [0, 1, 1], [0, 0, 0]])
    assert metric.compute() == {
        "miou": pytest.approx((3 / 4 + 1 / 3 + 0) / 3),
        "pixel_accuracy": pytest.approx(4 / 6),
        "mean_accuracy": pytest.approx((3 / 4 + 1 / 2) / 2),
        "samples": 1,
        "pixels": 6,
        "per_class": {
            "sky": {"iou": 0.75, "accuracy": 0.75, "share": pytest.approx(4 / 6)},
            "road": {"iou": pytest.approx(1 / 3), "accuracy": 0.5, "share": pytest.approx(2 / 6)},
            "car": {"iou": 0.0, "accuracy": None, "share": 0.0},
        },
    }


def test_a_class_that_is_nowhere_does_not_count() -> None:
    found = measure(np.array([[0, 0, 1]]), np.array([[0, 1, 1]])).compute()
    assert found["miou"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert found["per_class"]["2"] == {"iou": None, "accuracy": None, "share": 0.0}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.data())
def test_it_is_what_the_definition_says(classes: int, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    answer = random.integers(0, classes, (7, 9))
    truth = random.choice([*range(classes), IGNORED], (7, 9))
    truth[0, 0] = 0
    counted = truth != IGNORED
    overlaps = []
    for index in range(classes):
        one, other = counted & (truth == index), counted & (answer == index)
        if (one | other).any():
            overlaps.append((one & other).sum() / (one | other).sum())
    found = measure(answer, truth, classes).compute()
    assert found["miou"] == pytest.approx(np.mean(overlaps))
    assert found["pixel_accuracy"] == pytest.approx((answer == truth)[counted].mean())


def test_torchmetrics_says_the_same() -> None:
    """Against numbers of torchmetrics 1.9; class 4 is only answered, class 5 is nowhere."""
    random = np.random.default_rng(0)
    truth = random.choice([0, 1, 2, 3, IGNORED], (3, 20, 30))
    answer = random.integers(0, 5, (3, 20, 30))
    answer = np.where(random.random((3, 20, 30)) < 0.5, answer, np.minimum(truth, 4))
    metric = IntersectionOverUnion([str(i) for i in range(6)])
    metric.update(np.concatenate([sure(one, 6) for one in answer]), [Known(one) for one in truth])
    found = metric.compute()
    assert found["miou"] == pytest.approx(0.33854932, abs=1e-7)
    assert found["pixel_accuracy"] == pytest.approx(0.56258792, abs=1e-7)
    overlaps = [row["iou"] for row in found["per_class"].values()]
    assert overlaps[:5] == pytest.approx([0.42521366, 0.44044945, 0.4, 0.42708334, 0], abs=1e-7)
    assert overlaps[5] is None
    accuracies = [row["accuracy"] for row in found["per_class"].values()]
    assert accuracies[:4] == pytest.approx([0.58187133, 0.57647061, 0.5291005, 0.56629837])
    assert accuracies[4:] == [None, None]


@pytest.mark.parametrize("size", [(6, 8), (13, 4), (300, 200)])
def test_pixels_are_counted_at_the_masks_own_size(size: tuple[int, int]) -> None:
    height, width = size
    left = outline([(0, 0), (width / 2, 0), (width / 2, height), (0, height)])
    truth = MaskShapes(((left, 1),), width, height, background=0)
    metric = IntersectionOverUnion(NAMES)
    metric.update(np.repeat(sure([[1, 1, 0, 0]]), 2, axis=2), [truth])
    found = metric.compute()
    assert found["pixels"] == height * width
    assert found["miou"] == 1


def test_batches_and_processes_add_up() -> None:
    random = np.random.default_rng(0)
    truths = [Known(random.choice([0, 1, 2, IGNORED], (5, 5 + i))) for i in range(4)]
    logits = random.normal(size=(4, 3, 2, 3)).astype(np.float32)
    whole, one, other = (IntersectionOverUnion(NAMES) for _ in range(3))
    whole.update(logits, truths)
    one.update(logits[:1], truths[:1])
    other.update(logits[1:3], truths[1:3])
    other.update(logits[3:], truths[3:])
    one.merge(other)
    assert one.compute() == whole.compute()
    assert whole.compute()["samples"] == 4
    with pytest.raises(ValueError, match="different classes"):
        whole.merge(IntersectionOverUnion(("sky",)))


def test_what_cannot_be_measured_is_refused() -> None:
    metric = IntersectionOverUnion(NAMES, "coarse_logits")
    with pytest.raises(ValueError, match="no samples"):
        metric.compute()
    with pytest.raises(ValueError, match=r"coarse_logits of shape \(1, 2, 2, 2\) do not fit 1 mas"):
        metric.update(np.zeros((1, 2, 2, 2), np.float32), [Known([[0]])])
    with pytest.raises(ValueError, match="class 3 does not fit 3 classes"):
        metric.update(sure([[0]]), [Known([[3]])])
    broken = sure([[0, 1]])
    broken[0, 1, 0, 0] = np.nan
    with pytest.raises(UserError, match="NaN or infinite for 1 of 1 pictures"):
        metric.update(broken, [Known([[0, 1]])])
    metric.update(sure([[0, 1]]), [Known([[IGNORED, IGNORED]])])
    with pytest.raises(UserError, match="all pixels of the 1 masks are ignored"):
        metric.compute()


def test_real_masks_taken_for_answers_are_perfect(shared_data: Path) -> None:
    folder = shared_data / "camvid"
    names = (folder / "classes.txt").read_text().split()
    metric = IntersectionOverUnion(names)
    for path in sorted((folder / "masks" / "val").iterdir())[:5]:
        with Image.open(path) as image:
            numbers = np.asarray(image)
        mask = MaskFile(path, {i: i for i in range(11)}, image.width, image.height)
        metric.update(sure(numbers, 11), [mask])
    found = metric.compute()
    assert found["miou"] == found["pixel_accuracy"] == found["mean_accuracy"] == 1
    assert 0 < found["pixels"] < 5 * 360 * 480  # the unlabelled are left out
    assert sum(row["share"] for row in found["per_class"].values()) == pytest.approx(1)
