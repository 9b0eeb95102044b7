"""The formats of artefacts, and which options each of them honours. Needs no torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.manifest import CONTRACT
from mobilevit.errors import MissingExtraError, UserError, unknown

if TYPE_CHECKING:
    from mobilevit.deployment.exporters import Exporter
    from mobilevit.deployment.runtimes.artefact import Artefact


@dataclass(frozen=True)
class Format:
    """A format, and what can be asked of it.

    Attributes:
        name: as options and artefacts have it.
        title: as people know it.
        suffix: of its files, or folders.
        extra: of this package, that installs what is needed.
        builds: the libraries that write it.
        runs: the libraries that run it.
        exporter_class: in ``exporters/NAME.py``.
        runtime_class: in ``runtimes/NAME.py``.
        precisions: that it is written in for the usual backend, the usual one first.
        dynamic_batch: whether it can take any number of pictures at once.
        float_blocks: whether some modules can stay in float when the others become int8.
        detections: whether it can choose among the boxes of a detector itself.
        backends: who may compute, the usual one first, and in which precisions; empty where there
            is one alone.
        beside: suffixes of the files that lie beside the first one.
    """

    name: str
    title: str
    suffix: str
    extra: str
    builds: tuple[str, ...]
    runs: tuple[str, ...]
    exporter_class: str
    runtime_class: str
    precisions: tuple[str, ...]
    dynamic_batch: bool = False
    float_blocks: bool = False
    detections: bool = False
    backends: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    beside: tuple[str, ...] = ()

    def check(self, libraries: tuple[str, ...]) -> None:
        """Find out whether libraries are here, without importing them.

        Raises:
            MissingExtraError: with the pip line that installs what is missing.
        """
        missing = [library for library in libraries if not _is_here(library)]
        if missing:
            raise MissingExtraError(
                f"{self.title} needs '{missing[0]}', which is not installed. Install it with: "
                f'pip install "mobilevit[{self.extra}]"'
            )

    def only_on(self, backend: str | None) -> str | None:
        """Say that nothing here runs its files, if that is so of one of its backends."""
        if backend == "coreml" and sys.platform != "darwin":
            return "unchecked: it runs on Apple's machines only, and this is none"
        return None

    def resolve(self, config: ExportConfig) -> ExportConfig:
        """Return the options with the format's own choice where none was made.

        Raises:
            UserError: when it cannot honour one of them; nothing is ignored.
        """
        if config.backend and config.backend not in self.backends:
            if not self.backends:
                raise UserError(f"{self.title} has one backend: leave backend out.")
            raise unknown(f"backend of {self.title}", config.backend, self.backends)
        backend = config.backend or next(iter(self.backends), None)
        precisions = self.backends[backend] if backend else self.precisions
        precision = config.precision or precisions[0]
        if precision not in precisions:
            chosen = f"{self.title} for {config.backend}" if config.backend else self.title
            raise UserError(
                f"{chosen} is not written in {precision} here, but in {', '.join(precisions)}. "
                f"{_who_has(precision)}"
            )
        if config.dynamic_batch and not self.dynamic_batch:
            raise UserError(f"{self.title} takes one picture at a time here: no dynamic_batch.")
        if config.float_blocks and not (self.float_blocks and precision == "int8"):
            raise UserError(
                f"float_blocks is for int8, and {self.title} in {precision} does not take it."
            )
        return ExportConfig(precision, config.dynamic_batch, config.float_blocks, backend)

    def exporter(self) -> Exporter:
        """Return what writes the format.

        Raises:
            MissingExtraError: with the pip line that installs what is missing.
        """
        self.check(self.builds)
        module = import_module(f"mobilevit.deployment.exporters.{self.name}")
        made: Exporter = getattr(module, self.exporter_class)()
        return made

    def made(self, path: Path) -> bool:
        """Return whether a file or folder is one that ``export`` wrote."""
        described = path / "Data/com.apple.CoreML/model.mlmodel" if path.is_dir() else path
        return described.is_file() and CONTRACT.encode() in described.read_bytes()

    def files(self, path: Path) -> list[Path]:
        """Return all files of an artefact, the one that names it first; a folder's in any order."""
        if path.is_dir():
            return [file for file in path.rglob("*") if file.is_file()]
        return [path, *(path.with_suffix(suffix) for suffix in self.beside)]

    def bytes(self, path: Path) -> int:
        """Return what an artefact takes on disk."""
        return sum(file.stat().st_size for file in self.files(path))

    def open(self, path: Path, threads: int | None = None) -> Artefact:
        """Return what runs a file of the format.

        Raises:
            MissingExtraError: with the pip line that installs what is missing.
            UserError: when the file cannot be read, or holds no contract of its own.
        """
        self.check(self.runs)
        module = import_module(f"mobilevit.deployment.runtimes.{self.name}")
        opened: Artefact = getattr(module, self.runtime_class)(path, threads)
        return opened


FORMATS = {
    format.name: format
    for format in (
        Format(
            name="onnx",
            title="ONNX",
            suffix=".onnx",
            extra="onnx",
            builds=("onnx", "onnxscript", "onnxruntime"),
            runs=("onnxruntime",),
            exporter_class="OnnxExporter",
            runtime_class="OnnxPredictor",
            precisions=("fp32", "int8", "int8-weights"),
            dynamic_batch=True,
            float_blocks=True,
            detections=True,
        ),
        Format(
            name="coreml",
            title="Core ML",
            suffix=".mlpackage",
            extra="coreml",
            builds=("coremltools",),
            runs=("coremltools",) if sys.platform == "darwin" else ("coremltools", "torch"),
            exporter_class="CoreMLExporter",
            runtime_class="CoreMLPredictor",
            precisions=("fp16", "fp32", "int8-weights"),
        ),
        Format(
            name="executorch",
            title="ExecuTorch",
            suffix=".pte",
            extra="executorch",
            builds=("executorch", "torchao"),
            runs=("executorch", "torch"),
            exporter_class="ExecuTorchExporter",
            runtime_class="ExecuTorchPredictor",
            precisions=("fp32", "int8"),
            float_blocks=True,
            backends={"xnnpack": ("fp32", "int8"), "coreml": ("fp16",)},
        ),
        Format(
            name="litert",
            title="LiteRT",
            suffix=".tflite",
            extra="litert",
            builds=("litert_torch", "ai_edge_litert", "torchao"),
            runs=("ai_edge_litert",),
            exporter_class="LiteRTExporter",
            runtime_class="LiteRTPredictor",
            precisions=("fp32", "int8", "int8-weights"),
            float_blocks=True,
        ),
        Format(
            name="openvino",
            title="OpenVINO",
            suffix=".xml",
            extra="openvino",
            builds=("openvino", "nncf"),
            runs=("openvino",),
            exporter_class="OpenVINOExporter",
            runtime_class="OpenVINOPredictor",
            precisions=("fp32", "fp16", "bf16", "int8", "int8-weights"),
            dynamic_batch=True,
            float_blocks=True,
            detections=True,
            beside=(".bin",),
        ),
    )
}


def get_format(name: str) -> Format:
    """Return a format by its name.

    Raises:
        UserError: when there is none, with the nearest right name.
    """
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return FORMATS[name]


def format_of(model: str | Path) -> Format | None:
    """Return the format whose files are named like this one, if there is one."""
    suffix = Path(model).suffix.lower()
    return next((format for format in FORMATS.values() if format.suffix == suffix), None)


def _is_here(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except (ImportError, ValueError):
        return False


def _who_has(precision: str) -> str:
    others = [format.title for format in FORMATS.values() if precision in format.precisions]
    return f"In {precision} there is {', '.join(others)}." if others else ""
