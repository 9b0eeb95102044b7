"""Core ML packages: run by Core ML on a Mac, interpreted elsewhere."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilevit.deployment.quiet import quiet
from mobilevit.deployment.runtimes.artefact import Artefact, check_threads
from mobilevit.errors import UserError, require

SPEC = Path("Data/com.apple.CoreML/model.mlmodel")
WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")
"""Where a package keeps its program and the weights of it."""
WEIGHTS_HASH = "mobilevit.weights"
"""Key of the entry that binds the two: the SHA-256 of the weights."""
INTERPRETED = "interpreted, not run by Core ML on this machine"


class CoreMLPredictor(Artefact):
    """A network in a Core ML package.

    On a Mac, Core ML runs it. Elsewhere its program is interpreted by torch: what comes out is what
    the package says, rounded as it says, at no speed that means anything.

    Args:
        path: a package that ``export`` made.
        threads: of no effect; Core ML chooses its own.

    Raises:
        MissingExtraError: when coremltools, or off a Mac torch, is not installed.
        UserError: when the package cannot be read, holds no contract, or lacks its weights.
    """

    format = "coreml"

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        check_threads(threads)
        path = Path(path)
        spec = read_spec(path)
        image = spec.description.input[0].type.imageType
        super().__init__(
            path, spec.description.metadata.userDefined, (image.height, image.width), batch=1
        )
        _check_weights(path, spec.description.metadata.userDefined.get(WEIGHTS_HASH))
        self._model: _Native | _Interpreted
        self._model = _Native(path) if sys.platform == "darwin" else _Interpreted(path, spec)

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map a picture (1, 3, H, W) in [0, 1], which is rounded to 8 bit, to its outputs."""
        return self._model.infer(np.rint(images[0].transpose(1, 2, 0) * 255).astype(np.uint8))

    def describe(self) -> dict[str, Any]:
        """Return what is known of it, see ``Predictor``; and ``runs_as``, off a Mac."""
        return super().describe() | self._model.describe()


class _Native:
    """Core ML itself."""

    def __init__(self, path: Path) -> None:
        ct = load_coremltools()
        try:
            self.model = ct.models.MLModel(str(path))
        except Exception as error:
            raise UserError(f"{path}: Core ML cannot load it. ({error})") from error

    def infer(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        (output,) = self.model.predict({"image": Image.fromarray(picture)}).values()
        return np.asarray(output, np.float32)

    def describe(self) -> dict[str, Any]:
        return {}


class _Interpreted:
    """The program, computed by torch."""

    def __init__(self, path: Path, spec: Any) -> None:
        require("torch", "coreml")
        from mobilevit.deployment.mil import Program

        self.program = Program.read(spec, (path / WEIGHTS).parent, str(path))

    def infer(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        image = torch.from_numpy(picture.transpose(2, 0, 1)[None].astype(np.float32))
        return self.program.run(image).float().numpy()

    def describe(self) -> dict[str, Any]:
        """Return how it runs, and ``program``: what was counted in it.

        That is its operations by kind; how many compute in each type, and the names of those that
        stayed in fp32 among others in fp16: what scales the picture, and what has constants beyond
        fp16's range; the bytes of the weights by type; the operation that gave the largest value so
        far, and that value.
        """
        program = self.program
        computed = {name: len(operations) for name, operations in program.computed.items()}
        return {
            "runs_as": INTERPRETED,
            "program": {
                "operations": dict(program.operations),
                "computed_in": computed,
                "kept_in_fp32": program.computed["fp32"] if computed["fp16"] else [],
                "weight_bytes": dict(program.weights),
                "peak": list(program.peak),
            },
        }


def load_coremltools() -> ModuleType:
    """Import coremltools without its remarks on the versions of other libraries."""
    with quiet():
        return require("coremltools", "coreml")


def read_spec(path: Path) -> Any:
    """Return the description of a package.

    Raises:
        UserError: when it cannot be read.
    """
    load_coremltools()
    from coremltools.proto.Model_pb2 import Model
    from google.protobuf.message import DecodeError

    spec = Model()
    try:
        spec.ParseFromString((path / SPEC).read_bytes())
    except (OSError, DecodeError) as error:
        raise UserError(
            f"{path}: it is damaged or no Core ML package of a network. ({error})"
        ) from error
    if spec.WhichOneof("Type") != "mlProgram":
        raise UserError(f"{path}: it is damaged or no Core ML package of a network.")
    return spec


def hash_of(weights: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def _check_weights(path: Path, expected: str | None) -> None:
    """Find out whether the weights of a package are those it was made with.

    Raises:
        UserError: when they are others, or gone.
    """
    again = "Make it from a checkpoint with: mobilevit export MODEL --format coreml"
    if not (path / WEIGHTS).is_file():
        raise UserError(f"{path}: its weights, {WEIGHTS}, are missing. {again}")
    if hash_of(path / WEIGHTS) != expected:
        raise UserError(
            f"{path}: its weights, {WEIGHTS}, are damaged or those of another package. {again}"
        )
