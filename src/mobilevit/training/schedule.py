"""The learning rate and the averaging of weights, as functions of what has been seen."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mobilevit.training.recipe import Recipe


def learning_rate(recipe: Recipe, samples: int, epoch_samples: int) -> float:
    """Return the learning rate after ``samples`` samples (paper, section 4.1).

    Linear warm-up from ``min_lr`` to ``lr``, then a cosine back to ``min_lr``. It is counted in
    samples, so that it does not depend on which resolutions, and so batch sizes, were drawn.
    """
    high, low = recipe.optimizer.lr, recipe.min_lr
    total = recipe.training.epochs * epoch_samples
    warmup = min(recipe.optimizer.warmup_epochs * epoch_samples, total / 2)
    if samples < warmup:
        return low + (high - low) * samples / warmup
    return low + (high - low) * (1 + math.cos(math.pi * (samples - warmup) / (total - warmup))) / 2


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """Return the exponential moving average of a network's weights and statistics.

    The decay grows with the updates t as (1 + t) / (10 + t) up to ``decay``, so that a short run
    does not remember its random start.
    """

    @torch.no_grad()
    def update(average: list[Tensor], current: list[Tensor], updates: Tensor) -> None:
        t = float(updates)
        weight = 1 - min(decay, (1 + t) / (10 + t))
        if average[0].is_floating_point():
            torch._foreach_lerp_(average, current, weight)
        else:
            torch._foreach_copy_(average, current)

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)  # type: ignore[arg-type]
