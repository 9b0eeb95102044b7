"""Training augmentation, and the datasets that apply it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from mobilevit.data.decoding import Picture, PictureError, read_picture
from mobilevit.data.folders import Sample
from mobilevit.data.samplers import SampleKey
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.preprocess import preprocess
from mobilevit.training.recipe import AugmentationConfig

Target = TypeVar("Target")


class TrainTransform:
    """Random resized crop, flip and the optional policies, of a picture that is not yet decoded.

    The crop is drawn first, so that large JPEGs are decoded at a half, a quarter or an eighth of
    their size where the crop allows it. Every random number comes from torch's global generator.
    """

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config
        policies: list[v2.Transform] = [v2.RandomHorizontalFlip(config.flip)]
        if config.distort:
            policies += distortions(config.distort)
        if config.randaugment:
            policies.append(v2.RandAugment(num_ops=2, magnitude=config.randaugment))
        if config.erase:
            policies.append(v2.RandomErasing(config.erase))
        self.policies = v2.Compose(policies)
        self.mode = functional.InterpolationMode(config.interpolation)

    def __call__(self, picture: Picture, size: int) -> Tensor:
        """Return a (3, size, size) uint8 RGB tensor.

        Raises:
            PictureError: when the picture cannot be decoded.
        """
        shape = torch.empty(1, picture.height, picture.width, device="meta")
        top, left, height, width = transforms.RandomResizedCrop.get_params(
            shape, list(self.config.crop_scale), list(self.config.crop_ratio)
        )
        decoded = picture.decode(reduce=max(1.0, min(height, width) / size))
        top, height = _scaled(top, height, decoded.height / picture.height)
        left, width = _scaled(left, width, decoded.width / picture.width)
        crop = decoded.crop((left, top, left + width, top + height))
        x = torch.from_numpy(np.array(crop)).permute(2, 0, 1)
        x = functional.resize(x, [size, size], self.mode, antialias=True)
        augmented: Tensor = self.policies(x)
        return augmented


class TrainDataset(Dataset[tuple[Tensor, Any] | None]):
    """Samples as (uint8 tensor (3, size, size), label), augmented with the key's own seed.

    A picture that cannot be read any more gives ``None`` and a warning that names it. A task whose
    target is not the label overrides ``make``.
    """

    def __init__(self, samples: Sequence[Sample[Any]], transform: Any) -> None:
        self.samples = samples
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, Any] | None:
        sample = self.samples[key]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(key.seed)
            return _or_none(lambda: self.make(sample, key.size))

    def make(self, sample: Sample[Any], size: int) -> tuple[Tensor, Any]:
        """Return the augmented picture and what a network should give for it."""
        return self.transform(Picture(sample.path), size), sample.label


class EvalDataset(Dataset[tuple[Tensor, int] | None]):
    """Pictures as the contract wants them, and their places in the list.

    A sample is a float32 tensor (3, H, W) in [0, 1] and its index; one that cannot be read any more
    gives ``None`` and a warning.
    """

    def __init__(self, samples: Sequence[Sample[Any]], contract: Contract) -> None:
        self.samples = samples
        self.contract = contract

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | None:
        path = self.samples[index].path
        return _or_none(
            lambda: (torch.from_numpy(preprocess(read_picture(path), self.contract)), index)
        )


def distortions(probability: float) -> list[v2.Transform]:
    """Return SSD's changes of colour, in the authors' strengths, each made with a probability.

    Unlike torchvision's ``RandomPhotometricDistort`` they leave the order of the channels alone.
    """
    changes = (
        v2.ColorJitter(brightness=(0.875, 1.125)),
        v2.ColorJitter(contrast=(0.5, 1.5)),
        v2.ColorJitter(saturation=(0.5, 1.5)),
        v2.ColorJitter(hue=(-0.05, 0.05)),
    )
    return [v2.RandomApply([change], probability) for change in changes]


def collate(samples: Sequence[tuple[Tensor, Any] | None]) -> tuple[Tensor, Tensor]:
    """Stack samples into (B, 3, H, W), channels-last, and (B, …), without those that are ``None``.

    What comes with a picture is a number, or a tensor of the same shape with every picture.
    """
    readable = [sample for sample in samples if sample is not None]
    if not readable:
        return torch.empty(0, 3, 0, 0), torch.empty(0, dtype=torch.long)
    pictures, targets = zip(*readable, strict=True)
    channels_last = torch.stack([picture.permute(1, 2, 0) for picture in pictures])
    stacked = torch.stack([torch.as_tensor(target) for target in targets])
    return channels_last.permute(0, 3, 1, 2), stacked


def _or_none(make: Callable[[], tuple[Tensor, Target]]) -> tuple[Tensor, Target] | None:
    """Return what is made, or ``None`` and a warning where the picture cannot be read."""
    try:
        return make()
    except PictureError as error:
        warnings.warn(f"left out: {error}", stacklevel=2)
        return None


def _scaled(start: int, length: int, scale: float) -> tuple[int, int]:
    """Scale an interval of pixels to a picture of another size; at least one pixel is left."""
    first = int(start * scale)
    return first, max(1, round((start + length) * scale) - first)
