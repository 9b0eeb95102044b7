"""The class of every pixel of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobilevit.data.folders import Folders, spread
from mobilevit.data.mask_sets import read_masks
from mobilevit.data.masks import Mask
from mobilevit.deployment.contract import Contract
from mobilevit.tasks.segmentation.metrics import IntersectionOverUnion
from mobilevit.tasks.segmentation.predictions import Prediction, decode

if TYPE_CHECKING:
    from torch import nn

    from mobilevit.tasks.segmentation.training import SegmentationTraining
    from mobilevit.training.recipe import Recipe

__all__ = ["IntersectionOverUnion", "Prediction", "Segmentation"]


class Segmentation:
    """Pictures with masks in, masks out, judged by the mean intersection over union."""

    name = "segmentation"
    primary = "miou"
    headline = ("miou", "pixel_accuracy", "mean_accuracy")

    def read(self, data: str | Path, val_fraction: float | None = 0.2) -> Folders[Mask]:
        """Find the pictures of a data set and their masks, see ``read_masks``."""
        return read_masks(data, val_fraction)

    def trainable(self, folders: Folders[Mask]) -> Folders[Mask]:
        """Return the folders as they are."""
        return folders

    def contract(self, recipe: Recipe, folders: Folders[Mask]) -> Contract:
        """Return the contract: the whole picture stretched, logits of every pixel."""
        return Contract(
            task=self.name,
            class_names=folders.class_names,
            size=recipe.eval_size,
            resize=None,
            interpolation=recipe.augmentation.interpolation,
            output="pixel_logits",
            class_ids=folders.class_ids,
        )

    def deploy(
        self, network: nn.Module, contract: Contract, precision: str | None = None
    ) -> nn.Module:
        """Return the network with its logits upsampled, for ``"pixel_logits"``."""
        from mobilevit.networks.inference import optimize
        from mobilevit.tasks.segmentation.segmenter import Segmenter

        segmenter = Segmenter(network, contract.size, contract.output).eval()
        return segmenter if precision is None else optimize(segmenter, precision)

    def metric(self, contract: Contract) -> IntersectionOverUnion:
        """Return an empty metric."""
        return IntersectionOverUnion(contract.class_names, contract.output)

    def decode(
        self,
        outputs: NDArray[np.floating[Any]],
        contract: Contract,
        paths: Sequence[str | Path],
        top: int | None = None,
        threshold: float | None = None,
    ) -> list[Prediction]:
        """Return the class of every pixel of each picture, at its own size."""
        return decode(outputs, contract, paths, top, threshold)

    def training(
        self, recipe: Recipe, folders: Folders[Mask], network: nn.Module
    ) -> SegmentationTraining:
        """Return the training side: augmentation and loss."""
        from mobilevit.tasks.segmentation.training import SegmentationTraining

        return SegmentationTraining(recipe, folders)

    def align(
        self, before: NDArray[np.float64], after: NDArray[np.float64], contract: Contract
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Return both as they are, and for every pixel whether its class is the same."""
        return before, after, (before.argmax(1) == after.argmax(1)).ravel()

    def draw_run(self, model: Path, folders: Folders[Mask], folder: Path) -> None:
        """Draw ``predictions.png``, truth beside answers, and ``confusion.png``."""
        from mobilevit.data.drawing import MOSAIC
        from mobilevit.deployment.preprocess import batches
        from mobilevit.deployment.runtimes import load_predictor
        from mobilevit.tasks.segmentation.pictures import draw_confusion, draw_truth_beside

        predictor = load_predictor(model)
        contract = predictor.contract
        metric = self.metric(contract)
        shown = {sample.path for sample in spread(folders.val, MOSAIC)}
        found: list[Prediction] = []
        for batch in batches([sample.path for sample in folders.val], contract):
            for image, position in zip(batch.images, batch.positions, strict=True):
                sample = folders.val[position]
                outputs = predictor.run(image[None])
                metric.update(outputs, [sample.label])
                if sample.path in shown:
                    found += self.decode(outputs, contract, [sample.path])
        draw_truth_beside(folder / "predictions.png", found, folders)
        draw_confusion(folder / "confusion.png", metric.confusion(), contract.class_names)
