"""The training side of classification: its datasets, batch augmentation and loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from mobilevit.data.folders import Sample
from mobilevit.data.transforms import TrainDataset, TrainTransform
from mobilevit.training.recipe import Recipe


class ClassificationTraining:
    """What the training function needs to know of classification."""

    score_name = "top1"

    def __init__(self, recipe: Recipe, class_names: Sequence[str]) -> None:
        self.class_names = class_names
        num_classes = len(class_names)
        self.transform = TrainTransform(recipe.augmentation)
        self.smoothing = recipe.optimizer.label_smoothing
        mixes: list[v2.Transform] = []
        if recipe.augmentation.mixup:
            mixes.append(v2.MixUp(alpha=recipe.augmentation.mixup, num_classes=num_classes))
        if recipe.augmentation.cutmix:
            mixes.append(v2.CutMix(alpha=recipe.augmentation.cutmix, num_classes=num_classes))
        self.mix = v2.RandomChoice(mixes) if mixes else None

    def train_dataset(self, samples: Sequence[Sample[int]]) -> TrainDataset:
        """Return the augmented samples, to be indexed with ``SampleKey``."""
        return TrainDataset(samples, self.transform)

    def prepare(self, pictures: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Make a collated batch the network's input and the loss's target.

        Returns:
            (B, 3, H, W) float32 in [0, 1], channels-last; labels (B,), or (B, K) if mixed.
        """
        x = torch.div(pictures, 255).contiguous(memory_format=torch.channels_last)
        if self.mix is not None:
            x, targets = self.mix(x, targets)
        return x, targets

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy with label smoothing, summed over the batch."""
        return F.cross_entropy(outputs, targets, reduction="sum", label_smoothing=self.smoothing)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return how many of a training batch are right; of mixed ones, by the larger share."""
        labels = targets.argmax(1) if targets.ndim == 2 else targets
        return (outputs.argmax(1) == labels).sum()

    def draw_batch(self, path: Path, pictures: Tensor, targets: Tensor) -> None:
        """Draw prepared pictures with their labels; of mixed ones, the larger share."""
        from mobilevit.tasks.classification.pictures import draw_batch

        labels = targets.argmax(1) if targets.ndim == 2 else targets
        titles = [self.class_names[label] for label in labels.tolist()]
        draw_batch(path, pictures.float().cpu().numpy(), titles)
