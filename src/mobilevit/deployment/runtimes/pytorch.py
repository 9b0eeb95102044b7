"""Networks of this package, run by PyTorch."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobilevit.data.folders import fingerprint
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.manifest import Origin
from mobilevit.deployment.runtimes.artefact import check_images, check_threads
from mobilevit.errors import UserError, unknown

if TYPE_CHECKING:
    from torch import nn

    from mobilevit.checkpoints import Pretrained

PRECISIONS = ("fp32", "bf16")


class TorchPredictor:
    """A network of this package, in its inference form, on the CPU.

    Args:
        network: maps (N, 3, H, W) to outputs; it is left as it was.
        contract: how to feed and read it.
        path: the file it came from.
        name: name of the network.
        threads: threads that compute; by default torch's own number. It is set while the network
            runs and put back afterwards.
        precision: ``"fp32"`` or ``"bf16"``.
        origin: what it was trained on.

    Raises:
        UserError: for another precision, or fewer than one thread.
    """

    def __init__(
        self,
        network: nn.Module,
        contract: Contract,
        path: Path,
        name: str | None = None,
        threads: int | None = None,
        precision: str = "fp32",
        origin: Origin | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        self.network = network
        self.contract = contract
        self.path = path
        self.name = name
        self.threads = check_threads(threads)
        self.precision = precision
        self.origin = origin or Origin()
        self._fast = self._deployed()

    @classmethod
    def from_pretrained(
        cls,
        found: Pretrained,
        threads: int | None = None,
        precision: str = "fp32",
        size: tuple[int, int] | None = None,
    ) -> TorchPredictor:
        """Make one of what ``load_pretrained`` found; ``size`` replaces the contract's.

        What was loaded of another library's weights is printed to standard error.

        Raises:
            UserError: when it has no classifier, or takes something else than RGB.
        """
        from mobilevit.tasks import list_tasks

        checkpoint, source = found.checkpoint, found.report.source
        again = "Train one with: mobilevit train PHOTOS --weights"
        if not checkpoint.contract.class_names:
            raise UserError(f"{source}: it has no classifier. {again} {source}")
        if checkpoint.contract.task not in list_tasks():
            raise UserError(
                f"{source}: it is a network for {checkpoint.contract.task}, which is not run here "
                f"yet. Its backbone can be trained: mobilevit train PHOTOS --weights {source}"
            )
        channels = checkpoint.architecture.get("in_chans", 3)
        if channels != 3:
            raise UserError(
                f"{source}: it takes {channels} channels, and pictures "
                f"have three here. {again} {source}"
            )
        if found.report.library != "mobilevit":
            from rich.console import Console

            found.report.print(Console(stderr=True))
        contract = checkpoint.contract
        return cls(
            checkpoint.network,
            replace(contract, size=size) if size else contract,
            found.path if Path(source).exists() else Path(source),
            checkpoint.architecture["model"],
            threads,
            precision,
            read_origin(found.path, checkpoint.recipe),
        )

    def with_contract(self, contract: Contract) -> TorchPredictor:
        """Return a copy that is fed and read as another contract says, at another size perhaps."""
        other = copy.copy(self)
        other.contract = contract
        other._fast = other._deployed()
        return other

    def tried(self) -> TorchPredictor:
        """Return the predictor itself, after one run.

        Raises:
            UserError: when its network does not run on pictures of the contract's size.
        """
        height, width = self.contract.size
        try:
            self.run(np.zeros((1, 3, height, width), np.float32))
        except (AssertionError, RuntimeError, ValueError) as error:  # as its layers have it
            raise UserError(
                f"{self.name or self.path} does not run on {height} × {width} pixels ({error})."
            ) from error
        return self

    def _deployed(self) -> nn.Module:
        from mobilevit.tasks import get_task

        return get_task(self.contract.task).deploy(self.network, self.contract, self.precision)

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (N, 3, H, W) in [0, 1] to outputs (N, …).

        Raises:
            ValueError: when the images do not fit the contract.
        """
        import torch

        check_images(images, self.contract)
        with _torch_threads(self.threads):
            outputs: NDArray[np.float32] = self._fast(torch.from_numpy(images)).numpy()
        return outputs

    def describe(self) -> dict[str, Any]:
        """Return what is known of it, see ``Predictor``."""
        from mobilevit.deployment.cost import count_multiply_adds, count_parameters

        return {
            "model": str(self.path),
            "network": self.name,
            "format": "pytorch",
            "precision": self.precision,
            "size": list(self.contract.size),
            "batch": None,
            "bytes": self.path.stat().st_size if self.path.is_file() else None,
            "parameters": count_parameters(self.network),
            "multiply_adds": count_multiply_adds(self.network, self.contract.size),
        }


def remembered_data(checkpoint: Path) -> Path | None:
    """Return the folder of pictures that the run folder around a checkpoint names, if it does."""
    try:
        facts = json.loads((checkpoint.parent / "run.json").read_text(encoding="utf-8"))
        return Path(facts["data"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_origin(checkpoint: Path, recipe: dict[str, Any]) -> Origin:
    """Return where a network comes from, as far as its file, run folder and recipe tell."""
    data = remembered_data(checkpoint)
    fraction = recipe.get("data", {}).get("val_fraction", Origin.val_fraction)
    of_file = fingerprint(checkpoint, whole=True) if checkpoint.is_file() else ""
    return Origin.of(data, fraction, of_file) if data else Origin(checkpoint=of_file)


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    if threads in (None, before):
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
