"""What the verbs ask of a task. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilevit.data.folders import Folders
from mobilevit.deployment.contract import Contract

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from mobilevit.data.folders import Sample
    from mobilevit.training.recipe import Recipe


class Metric(Protocol):
    """How good outputs are, gathered batch by batch and over processes."""

    def update(self, outputs: NDArray[np.floating[Any]], labels: Sequence[Any]) -> None:
        """Add a batch: outputs of the network (N, …) and the labels of the N pictures."""

    def merge(self, other: Any) -> None:
        """Add what another metric of the same kind has gathered."""

    def compute(self) -> dict[str, Any]:
        """Return all numbers by name, as plain Python."""


class Prediction(Protocol):
    """What a network says of one picture."""

    @property
    def path(self) -> str:
        """The picture."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""

    def summary(self) -> str:
        """Return it as one line for people."""

    def draw(self, picture: Image.Image) -> Image.Image:
        """Return a copy of the picture, upright and in RGB, with the answers drawn on it."""


class TrainingSide(Protocol):
    """What training asks of a task, for one recipe and one set of classes.

    Attributes:
        score_name: what ``score`` is called among the metrics, behind ``train_``.
    """

    @property
    def score_name(self) -> str: ...

    def train_dataset(self, samples: Sequence[Sample[Any]]) -> Dataset[Any]:
        """Return the augmented samples, to be indexed with ``SampleKey``."""

    def prepare(self, pictures: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Make a collated batch the network's input, in [0, 1], and the loss's target."""

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the loss of what the network gives, summed over the batch."""

    def score(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return a share of right answers in a training batch, summed over the batch."""

    def draw_batch(self, path: Path, pictures: Tensor, targets: Tensor) -> None:
        """Draw prepared inputs and targets into a PNG."""


class Task(Protocol):
    """What a network is for: its data, its metric and the meaning of its outputs.

    Attributes:
        name: as the contract has it.
        primary: the metric that says which epoch was best; higher is better.
        headline: the metrics to show first, shares from 0 to 1, the primary one before all.
    """

    name: str
    primary: str

    @property
    def headline(self) -> tuple[str, ...]: ...

    def read(self, data: str | Path, val_fraction: float | None = 0.2) -> Folders[Any]:
        """Find the labelled pictures of a data set.

        Args:
            data: a folder.
            val_fraction: the share held out from a folder without a split of its own; none: the
                whole of it comes as ``train``.
        """

    def trainable(self, folders: Folders[Any]) -> Folders[Any]:
        """Return the folders without the pictures that teach, or show, nothing."""

    def contract(self, recipe: Recipe, folders: Folders[Any]) -> Contract:
        """Return the contract of a network that is trained so."""

    def deploy(
        self, network: nn.Module, contract: Contract, precision: str | None = None
    ) -> nn.Module:
        """Return a module that maps (N, 3, H, W) in [0, 1] to the contract's output.

        Args:
            network: as it is trained.
            contract: of the network.
            precision: make it fast for that (``optimize``); none: leave it as it is, for export.
        """

    def metric(self, contract: Contract) -> Metric:
        """Return an empty metric for outputs of a network with this contract."""

    def decode(
        self,
        outputs: NDArray[np.floating[Any]],
        contract: Contract,
        paths: Sequence[str | Path],
        top: int | None = None,
        threshold: float | None = None,
    ) -> Sequence[Prediction]:
        """Say what outputs (N, …) mean, one prediction for each of the N pictures.

        Args:
            outputs: of the network.
            contract: of the network.
            paths: the pictures.
            top: how many answers each prediction holds at most; none: as is usual for the task.
            threshold: how probable an answer is at least; none: likewise.
        """

    def align(
        self, before: NDArray[np.float64], after: NDArray[np.float64], contract: Contract
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Put the outputs of two forms of a network beside one another.

        Args:
            before: of the first, (N, …).
            after: of the second.
            contract: of both.

        Returns:
            What to compare of either, of the same shape, and for each of the N pictures, or each
            of their pixels, whether the first answer is the same (M,).
        """

    def training(self, recipe: Recipe, folders: Folders[Any], network: nn.Module) -> TrainingSide:
        """Return the training side of the task, for a network to be trained on pictures."""

    def draw_run(self, model: Path, folders: Folders[Any], folder: Path) -> None:
        """Draw what a trained network does on the val pictures.

        Args:
            model: the checkpoint.
            folders: the pictures it was trained and evaluated on.
            folder: where the PNGs are written.
        """
