"""One label for a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobilevit.data.box_sets import box_format
from mobilevit.data.folders import Folders, read_folders
from mobilevit.data.mask_sets import mask_format
from mobilevit.deployment.contract import Contract
from mobilevit.errors import UserError
from mobilevit.tasks.classification.metrics import Accuracy
from mobilevit.tasks.classification.predictions import Label, Prediction, decode, softmax

if TYPE_CHECKING:
    from torch import nn

    from mobilevit.tasks.classification.training import ClassificationTraining
    from mobilevit.training.recipe import Recipe

__all__ = ["Accuracy", "Classification", "Label", "Prediction"]


class Classification:
    """Class folders in, logits out, judged by the share of right answers."""

    name = "classification"
    primary = "top1"
    headline = ("top1", "top5")

    def read(self, data: str | Path, val_fraction: float | None = 0.2) -> Folders[int]:
        """Find the pictures of a folder of class folders, see ``read_folders``.

        Raises:
            UserError: when it is no such folder, or one of pictures with boxes or masks.
        """
        if found := box_format(data):
            raise UserError(
                f"{data}: holds boxes, as {found.upper()} has them, not class folders. To find "
                f"boxes train a detector: mobilevit train {data} --recipe boxes"
            )
        if mask_format(data):
            raise UserError(
                f"{data}: holds masks, not class folders. To name every pixel: mobilevit train "
                f"{data} --recipe masks"
            )
        return read_folders(data, val_fraction)

    def trainable(self, folders: Folders[int]) -> Folders[int]:
        """Return all of the folders: every picture has its class."""
        return folders

    def contract(self, recipe: Recipe, folders: Folders[int]) -> Contract:
        """Return the contract: the shorter side resized, the centre cropped, logits."""
        return Contract(
            task=self.name,
            class_names=folders.class_names,
            size=(recipe.data.size, recipe.data.size),
            resize=recipe.eval_resize,
            interpolation=recipe.augmentation.interpolation,
        )

    def deploy(
        self, network: nn.Module, contract: Contract, precision: str | None = None
    ) -> nn.Module:
        """Return the network itself, or its fast form: logits are what it gives."""
        from mobilevit.networks.inference import optimize

        return network if precision is None else optimize(network, precision)

    def metric(self, contract: Contract) -> Accuracy:
        """Return an empty metric."""
        return Accuracy(contract.class_names)

    def decode(
        self,
        outputs: NDArray[np.floating[Any]],
        contract: Contract,
        paths: Sequence[str | Path],
        top: int | None = None,
        threshold: float | None = None,
    ) -> list[Prediction]:
        """Return the ``top`` (5) likeliest labels of each picture; outputs are logits (N, K)."""
        top = 5 if top is None else top
        return decode(outputs, contract.class_names, paths, top, threshold or 0.0)

    def align(
        self, before: NDArray[np.float64], after: NDArray[np.float64], contract: Contract
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Return all logits, and for which pictures the first label is the same."""
        return before, after, before.argmax(axis=1) == after.argmax(axis=1)

    def training(
        self, recipe: Recipe, folders: Folders[int], network: nn.Module
    ) -> ClassificationTraining:
        """Return the training side: datasets, batch augmentation, loss."""
        from mobilevit.tasks.classification.training import ClassificationTraining

        return ClassificationTraining(recipe, folders.class_names)

    def draw_run(self, model: Path, folders: Folders[int], folder: Path) -> None:
        """Draw ``confusion.png`` and ``mistakes.png``."""
        from mobilevit.deployment.preprocess import batches
        from mobilevit.deployment.runtimes import load_predictor
        from mobilevit.tasks.classification.pictures import (
            MOSAIC,
            Mistake,
            draw_confusion,
            draw_mistakes,
        )

        predictor = load_predictor(model)
        names = predictor.contract.class_names
        metric = self.metric(predictor.contract)
        mistakes: list[Mistake] = []
        for batch in batches([s.path for s in folders.val], predictor.contract):
            if not batch.positions:
                continue
            truths = [folders.val[i].label for i in batch.positions]
            logits = predictor.run(batch.images)
            metric.update(logits, truths)
            for picture, truth, row in zip(batch.images, truths, softmax(logits), strict=True):
                answer = int(row.argmax())
                if answer != truth:
                    mistakes.append(Mistake(picture, names[truth], names[answer], row[answer]))
            mistakes = sorted(mistakes, key=lambda mistake: -mistake.probability)[:MOSAIC]
        draw_confusion(folder / "confusion.png", metric.confusion.tolist(), names)
        draw_mistakes(folder / "mistakes.png", mistakes)
