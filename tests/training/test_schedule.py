from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mobilevit import MultiScaleSampler, Recipe
from mobilevit.training.schedule import averaged, learning_rate

IMAGENET = 1_281_167


def test_numbers_of_the_paper() -> None:
    recipe = Recipe()  # 300 epochs, 2e-3, 2e-4, a warm-up of about 3,000 steps of 1,024
    end = 300 * IMAGENET
    warmup = 2.4 * IMAGENET
    assert warmup / 1024 == pytest.approx(3000, rel=0.01)
    assert learning_rate(recipe, 0, IMAGENET) == pytest.approx(2e-4)
    assert learning_rate(recipe, round(warmup / 2), IMAGENET) == pytest.approx(1.1e-3, rel=1e-4)
    assert learning_rate(recipe, math.ceil(warmup), IMAGENET) == pytest.approx(2e-3)
    assert learning_rate(recipe, round((warmup + end) / 2), IMAGENET) == pytest.approx(1.1e-3)
    assert learning_rate(recipe, end, IMAGENET) == pytest.approx(2e-4)


@given(
    epochs=st.integers(1, 20),
    length=st.integers(1, 5000),
    warmup=st.floats(0, 30),
    low=st.floats(0, 1e-3),
)
def test_up_then_down_between_the_two_ends(
    epochs: int, length: int, warmup: float, low: float
) -> None:
    recipe = Recipe().override(epochs=epochs, lr=1e-3, min_lr=low, warmup_epochs=warmup)
    total = epochs * length
    rates = [learning_rate(recipe, round(total * i / 50), length) for i in range(51)]
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(low)
    assert rates[0] == pytest.approx(1e-3 if warmup == 0 else low)
    assert low - 1e-12 <= min(rates)
    assert max(rates) <= 1e-3 + 1e-12


def test_without_min_lr_it_is_a_tenth() -> None:
    recipe = Recipe().override(lr=0.5, epochs=2)
    assert learning_rate(recipe, 0, 10) == learning_rate(recipe, 20, 10) == pytest.approx(0.05)


def test_it_depends_on_the_samples_and_not_on_the_draws() -> None:
    """The epochs begin and end at the same rates, whatever the steps in between were."""
    recipe = Recipe().override(epochs=5, lr=1e-2, warmup_epochs=1)
    seen = []
    for sizes, seed in (((64,), 0), ((32, 64, 96), 0), ((32, 64, 96), 1)):
        samples, rates, ends = 0, {}, []
        for epoch in range(5):
            sampler = MultiScaleSampler(500, 16, sizes, 64, seed=seed)
            sampler.set_epoch(epoch)
            ends.append(learning_rate(recipe, samples, 500))
            for step in sampler.steps:
                rates[samples] = learning_rate(recipe, samples, 500)
                samples += step.count
        assert samples == 2500
        seen.append((ends, rates))
    (plain_ends, plain), *others = seen
    for ends, rates in others:
        assert ends == plain_ends
        assert all(rates[s] == plain[s] for s in rates.keys() & plain.keys())


def test_average_of_weights_and_statistics() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = averaged(network, 0.5)
    expected = None
    for update, value in enumerate((2.0, 4.0, 8.0, 16.0)):
        with torch.no_grad():
            network[0].weight.fill_(value)
            network[1].running_mean.fill_(-value)
            network[1].num_batches_tracked.fill_(update + 1)
        average.update_parameters(network)
        if expected is None:
            expected = value
        else:
            decay = min(0.5, (1 + update) / (10 + update))
            expected = decay * expected + (1 - decay) * value
        assert average.module[0].weight.item() == pytest.approx(expected)
        assert average.module[1].running_mean.item() == pytest.approx(-expected)
        assert average.module[1].num_batches_tracked.item() == update + 1
        assert network[0].weight.item() == value
