from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mobilevit.deployment.comparison import compare
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.manifest import Origin
from mobilevit.errors import UserError

CONTRACT = Contract("classification", ("a", "b", "c"), size=(32, 32), resize=32)


class Mean:
    """Logits made of the mean colour, changed by ``error``."""

    def __init__(self, error: float = 0.0, contract: Contract = CONTRACT) -> None:
        self.error = error
        self.contract = contract
        self.path = Path("mean")
        self.origin = Origin()

    def run(self, images):
        logits = images.mean(axis=(2, 3))
        logits[:, 0] += self.error
        return logits

    def describe(self):
        return {}


@pytest.fixture
def paths(photos: Path) -> list[Path]:
    return sorted(photos.glob("val/*/*.jpg"))


def test_the_numbers(paths):
    result = compare(Mean(), Mean(0.01), paths, tolerance=0.1)
    logits = np.concatenate([Mean().run(_read(path)) for path in paths]).astype(float)
    assert result.pictures == len(paths)
    assert result.max_difference == pytest.approx(0.01, rel=1e-4)
    assert result.mean_difference == pytest.approx(0.01 / 3, rel=1e-4)
    assert result.value_range == pytest.approx(np.ptp(logits))
    expected = 10 * np.log10((logits**2).sum() / (len(paths) * 0.01**2))
    assert result.sqnr == pytest.approx(expected, abs=0.01)
    assert result.limit == pytest.approx(0.1 * np.ptp(logits))
    assert result.passed


def test_equal_is_equal(paths):
    result = compare(Mean(), Mean(), paths)
    assert (result.max_difference, result.sqnr, result.agreement) == (0, None, 1)
    assert result.passed


@pytest.mark.parametrize("error", [10.0, float("nan"), float("inf")])
def test_different_is_different_and_still_json(paths, error):
    result = compare(Mean(), Mean(error), paths)
    assert not result.passed
    assert result.sqnr is not None
    json.dumps(result.to_dict(), allow_nan=False)


def test_outputs_that_are_all_one_number_have_its_size_for_a_range(paths):
    class Constant(Mean):
        def run(self, images):
            return np.full((len(images), 1), 4 + self.error, np.float32)

    result = compare(Constant(), Constant(1e-3), paths)
    assert result.value_range == 4
    assert result.passed
    assert not compare(Constant(), Constant(0.1), paths).passed


def test_agreement_counts_first_labels(paths):
    assert compare(Mean(), Mean(-10), paths).agreement < 1


def test_it_says_which_rule_is_broken(paths):
    far = compare(Mean(), Mean(0.5), paths, tolerance=1e-3, least_agreement=0.9)
    assert "allowed is" in far.why_not()
    swapped = replace(far, tolerance=1e6, agreement=0.5)
    assert not swapped.passed
    assert "first answer is PyTorch's for 50.00%; needed is 90%" in swapped.why_not()


def test_unreadable_pictures_are_named(paths, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"x")
    result = compare(Mean(), Mean(), [broken, *paths[:3]])
    assert result.pictures == 3
    assert list(result.unreadable) == [str(broken)]
    text = StringIO()
    result.print(Console(file=text, width=200))
    assert "broken.jpg" in text.getvalue()
    assert "the same" in text.getvalue()
    with pytest.raises(UserError, match=r"none of the 1 pictures.*broken"):
        compare(Mean(), Mean(), [broken])


def test_contracts_must_agree(paths):
    with pytest.raises(UserError, match="contract differs"):
        compare(Mean(), Mean(contract=replace(CONTRACT, resize=40)), paths)


def _read(path):
    from mobilevit.deployment.preprocess import load_batch

    return load_batch([path], CONTRACT)
