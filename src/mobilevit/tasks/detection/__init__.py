"""Boxes, each with a class and a score, for a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobilevit.data.box_sets import read_boxes
from mobilevit.data.boxes import Boxes
from mobilevit.data.folders import Folders
from mobilevit.deployment.contract import Contract
from mobilevit.tasks.detection.metrics import AveragePrecision
from mobilevit.tasks.detection.predictions import FoundBox, Prediction, decode, nearest_rows

if TYPE_CHECKING:
    from torch import nn

    from mobilevit.tasks.detection.training import DetectionTraining
    from mobilevit.training.recipe import Recipe

__all__ = ["AveragePrecision", "Detection", "FoundBox", "Prediction"]

SURE = 0.3
"""Score from which on a box is shown to people (the authors' demo)."""
COMPARED = 0.05
"""Score from which on a box counts when two forms of a network are compared."""


class Detection:
    """Pictures with boxes in, boxes out, judged by COCO's mean average precision."""

    name = "detection"
    primary = "map"
    headline = ("map", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "recall")

    def read(self, data: str | Path, val_fraction: float | None = 0.2) -> Folders[Boxes]:
        """Find the pictures of a data set of COCO, YOLO or Pascal VOC, see ``read_boxes``."""
        return read_boxes(data, val_fraction)

    def trainable(self, folders: Folders[Boxes]) -> Folders[Boxes]:
        """Leave out the pictures to train on that have no box, as the authors do.

        Where none of those to validate on has one, there is nothing to measure: all are left out.
        """
        train, val = (
            tuple(sample for sample in samples if len(sample.label.labels()))
            for samples in (folders.train, folders.val)
        )
        return replace(folders, train=train, val=folders.val if val else ())

    def contract(self, recipe: Recipe, folders: Folders[Boxes]) -> Contract:
        """Return the contract: the whole picture stretched, chosen boxes."""
        return Contract(
            task=self.name,
            class_names=folders.class_names,
            size=(recipe.data.size, recipe.data.size),
            resize=None,
            interpolation=recipe.augmentation.interpolation,
            output="detections",
            class_ids=folders.class_ids,
        )

    def deploy(
        self, network: nn.Module, contract: Contract, precision: str | None = None
    ) -> nn.Module:
        """Return the network with its boxes decoded and, for ``"detections"``, chosen."""
        from mobilevit.networks import SSDLite, TorchvisionSSDLite
        from mobilevit.networks.inference import optimize
        from mobilevit.tasks.detection.detector import Detector, Output

        assert isinstance(network, (SSDLite, TorchvisionSSDLite))
        output: Output = "candidates" if contract.output == "candidates" else "detections"
        detector = Detector(network, contract.size, output).eval()
        return detector if precision is None else optimize(detector, precision)

    def metric(self, contract: Contract) -> AveragePrecision:
        """Return an empty metric."""
        return AveragePrecision(contract.class_names, contract.output)

    def decode(
        self,
        outputs: NDArray[np.floating[Any]],
        contract: Contract,
        paths: Sequence[str | Path],
        top: int | None = None,
        threshold: float | None = None,
    ) -> list[Prediction]:
        """Return the boxes of each picture that score ``threshold`` (0.3) or more, best first."""
        threshold = SURE if threshold is None else threshold
        return decode(outputs, contract, paths, top, threshold)

    def training(
        self, recipe: Recipe, folders: Folders[Boxes], network: nn.Module
    ) -> DetectionTraining:
        """Return the training side: augmentation, targets of the network's anchors, loss."""
        from mobilevit.tasks.detection.training import DetectionTraining

        return DetectionTraining(recipe, folders, network)

    def align(
        self, before: NDArray[np.float64], after: NDArray[np.float64], contract: Contract
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Pair the boxes of two forms; of equal scores, rounding decides which one comes first.

        Of ``"detections"`` each box of either form that scores 0.05 or more is put beside the
        nearest of its class of the other; ``"candidates"`` have an order of their own, and the
        first answer is the class that any place is surest of.
        """
        if contract.output == "detections":
            return nearest_rows(before, after, COMPARED)
        best = [form[:, :, 4:].max(axis=1).argmax(axis=1) for form in (before, after)]
        return before, after, best[0] == best[1]

    def draw_run(self, model: Path, folders: Folders[Boxes], folder: Path) -> None:
        """Draw ``predictions.png``, truth beside answers, and ``precision_recall.png``."""
        from mobilevit.deployment.preprocess import batches
        from mobilevit.deployment.runtimes import load_predictor
        from mobilevit.tasks.detection.pictures import draw_precision_recall, draw_truth_beside

        predictor = load_predictor(model)
        contract = predictor.contract
        metric = self.metric(contract)
        found: list[Prediction] = []
        for batch in batches([sample.path for sample in folders.val], contract):
            if batch.positions:
                outputs = predictor.run(batch.images)
                samples = [folders.val[position] for position in batch.positions]
                metric.update(outputs, [sample.label for sample in samples])
                found += self.decode(outputs, contract, [sample.path for sample in samples])
        draw_truth_beside(folder / "predictions.png", found, folders)
        draw_precision_recall(folder / "precision_recall.png", metric.precision_recall())
