"""The multi-scale variable-batch sampler (MobileViT paper, section 3.2 and Appendix B)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from torch.utils.data import Sampler

Anchor = Literal["base", "largest"]


class SampleKey(int):
    """An index into a dataset that also carries how to make the sample.

    Any dataset that is indexed by integers takes it; one that looks finds the side to make
    the picture at and the seed of its augmentation. A dataset that turns an index into another
    one, as ``Subset`` and ``ConcatDataset`` do, gives the inner dataset a plain integer: it must
    stand inside the one that looks.

    Attributes:
        size: side of the square picture, in pixels.
        seed: seed of this sample's random numbers in this epoch.
    """

    size: int
    seed: int

    def __new__(cls, index: int, size: int, seed: int) -> SampleKey:
        key = super().__new__(cls, index)
        key.size, key.seed = size, seed
        return key

    def __reduce__(self) -> tuple[type[SampleKey], tuple[int, int, int]]:
        return SampleKey, (int(self), self.size, self.seed)


@dataclass(frozen=True)
class Step:
    """One step of an epoch: ``count`` samples over all processes, each at ``size`` pixels."""

    size: int
    count: int


class MultiScaleSampler(Sampler[list[SampleKey]]):
    """Draws a resolution for every step, and a batch whose number of pixels stays about the same.

    A batch sampler for any dataset and any ``DataLoader(batch_sampler=...)``. With b samples of
    side s0 as the anchor, a step at side s has ``b * s0² / s²`` samples (paper, section 3.2). With
    one size it is a plain shuffling batch sampler.

    The accounting is exact: an epoch has every sample once, over all processes; its steps are known
    before it starts (``steps``); at a step all processes have the same resolution, and their
    parts together are ``steps[i].count`` samples, differing by one at the most. A rest too small
    to give every process two samples joins the step before it. Order, sizes and augmentation seeds
    depend on ``seed``, the epoch and nothing else, so that any step can be reached again.

    Args:
        length: samples in the dataset.
        batch_size: samples in a step over all processes, at the anchor size; a step has two for
            each process at the least.
        sizes: sides to draw from, in pixels; all equally likely.
        base_size: the anchor; one of ``sizes``, or any other side.
        anchor: ``"base"``: ``batch_size`` is meant at ``base_size``, as in the authors' code;
            ``"largest"``: at the largest of ``sizes``, as in the paper's equation.
        num_replicas: processes.
        rank: which of them this is.
        seed: seed of everything drawn.

    Raises:
        ValueError: for an empty list of sizes, a number that is not positive, a negative seed, an
            unknown anchor, a rank out of range, or a dataset too small to give every process two
            samples.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        sizes: Sequence[int],
        base_size: int,
        anchor: Anchor = "base",
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
    ) -> None:
        if not len(sizes) or min(*sizes, base_size, batch_size, num_replicas) < 1:
            raise ValueError("sizes, base_size, batch_size and num_replicas must be positive")
        if anchor not in get_args(Anchor):
            raise ValueError(f"anchor is {anchor!r}; it must be one of {get_args(Anchor)}")
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must not be negative")
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank {rank} is not one of {num_replicas} processes")
        if length < 2 * num_replicas:
            raise ValueError(f"{length} samples are too few for {num_replicas} processes")
        self.length = length
        self.rank = rank
        self.num_replicas = num_replicas
        self.seed = seed
        side = base_size if anchor == "base" else max(sizes)
        least = 2 * num_replicas
        self.choices = [
            Step(size, max(least, round(batch_size * side**2 / size**2)))
            for size in sorted(set(sizes))
        ]
        self.set_epoch(0)

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """Go to a step of an epoch; the next iteration starts there.

        Raises:
            ValueError: when one of them is negative.
        """
        if min(epoch, step) < 0:
            raise ValueError(f"epoch {epoch}, step {step}: they must not be negative")
        self.epoch = epoch
        self.start = step
        self.steps = self.plan(epoch)

    def plan(self, epoch: int) -> list[Step]:
        """Return the steps of an epoch; their counts add up to the length of the dataset."""
        draw = np.random.default_rng([self.seed, epoch, 0])
        steps: list[Step] = []
        rest = self.length
        while rest > 0:
            step = self.choices[draw.integers(len(self.choices))]
            count = step.count
            if rest - count < 2 * self.num_replicas:
                count = rest
            steps.append(Step(step.size, count))
            rest -= count
        return steps

    def __len__(self) -> int:
        """Return the number of steps still to come in this epoch."""
        return len(self.steps) - self.start

    def __iter__(self) -> Iterator[list[SampleKey]]:
        draw = np.random.default_rng([self.seed, self.epoch, 1])
        order = draw.permutation(self.length)
        seeds = draw.integers(2**63, size=self.length)
        begin = sum(step.count for step in self.steps[: self.start])
        for step in self.steps[self.start :]:
            chunk = order[begin : begin + step.count]
            mine = np.array_split(chunk, self.num_replicas)[self.rank]
            yield [SampleKey(int(index), step.size, int(seeds[index])) for index in mine]
            begin += step.count

    def state_dict(self) -> dict[str, Any]:
        """Return where the next iteration starts."""
        return {"epoch": self.epoch, "step": self.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go where ``state_dict`` says."""
        self.set_epoch(**state)
