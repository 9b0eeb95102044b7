from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mobilevit.tasks.classification.predictions import decode, softmax


def test_the_most_probable_come_first():
    logits = np.log(np.array([[0.2, 0.7, 0.1], [0.25, 0.25, 0.5]]))
    first, second = decode(logits, ("a", "b", "c"), ["x.jpg", "y.jpg"], top=2)
    assert first.path == "x.jpg"
    assert [label.name for label in first.labels] == ["b", "a"]
    assert first.labels[0].probability == pytest.approx(0.7)
    assert [label.name for label in second.labels] == ["c", "a"]  # of equals, the first by order
    assert first.summary() == "b 70.0%, a 20.0%"
    assert second.to_dict() == {
        "path": "y.jpg",
        "labels": [
            {"name": "c", "probability": pytest.approx(0.5)},
            {"name": "a", "probability": pytest.approx(0.25)},
        ],
    }


@given(arrays.arrays(np.float32, (3, 4), elements=st.floats(-(2**99), 2**99, width=32)))
def test_probabilities_are_probabilities(logits):
    probabilities = softmax(logits)
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        decode(np.zeros((2, 3)), ("a", "b", "c"), ["x.jpg"], top=1)
    with pytest.raises(ValueError, match="top is 0"):
        decode(np.zeros((1, 2)), ("a", "b"), ["x.jpg"], top=0)
