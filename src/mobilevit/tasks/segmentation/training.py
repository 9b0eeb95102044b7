"""The training side of segmentation: augmentation and loss."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from mobilevit.data.decoding import Picture, PictureError
from mobilevit.data.folders import Folders, Sample
from mobilevit.data.masks import IGNORED, Mask
from mobilevit.data.transforms import TrainDataset, distortions
from mobilevit.deployment.preprocess import KERNELS
from mobilevit.training.recipe import Recipe

GREY = 128
"""Of what lies outside a picture."""
Outputs = Tensor | tuple[Tensor, Tensor]
"""Logits (B, K, h, w) at the head's stride, and likewise those of a second head."""


class SegmentationTransform:
    """A square cut at random from a picture that is resized at random, and from its mask.

    The picture's shorter side becomes ``scale`` times the square's side; where it does not fill the
    square, the rest is grey, and ignored in the mask. Only what lies in the square is resampled,
    the mask by its nearest pixel; large JPEGs are decoded at a half, a quarter or an eighth of
    their size where that allows it. Every random number comes from torch's global generator.
    """

    def __init__(self, recipe: Recipe) -> None:
        config = recipe.augmentation
        self.scale = recipe.segmentation.scale
        self.kernel = KERNELS[config.interpolation]
        flip = v2.RandomHorizontalFlip(config.flip)
        self.finish = v2.Compose([flip, *distortions(config.distort)])

    def __call__(self, picture: Picture, mask: Mask, size: int) -> tuple[Tensor, Tensor]:
        """Augment a picture.

        Returns:
            (3, size, size) uint8 RGB; classes (size, size) uint8.

        Raises:
            PictureError: when the picture or its mask cannot be decoded.
        """
        zoom = float(torch.empty(1).uniform_(*self.scale))
        zoom *= size / min(picture.width, picture.height)
        columns, left = _interval(picture.width * zoom, size)
        rows, top = _interval(picture.height * zoom, size)
        filled = (columns.stop - columns.start, rows.stop - rows.start)
        corners = np.array([left, top, left + filled[0], top + filled[1]]) / zoom
        part = np.clip(corners / ([picture.width, picture.height] * 2), 0, 1)

        decoded = picture.decode(reduce=max(1.0, 1 / zoom))
        image = np.full((size, size, 3), GREY, np.uint8)
        image[rows, columns] = _resized(decoded, part, filled, self.kernel)
        classes = Image.fromarray(mask.read())
        target = np.full((size, size), IGNORED, np.uint8)
        target[rows, columns] = _resized(classes, part, filled, Image.Resampling.NEAREST)

        x, y = self.finish(
            tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)),
            tv_tensors.Mask(torch.from_numpy(target)),
        )
        return x.as_subclass(Tensor), y.as_subclass(Tensor)


class SegmentationDataset(TrainDataset):
    """Samples as (uint8 tensor (3, size, size), classes (size, size) uint8)."""

    def make(self, sample: Sample[Mask], size: int) -> tuple[Tensor, Tensor]:
        """Return the augmented picture and mask."""
        augmented: tuple[Tensor, Tensor] = self.transform(Picture(sample.path), sample.label, size)
        return augmented


class SegmentationTraining:
    """Augmentation and loss, see ``mobilevit.tasks.TrainingSide``."""

    score_name = "accuracy"

    def __init__(self, recipe: Recipe, folders: Folders[Mask]) -> None:
        self.class_names = folders.class_names
        self.transform = SegmentationTransform(recipe)
        self.smoothing = recipe.optimizer.label_smoothing
        self.aux_weight = recipe.segmentation.aux_weight
        self.weights: Tensor | None = None
        if recipe.segmentation.balance:
            pixels = count_pixels(folders.train, len(folders.class_names))
            self.weights = class_weights(pixels, recipe.segmentation.balance)

    def train_dataset(self, samples: Sequence[Sample[Mask]]) -> SegmentationDataset:
        """Return the augmented samples, to be indexed with ``SampleKey``."""
        return SegmentationDataset(samples, self.transform)

    def prepare(self, pictures: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Make a collated batch the network's input, float32 in [0, 1], channels-last."""
        x = torch.div(pictures, 255).contiguous(memory_format=torch.channels_last)
        return x, targets.long()

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """Return the cross-entropy of a pixel, times the pictures in the batch.

        With a second head its loss is added, ``aux_weight`` times.
        """
        if isinstance(outputs, Tensor):
            return self._loss(outputs, targets)
        logits, aux = outputs
        return self._loss(logits, targets) + self.aux_weight * self._loss(aux, targets)

    def score(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """Return the share of the labelled places given the right class, times the pictures.

        Places are those of the logits, each with the class of the pixel nearest to it.
        """
        logits = outputs if isinstance(outputs, Tensor) else outputs[0]
        size = (logits.shape[-2], logits.shape[-1])
        nearest = F.interpolate(targets[:, None].float(), size, mode="nearest-exact")[:, 0]
        labelled = nearest != IGNORED
        right = (logits.argmax(1) == nearest) & labelled
        share: Tensor = right.sum() / labelled.sum().clamp(min=1)
        return share * len(targets)

    def draw_batch(self, path: Path, pictures: Tensor, targets: Tensor) -> None:
        """Draw prepared pictures with their masks."""
        from mobilevit.tasks.segmentation.pictures import draw_batch

        masks = targets.cpu().numpy().astype(np.uint8)
        draw_batch(path, pictures.float().cpu().numpy(), masks, self.class_names)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return a pixel's mean; of no labelled pixel 0, where a plain mean would be NaN."""
        weights = None if self.weights is None else self.weights.to(logits.device)
        total = F.cross_entropy(
            _upsampled(logits, targets),
            targets,
            weights,
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.smoothing,
        )
        return total / (targets != IGNORED).sum().clamp(min=1) * len(targets)


def count_pixels(samples: Sequence[Sample[Mask]], classes: int) -> Tensor:
    """Return how many pixels (K,) of the masks each class has."""

    def count(sample: Sample[Mask]) -> NDArray[np.int64]:
        try:
            mask = sample.label.read()
        except PictureError:  # left out in training too, with a warning
            return np.zeros(classes, np.int64)
        return np.bincount(mask.ravel(), minlength=256)[:classes]

    with ThreadPoolExecutor() as pool:
        return torch.from_numpy(sum(pool.map(count, samples), np.zeros(classes, np.int64)))


def class_weights(pixels: Tensor, balance: float) -> Tensor:
    """Return what a pixel of each class (K,) weighs; over all pixels the mean is 1.

    A class without pixels weighs nothing.

    Args:
        pixels: of each class (K,).
        balance: power of the inverse of a class's share, from 0 to 1.
    """
    share = pixels / pixels.sum().clamp(min=1)
    weights = torch.where(share > 0, share.clamp(min=1e-12) ** -balance, 0)
    return (weights / (weights * share).sum().clamp(min=1e-12)).float()


def _interval(length: float, size: int) -> tuple[slice, float]:
    """Place an interval at random in a window, or a window in it where it is the longer one.

    Args:
        length: of the interval.
        size: of the window.

    Returns:
        The part of the window that is filled, and where in the interval that begins.
    """
    place = float(torch.rand(1))
    filled = max(1, min(size, round(length)))
    if filled == size:
        return slice(0, size), place * max(0.0, length - size)
    start = round(place * (size - filled))
    return slice(start, start + filled), 0.0


def _resized(
    picture: Image.Image,
    part: NDArray[np.float64],
    size: tuple[int, int],
    kernel: Image.Resampling,
) -> NDArray[np.uint8]:
    """Resample a part of a picture, its corners being shares of the sides."""
    left, top, right, bottom = part * ([*picture.size] * 2)
    return np.asarray(picture.resize(size, kernel, box=(left, top, right, bottom)), np.uint8)


def _upsampled(logits: Tensor, targets: Tensor) -> Tensor:
    size = (targets.shape[-2], targets.shape[-1])
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)
