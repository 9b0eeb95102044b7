from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, TensorDataset

from mobilevit import MultiScaleSampler
from mobilevit.data.samplers import SampleKey

PAPER = (160, 192, 256, 288, 320)


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    replicas = draw(st.integers(1, 4))
    sizes = draw(st.lists(st.sampled_from((32, 64, 96, 128, 160, 192, 256)), min_size=1))
    return {
        "length": draw(st.integers(2 * replicas, 700)),
        "batch_size": draw(st.integers(1, 64)),
        "sizes": sizes,
        "base_size": draw(st.sampled_from((*sizes, 112))),
        "anchor": draw(st.sampled_from(("base", "largest"))),
        "num_replicas": replicas,
        "seed": draw(st.integers(0, 2**40)),
    }


def ranks(values: dict[str, Any], epoch: int = 0) -> list[MultiScaleSampler]:
    samplers = [MultiScaleSampler(**values, rank=r) for r in range(values["num_replicas"])]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return samplers


def facts(batches: list[list[SampleKey]]) -> list[list[tuple[int, int, int]]]:
    return [[(int(key), key.size, key.seed) for key in batch] for batch in batches]


@settings(max_examples=150, deadline=None)
@given(values=arguments(), epoch=st.integers(0, 1000))
def test_the_accounting_is_exact(values: dict[str, Any], epoch: int) -> None:
    samplers = ranks(values, epoch)
    promised = samplers[0].steps
    assert all(sampler.steps == promised for sampler in samplers)
    assert samplers[0].plan(epoch) == promised
    batches = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(promised)] * len(samplers)
    assert [len(of_rank) for of_rank in batches] == [len(promised)] * len(samplers)

    everything = [int(key) for of_rank in batches for batch in of_rank for key in batch]
    assert sorted(everything) == list(range(values["length"]))
    for step, parts in zip(promised, zip(*batches, strict=True), strict=True):
        assert {key.size for part in parts for key in part} == {step.size}
        lengths = [len(part) for part in parts]
        assert sum(lengths) == step.count
        assert min(lengths) >= 2
        assert max(lengths) - min(lengths) <= 1


@settings(max_examples=100, deadline=None)
@given(values=arguments(), epoch=st.integers(0, 1000))
def test_batches_have_about_the_same_number_of_pixels(values: dict[str, Any], epoch: int) -> None:
    sampler = ranks(values, epoch)[0]
    side = values["base_size"] if values["anchor"] == "base" else max(values["sizes"])
    least = 2 * values["num_replicas"]
    for step in sampler.steps[:-1]:
        wanted = max(least, values["batch_size"] * side**2 / step.size**2)
        assert abs(step.count - wanted) <= 0.5
    last = sampler.steps[-1]
    assert last.count < max(least, values["batch_size"] * side**2 / last.size**2) + 0.5 + least


@settings(max_examples=100, deadline=None)
@given(values=arguments(), epoch=st.integers(0, 9), data=st.data())
def test_resuming_gives_the_tail_of_the_epoch(
    values: dict[str, Any], epoch: int, data: st.DataObject
) -> None:
    for sampler in ranks(values, epoch):
        whole = facts(list(sampler))
        step = data.draw(st.integers(0, len(whole)))
        again = copy.copy(sampler)
        again.set_epoch(epoch + 1)
        again.load_state_dict({"epoch": epoch, "step": step})
        assert again.state_dict() == {"epoch": epoch, "step": step}
        assert len(again) == len(whole) - step
        assert facts(list(again)) == whole[step:]
        assert facts(list(again)) == whole[step:]  # as often as wanted


@settings(max_examples=50, deadline=None)
@given(values=arguments())
def test_processes_part_what_one_process_would_do(values: dict[str, Any]) -> None:
    parted = ranks(values)
    alone = MultiScaleSampler(**(values | {"num_replicas": 1}))
    assume(alone.choices == parted[0].choices)
    same = len(parted[0].steps) - 1  # only a rest too small for all processes is joined earlier
    assert alone.steps[:same] == parted[0].steps[:same]
    together = [key for parts in zip(*parted, strict=True) for part in parts for key in part]
    expected = [key for batch in alone for key in batch]
    assert [(key, key.seed) for key in together] == [(key, key.seed) for key in expected]


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def order(epoch: int, seed: int) -> list[list[tuple[int, int, int]]]:
        sampler = MultiScaleSampler(200, 16, (32, 64), 64, seed=seed)
        sampler.set_epoch(epoch)
        return facts(list(sampler))

    assert order(3, 5) == order(3, 5)
    assert len({str(order(epoch, seed)) for epoch in range(4) for seed in range(4)}) == 16
    seeds = {key[2] for epoch in range(3) for batch in order(epoch, 0) for key in batch}
    assert len(seeds) == 600  # no augmentation is ever repeated


def test_there_is_no_epoch_before_the_first() -> None:
    sampler = MultiScaleSampler(50, 4, (32,), 32)
    for wrong in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="must not be negative"):
            sampler.set_epoch(*wrong)


def test_global_random_numbers_are_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(MultiScaleSampler(50, 4, (32, 64), 64))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("anchor", "counts"),
    [("base", (328, 228, 128, 101, 82)), ("largest", (512, 356, 200, 158, 128))],
)
def test_batches_of_the_paper(anchor: str, counts: tuple[int, ...]) -> None:
    sampler = MultiScaleSampler(10**6, 128, PAPER, 256, anchor)  # type: ignore[arg-type]
    assert tuple(step.size for step in sampler.choices) == PAPER
    assert tuple(step.count for step in sampler.choices) == counts
    printed = {  # what the paper's code and equation give, rounded downwards
        "base": (327, 227, 128, 101, 81),
        "largest": (512, 355, 200, 158, 128),
    }
    assert all(0 <= a - b <= 1 for a, b in zip(counts, printed[anchor], strict=True))


def test_all_sizes_are_equally_likely() -> None:
    sampler = MultiScaleSampler(300_000, 32, PAPER, 256)
    drawn = [step.size for step in sampler.steps]
    shares = [drawn.count(size) / len(drawn) for size in PAPER]
    assert len(drawn) > 5000
    assert max(shares) < 0.22
    assert min(shares) > 0.18


def test_one_size_is_a_plain_batch_sampler() -> None:
    sampler = MultiScaleSampler(100, 16, (64,), 64)
    assert [step.count for step in sampler.steps] == [16] * 6 + [4]
    assert [len(batch) for batch in MultiScaleSampler(33, 16, (64,), 64)] == [16, 17]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": ()}, "must be positive"),
        ({"sizes": (0, 64)}, "must be positive"),
        ({"batch_size": 0}, "must be positive"),
        ({"num_replicas": 0}, "must be positive"),
        ({"rank": 2, "num_replicas": 2}, "rank 2 is not one of 2"),
        ({"rank": -1}, "rank -1"),
        ({"length": 3, "num_replicas": 2}, "3 samples are too few for 2"),
        ({"anchor": "bse"}, "anchor is 'bse'"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_arguments_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    values = {"length": 100, "batch_size": 8, "sizes": (32, 64), "base_size": 64}
    with pytest.raises(ValueError, match=message):
        MultiScaleSampler(**(values | change))


# --- with datasets and loaders ---


def test_keys_are_integers_that_survive_copies() -> None:
    key = SampleKey(3, 96, 2**62)
    for twin in (key, pickle.loads(pickle.dumps(key)), copy.copy(key), copy.deepcopy(key)):
        assert twin == 3
        assert (twin.size, twin.seed) == (96, 2**62)
    assert "abcdef"[key] == "d"


class Pictures(Dataset[torch.Tensor]):
    """A dataset that looks at the size; its workers must get it."""

    def __getitem__(self, key: SampleKey) -> torch.Tensor:
        return torch.full((1, key.size, key.size), float(key))


@pytest.mark.parametrize("workers", [0, 2])
def test_any_dataset_in_a_plain_loader(workers: int) -> None:
    samplers = [MultiScaleSampler(60, 8, (8, 16), 16, num_replicas=2, rank=r) for r in (0, 1)]
    seen = []
    for sampler in samplers:
        loader = DataLoader(
            TensorDataset(torch.arange(60) * 10), batch_sampler=sampler, num_workers=workers
        )
        assert len(loader) == len(sampler.steps)
        seen += [int(value) for (batch,) in loader for value in batch]
    assert sorted(seen) == list(range(0, 600, 10))


def test_workers_get_the_size_and_go_on_over_epochs() -> None:
    sampler = MultiScaleSampler(40, 8, (8, 16), 16)
    loader = DataLoader(Pictures(), batch_sampler=sampler, num_workers=2, persistent_workers=True)
    for epoch, start in ((0, 0), (1, 0), (2, 1)):
        sampler.set_epoch(epoch, start)
        expected = list(sampler)
        for batch, keys in zip(loader, expected, strict=True):
            assert batch.shape == (len(keys), 1, keys[0].size, keys[0].size)
            assert batch[:, 0, 0, 0].tolist() == [float(key) for key in keys]
