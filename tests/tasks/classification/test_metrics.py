from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilevit.errors import UserError
from mobilevit.tasks.classification.metrics import Accuracy


def sample(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (count, classes)).astype(np.float32)
    return logits, random.integers(0, classes, count)


def filled(classes: int, *batches: tuple[np.ndarray, np.ndarray]) -> Accuracy:
    metric = Accuracy([f"class {i}" for i in range(classes)])
    for outputs, targets in batches:
        metric.update(outputs, targets)
    return metric


@pytest.mark.parametrize("classes", [2, 5, 6, 40])
def test_it_agrees_with_torchmetrics(classes):
    logits, targets = sample(300, classes)
    found = filled(classes, (logits, targets)).compute()
    x, y = torch.from_numpy(logits), torch.from_numpy(targets)
    each = {"num_classes": classes, "average": "none"}
    top1 = reference.multiclass_accuracy(x, y, classes, average="micro")
    assert found["top1"] == pytest.approx(top1.item())
    if classes > 5:
        top5 = reference.multiclass_accuracy(x, y, classes, average="micro", top_k=5)
        assert found["top5"] == pytest.approx(top5.item())
    else:
        assert "top5" not in found
    assert found["loss"] == pytest.approx(torch.nn.functional.cross_entropy(x, y).item(), abs=1e-5)
    confusion = reference.multiclass_confusion_matrix(x, y, classes)
    assert found["confusion"] == confusion.tolist()
    recall, precision = (
        reference.multiclass_recall(x, y, **each),
        reference.multiclass_precision(x, y, **each),
    )
    for i, row in enumerate(found["per_class"].values()):
        assert row["recall"] == pytest.approx(recall[i].item())
        assert row["precision"] == pytest.approx(precision[i].item())
        assert row["support"] == (targets == i).sum()
    assert found["samples"] == 300
    json.dumps(found, allow_nan=False)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=4), seed=st.integers(0, 99))
def test_batches_and_processes_add_up(cuts, seed):
    logits, targets = sample(60, 7, seed)
    whole = filled(7, (logits, targets))
    edges = [0, *sorted(cuts), 60]
    parts = [filled(7, (logits[a:b], targets[a:b])) for a, b in itertools.pairwise(edges)]
    merged = Accuracy(whole.class_names)
    for part in parts:
        merged.merge(part)
    ours, theirs = whole.compute(), merged.compute()
    assert ours.pop("loss") == pytest.approx(theirs.pop("loss"))
    assert ours == theirs


def test_a_class_that_never_occurs_has_no_recall():
    found = filled(3, (np.array([[5.0, 0, 0], [5, 0, 0]]), np.array([0, 1]))).compute()
    rows = list(found["per_class"].values())
    assert rows[0] == {"recall": 1.0, "precision": 0.5, "support": 1}
    assert rows[1] == {"recall": 0.0, "precision": None, "support": 1}
    assert rows[2] == {"recall": None, "precision": None, "support": 0}


def test_large_logits_do_not_overflow():
    metric = filled(2, (np.array([[1e4, -1e4]], np.float32), np.array([1])))
    assert metric.compute()["loss"] == pytest.approx(2e4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_broken_outputs_are_an_error_that_says_so(bad):
    logits, targets = sample(4, 3)
    logits[2, 1] = bad
    with pytest.raises(UserError, match="NaN or infinite for 1 of 4 pictures"):
        filled(3, (logits, targets))


def test_what_does_not_fit_is_refused():
    logits, targets = sample(4, 3)
    with pytest.raises(ValueError, match="do not fit 4 classes"):
        filled(4, (logits, targets))
    with pytest.raises(ValueError, match="do not fit 3 classes"):
        filled(3, (logits, targets[:3]))
    with pytest.raises(ValueError, match="targets from"):
        filled(3, (logits, targets + 1 + 2))
    with pytest.raises(ValueError, match="no samples"):
        Accuracy(("a", "b")).compute()
    with pytest.raises(ValueError, match="cannot be merged"):
        Accuracy(("a", "b")).merge(Accuracy(("a", "c")))
