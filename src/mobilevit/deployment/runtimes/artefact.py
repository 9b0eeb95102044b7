"""What all artefacts have in common, whatever runs them. Needs no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from mobilevit.deployment.contract import Contract
from mobilevit.deployment.formats import FORMATS
from mobilevit.deployment.manifest import Manifest, Origin
from mobilevit.errors import UserError


class Predictor(Protocol):
    """Something that maps pictures to outputs.

    Attributes:
        path: the file it came from, or the name of the network if there is none.
        contract: how to feed and read it.
        origin: what it was trained on.
    """

    path: Path
    contract: Contract
    origin: Origin

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (N, 3, H, W) in [0, 1], as the contract wants them, to outputs (N, …)."""

    def describe(self) -> dict[str, Any]:
        """Return what is known of it, as plain values.

        Returns:
            ``model`` (path), ``network`` (name or ``None``), ``format``, ``precision``, ``size``
            (H, W), ``batch`` (pictures it takes at once; ``None``: any number), ``bytes`` on disk,
            ``parameters`` and ``multiply_adds`` of one picture; ``None`` where it is not known.
            Artefacts have ``quantised`` and ``delegated`` too, see ``Manifest``.
        """


class Artefact(ABC):
    """A network in a file of its own, in the runtime that is meant for it.

    Args:
        path: the file, or folder.
        entries: what the file says of itself, see ``Manifest``.
        size: height and width of the input that it really has, in pixels.
        batch: pictures that it takes at once; ``None``: any number.

    Raises:
        UserError: when there is no contract in it, or one that is not its own.
    """

    format: ClassVar[str]

    def __init__(
        self, path: Path, entries: Mapping[str, str], size: tuple[int, ...], batch: int | None
    ) -> None:
        self.path = path
        self.entries = dict(entries)
        self.manifest = Manifest.read(entries, path)
        self.contract = self.manifest.contract
        self.origin = self.manifest.origin
        self.batch = batch
        if tuple(size) != self.contract.size:
            raise UserError(
                f"{path}: its input is {tuple(size)}, but its contract says {self.contract.size}."
            )

    @abstractmethod
    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map as many pictures as it takes at once, (N, 3, H, W) in [0, 1], to outputs."""

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (N, 3, H, W) in [0, 1] to outputs (N, …), in as many steps as it takes.

        Raises:
            ValueError: when the images do not fit the contract.
        """
        check_images(images, self.contract)
        step = self.batch or len(images)
        parts = [self.infer(images[start : start + step]) for start in range(0, len(images), step)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def describe(self) -> dict[str, Any]:
        """Return what is known of it, see ``Predictor``."""
        known = self.manifest.network
        return {
            "model": str(self.path),
            "network": known.get("network"),
            "format": self.format,
            "precision": known.get("precision"),
            "size": list(self.contract.size),
            "batch": self.batch,
            "bytes": FORMATS[self.format].bytes(self.path),
            "parameters": known.get("parameters"),
            "multiply_adds": known.get("multiply_adds"),
            "quantised": known.get("quantised"),
            "delegated": known.get("delegated"),
        }


def check_images(images: NDArray[np.float32], contract: Contract) -> None:
    """Check that images are what a contract wants.

    Raises:
        ValueError: when they are not.
    """
    if images.dtype != np.float32 or images.shape[1:] != (3, *contract.size) or not len(images):
        raise ValueError(
            f"images are {images.dtype} {images.shape}, but the contract wants float32 "
            f"(N, 3, {contract.size[0]}, {contract.size[1]})"
        )


def check_threads(threads: int | None) -> int | None:
    """Return the number of threads.

    Raises:
        UserError: when it is below 1.
    """
    if threads is not None and threads < 1:
        raise UserError(f"threads is {threads}; it must be 1 or more.")
    return threads
