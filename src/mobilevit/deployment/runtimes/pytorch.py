"""One way to run a network, whatever it is stored in."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mobilevit.deployment.contract import Contract
from mobilevit.errors import UserError, require, unknown
from mobilevit.files import find_model

if TYPE_CHECKING:
    from torch import nn

    from mobilevit.checkpoints import Pretrained

CONTRACT = "mobilevit.contract"
NETWORK = "mobilevit.network"
ORIGIN = "mobilevit.origin"
COMPARISON = "mobilevit.comparison"
"""Keys of what is written into the metadata of an artefact, each as JSON."""

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Origin:
    """Which data a network was trained on, without saying where they lie.

    Attributes:
        data: a hash of the absolute path of the folder; empty where it is not known.
        val_fraction: the share held out from a folder without a split of its own.
    """

    data: str = ""
    val_fraction: float = 0.2

    @classmethod
    def of(cls, data: str | Path, val_fraction: float = 0.2) -> Origin:
        """Return the origin of a network that was trained on a folder."""
        path = str(Path(data).resolve()).encode(errors="surrogateescape")
        return cls(hashlib.blake2b(path, digest_size=8).hexdigest(), val_fraction)

    def is_at(self, data: str | Path) -> bool:
        """Return whether a folder is the one the network was trained on."""
        return self.data == Origin.of(data).data


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
        """


class OnnxPredictor:
    """A network in an ONNX file, run by ONNX Runtime on the CPU. Imports no torch.

    Args:
        path: a file that ``export`` made.
        threads: threads that compute; by default one for each physical core.

    Raises:
        MissingExtraError: when ONNX Runtime is not installed.
        UserError: when the file cannot be read, or holds no contract.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        runtime = require("onnxruntime", "onnx")
        self.path = Path(path)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = _checked_threads(threads) or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.session = runtime.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has a dozen kinds, with no base of their own
            raise UserError(
                f"{self.path}: ONNX Runtime cannot load it, it is damaged or no ONNX file. "
                f"({str(error).strip()})"
            ) from error
        self.metadata: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        if CONTRACT not in self.metadata:
            raise UserError(
                f"{self.path}: this ONNX file holds no contract, so how to feed and read it is not "
                "known. Make it from a checkpoint with: mobilevit export MODEL"
            )
        self.contract = Contract.from_json(self.metadata[CONTRACT], str(self.path))
        self.origin = Origin(**json.loads(self.metadata.get(ORIGIN, "{}")))
        self._input = self.session.get_inputs()[0]
        size = tuple(self._input.shape[2:])
        if size != self.contract.size:
            raise UserError(
                f"{self.path}: its input is {size}, but its contract says {self.contract.size}."
            )

    @property
    def batch(self) -> int | None:
        """Pictures that it takes at once, ``None`` for any number."""
        size = self._input.shape[0]
        return size if isinstance(size, int) else None

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (N, 3, H, W) in [0, 1] to outputs (N, …); a file for one picture is fed one by one.

        Raises:
            ValueError: when the images do not fit the contract.
        """
        _check_images(images, self.contract)
        step = self.batch or len(images)
        parts = [
            self.session.run(None, {self._input.name: images[start : start + step]})[0]
            for start in range(0, len(images), step)
        ]
        outputs: NDArray[np.float32] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return outputs

    def describe(self) -> dict[str, Any]:
        """Return what is known of it, see ``Predictor``."""
        known: dict[str, Any] = json.loads(self.metadata.get(NETWORK, "{}"))
        return {
            "model": str(self.path),
            "network": known.get("network"),
            "format": "onnx",
            "precision": known.get("precision"),
            "size": list(self.contract.size),
            "batch": self.batch,
            "bytes": self.path.stat().st_size,
            "parameters": known.get("parameters"),
            "multiply_adds": known.get("multiply_adds"),
        }


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
        self.threads = _checked_threads(threads)
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

    def _deployed(self) -> nn.Module:
        from mobilevit.tasks import get_task

        return get_task(self.contract.task).deploy(self.network, self.contract, self.precision)

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (N, 3, H, W) in [0, 1] to outputs (N, …).

        Raises:
            ValueError: when the images do not fit the contract.
        """
        import torch

        _check_images(images, self.contract)
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


def load_predictor(
    model: str | Path, threads: int | None = None, precision: str = "fp32"
) -> Predictor:
    """Open a network to run it.

    Args:
        model: an ``.onnx`` file, which needs no torch, or whatever ``load_pretrained`` takes: a run
            folder, a checkpoint, weights of another library, a name on the Hugging Face hub.
        threads: threads that compute; by default as many as the runtime finds good.
        precision: ``"fp32"`` or ``"bf16"``, of a checkpoint; an ONNX file has its own.

    Raises:
        UserError: when there is no such model, it cannot be read, or has no classifier.
    """
    if str(model).endswith(".onnx"):
        return OnnxPredictor(find_model(model), threads)
    from mobilevit.checkpoints import load_pretrained

    return TorchPredictor.from_pretrained(load_pretrained(model), threads, precision)


def remembered_data(checkpoint: Path) -> Path | None:
    """Return the folder of pictures that the run folder around a checkpoint names, if it does."""
    try:
        facts = json.loads((checkpoint.parent / "run.json").read_text(encoding="utf-8"))
        return Path(facts["data"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_origin(checkpoint: Path, recipe: dict[str, Any]) -> Origin:
    """Return what a checkpoint was trained on, as far as its run folder and its recipe tell."""
    data = remembered_data(checkpoint)
    fraction = recipe.get("data", {}).get("val_fraction", Origin.val_fraction)
    return Origin.of(data, fraction) if data else Origin()


def _check_images(images: NDArray[np.float32], contract: Contract) -> None:
    if images.dtype != np.float32 or images.shape[1:] != (3, *contract.size) or not len(images):
        raise ValueError(
            f"images are {images.dtype} {images.shape}, but the contract wants float32 "
            f"(N, 3, {contract.size[0]}, {contract.size[1]})"
        )


def _checked_threads(threads: int | None) -> int | None:
    if threads is not None and threads < 1:
        raise UserError(f"threads is {threads}; it must be 1 or more.")
    return threads


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
