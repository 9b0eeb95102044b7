"""The training side of detection: augmentation, targets of the anchors, loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from mobilevit.data.boxes import Box, Boxes
from mobilevit.data.decoding import Picture
from mobilevit.data.folders import Folders, Sample
from mobilevit.data.transforms import TrainDataset, distortions
from mobilevit.tasks.detection.matching import CODER, match, ssd_loss
from mobilevit.training.recipe import Recipe

OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Smallest overlap with a box that a crop is asked for; 1: no crop (SSD, ECCV 2016)."""
Outputs = tuple[Tensor, Tensor]


class DetectionTransform:
    """SSD's crop, flip and distortion of a picture and its boxes, resized to a square.

    Numbers are the authors' (``config/detection/ssd_coco/mobilevit.yaml``), the transforms
    torchvision's. A picture is decoded at no more than about twice the size it is trained at, and
    its colours are changed after it was made small: both spare time. Every random number comes from
    torch's global generator.
    """

    def __init__(self, recipe: Recipe) -> None:
        config = recipe.detection
        self.mode = v2.functional.InterpolationMode(recipe.augmentation.interpolation)
        crop = v2.RandomIoUCrop(0.3, 1.0, 0.5, 2.0, list(OVERLAPS), trials=40)
        self.place = v2.Compose(
            [
                v2.RandomZoomOut(fill=128, p=config.zoom_out),
                v2.RandomApply([crop], p=config.iou_crop),
                v2.RandomHorizontalFlip(recipe.augmentation.flip),
            ]
        )
        self.finish = v2.Compose(
            [
                *distortions(recipe.augmentation.distort),
                v2.ClampBoundingBoxes(),
                v2.SanitizeBoundingBoxes(),
            ]
        )

    def __call__(self, picture: Picture, boxes: Boxes, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Augment a picture.

        Returns:
            (3, size, size) uint8 RGB; corners (N, 4) as shares of the sides; classes (N,).

        Raises:
            PictureError: when the picture cannot be decoded.
        """
        decoded = picture.decode(reduce=max(1.0, min(picture.width, picture.height) / (2 * size)))
        sides = torch.tensor([decoded.width, decoded.height] * 2)
        x: dict[str, Any] = {
            "image": tv_tensors.Image(torch.from_numpy(np.array(decoded)).permute(2, 0, 1)),
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(boxes.corners()) * sides,
                format="XYXY",
                canvas_size=(decoded.height, decoded.width),
            ),
            "labels": torch.from_numpy(boxes.labels()),
        }
        x = self.place(x)
        x = v2.Resize((size, size), self.mode, antialias=True)(x)
        x = self.finish(x)
        return x["image"].as_subclass(Tensor), x["boxes"].as_subclass(Tensor) / size, x["labels"]


class DetectionDataset(TrainDataset):
    """Samples as (uint8 tensor (3, size, size), targets of the anchors (A, 5)).

    Args:
        samples: pictures with boxes.
        transform: augments them.
        anchors: (A, 4) for each size that is asked for.
    """

    def __init__(
        self,
        samples: Sequence[Sample[Boxes]],
        transform: DetectionTransform,
        anchors: Mapping[int, Tensor],
    ) -> None:
        super().__init__(samples, transform)
        self.anchors = anchors

    def make(self, sample: Sample[Boxes], size: int) -> tuple[Tensor, Tensor]:
        """Return the augmented picture and what its anchors should learn."""
        image, corners, labels = self.transform(Picture(sample.path), sample.label, size)
        return image, match(self.anchors[size], corners, labels)


class DetectionTraining:
    """What the training function needs to know of detection."""

    score_name = "matched"

    def __init__(self, recipe: Recipe, folders: Folders[Boxes], network: Any) -> None:
        self.class_names = folders.class_names
        self.transform = DetectionTransform(recipe)
        self.smoothing = recipe.optimizer.label_smoothing
        sizes = {*recipe.train_sizes}
        self.anchors: dict[int, Tensor] = {s: network.anchors((s, s)) for s in sizes}

    def train_dataset(self, samples: Sequence[Sample[Boxes]]) -> DetectionDataset:
        """Return the augmented samples, to be indexed with ``SampleKey``."""
        return DetectionDataset(samples, self.transform, self.anchors)

    def prepare(self, pictures: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Make a collated batch the network's input, float32 in [0, 1], channels-last."""
        x = torch.div(pictures, 255).contiguous(memory_format=torch.channels_last)
        return x, targets

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """Return SSD's loss of a positive anchor, times the pictures in the batch."""
        return ssd_loss(*outputs, targets, self.smoothing) * len(targets)

    def score(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """Return the share of the positive anchors given the right class, times the pictures."""
        classes = targets[..., 4].long()
        positive = classes > 0
        right = (outputs[0].argmax(-1) == classes) & positive
        share: Tensor = right.sum() / positive.sum().clamp(min=1)
        return share * len(targets)

    def draw_batch(self, path: Path, pictures: Tensor, targets: Tensor) -> None:
        """Draw prepared pictures with the boxes that their anchors are to find."""
        from mobilevit.tasks.detection.pictures import draw_batch

        height, width = pictures.shape[-2:]
        shown = [self._to_boxes(target.cpu(), width, height) for target in targets]
        draw_batch(path, pictures.float().cpu().numpy(), shown, self.class_names)

    def _to_boxes(self, target: Tensor, width: int, height: int) -> Boxes:
        """Return the boxes that the anchors of a picture are to find, each once."""
        positive = target[:, 4] > 0
        anchors = self.anchors[height][positive]
        corners = CODER.decode_single(target[positive, :4], anchors)
        corners = corners * torch.tensor([width, height] * 2)
        rows = torch.cat((corners.round(), target[positive, 4:] - 1), 1).tolist()
        found = sorted({(*corners, int(label)) for *corners, label in rows})
        return Boxes(tuple(Box(*numbers) for numbers in found), width, height)
