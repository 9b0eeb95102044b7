"""What the verbs ask of a task. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mobilevit.data.folders import Folders
from mobilevit.deployment.contract import Contract

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset

    from mobilevit.data.folders import Sample
    from mobilevit.training.recipe import Recipe


class Metric(Protocol):
    """How good outputs are, gathered batch by batch and over processes."""

    def update(self, outputs: NDArray[np.floating[Any]], targets: NDArray[np.integer[Any]]) -> None:
        """Add a batch: outputs of the network (N, …) and what they should have been (N, …)."""

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


class TrainingSide(Protocol):
    """What training asks of a task, for one recipe and one set of classes."""

    def collate(self, samples: Any) -> Any:
        """Make a batch of samples: inputs and targets, as tensors."""

    def train_dataset(self, samples: Sequence[Sample[Any]]) -> Dataset[Any]:
        """Return the augmented samples, to be indexed with ``SampleKey``."""

    def eval_dataset(self, samples: Sequence[Sample[Any]], contract: Contract) -> Dataset[Any]:
        """Return the samples as the contract wants them."""

    def prepare(self, pictures: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Make a collated batch the network's input, in [0, 1], and the loss's target."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, summed over the batch."""

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the primary metric of a training batch, summed over the batch."""

    def draw_batch(self, path: Path, pictures: Tensor, targets: Tensor) -> None:
        """Draw prepared inputs and targets into a PNG."""


class Task(Protocol):
    """What a network is for: its data, its metric and the meaning of its outputs.

    Attributes:
        name: as the contract has it.
        primary: the metric that says which epoch was best; higher is better.
    """

    name: str
    primary: str

    def read(self, data: str | Path, val_fraction: float | None = 0.2) -> Folders[Any]:
        """Find the labelled pictures of a data set.

        Args:
            data: a folder.
            val_fraction: the share held out from a folder without a split of its own; none: the
                whole of it comes as ``train``.
        """

    def metric(self, contract: Contract) -> Metric:
        """Return an empty metric for outputs of a network with this contract."""

    def decode(
        self,
        outputs: NDArray[np.floating[Any]],
        contract: Contract,
        paths: Sequence[str | Path],
        top: int = 5,
    ) -> Sequence[Prediction]:
        """Say what outputs (N, …) mean, one prediction for each of the N pictures.

        Args:
            outputs: of the network.
            contract: of the network.
            paths: the pictures.
            top: how many answers each prediction holds at most.
        """

    def training(self, recipe: Recipe, class_names: Sequence[str]) -> TrainingSide:
        """Return the training side of the task."""

    def draw_run(self, model: Path, folders: Folders[Any], folder: Path) -> None:
        """Draw what a trained network does on the val pictures.

        Args:
            model: the checkpoint.
            folders: the pictures it was trained and evaluated on.
            folder: where the PNGs are written.
        """
