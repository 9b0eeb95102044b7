"""One label for a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobilevit.data.folders import VAL_NAMES, Folders, Sample, read_folders
from mobilevit.deployment.contract import Contract
from mobilevit.tasks.classification.metrics import Accuracy
from mobilevit.tasks.classification.predictions import Label, Prediction, decode, softmax

if TYPE_CHECKING:
    from mobilevit.tasks.classification.training import ClassificationTraining
    from mobilevit.training.recipe import Recipe

__all__ = ["Accuracy", "Classification", "Label", "Prediction"]


class Classification:
    """Class folders in, logits out, judged by the share of right answers."""

    name = "classification"
    primary = "top1"

    def read(self, data: str | Path, val_fraction: float | None = 0.2) -> Folders[int]:
        """Find the pictures of a folder of class folders, see ``read_folders``."""
        if val_fraction is not None:
            return read_folders(data, val_fraction)
        folders = read_folders(data, 0.5)
        if (
            _top(folders, folders.val[0]) in VAL_NAMES
            and _top(folders, folders.train[0]) == "train"
        ):
            return folders
        whole = sorted((*folders.train, *folders.val), key=lambda s: (s.label, s.path))
        return replace(folders, train=tuple(whole), val=())

    def metric(self, contract: Contract) -> Accuracy:
        """Return an empty metric."""
        return Accuracy(contract.class_names)

    def decode(
        self,
        outputs: NDArray[np.floating[Any]],
        contract: Contract,
        paths: Sequence[str | Path],
        top: int = 5,
    ) -> list[Prediction]:
        """Return the ``top`` most probable labels of each picture; outputs are logits (N, K)."""
        return decode(outputs, contract.class_names, paths, top)

    def training(self, recipe: Recipe, class_names: Sequence[str]) -> ClassificationTraining:
        """Return the training side: datasets, batch augmentation, loss."""
        from mobilevit.tasks.classification.training import ClassificationTraining

        return ClassificationTraining(recipe, class_names)

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
            truths = np.array([folders.val[i].label for i in batch.positions], dtype=np.int64)
            logits = predictor.run(batch.images)
            metric.update(logits, truths)
            for picture, truth, row in zip(batch.images, truths, softmax(logits), strict=True):
                answer = int(row.argmax())
                if answer != truth:
                    mistakes.append(Mistake(picture, names[truth], names[answer], row[answer]))
            mistakes = sorted(mistakes, key=lambda mistake: -mistake.probability)[:MOSAIC]
        draw_confusion(folder / "confusion.png", metric.confusion.tolist(), names)
        draw_mistakes(folder / "mistakes.png", mistakes)


def _top(folders: Folders[int], sample: Sample[int]) -> str:
    """Return which folder right in the data set a picture lies in."""
    return sample.path.relative_to(folders.source).parts[0].lower()
