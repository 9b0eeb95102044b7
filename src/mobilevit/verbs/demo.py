"""The whole way once, on real pictures that come with scikit-learn."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilevit.errors import require

if TYPE_CHECKING:
    from rich.console import Console

    from mobilevit.verbs.benchmark import Benchmark
    from mobilevit.verbs.evaluate import Evaluation
    from mobilevit.verbs.export import ExportReport


@dataclass(frozen=True)
class Demo:
    """What the demo did.

    Attributes:
        folder: with the pictures in ``digits/`` and the run in ``run/``.
        checkpoint: the network on the held-out third.
        artefact: its ONNX file on the same pictures.
        export: the ONNX file beside PyTorch.
        benchmark: both, measured in turn.
        seconds: that all of it took.
    """

    folder: Path
    checkpoint: Evaluation
    artefact: Evaluation
    export: ExportReport
    benchmark: Benchmark
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain Python."""
        return {
            "folder": str(self.folder),
            "checkpoint": self.checkpoint.to_dict(),
            "artefact": self.artefact.to_dict(),
            "export": self.export.to_dict(),
            "benchmark": self.benchmark.to_dict(),
            "seconds": round(self.seconds, 1),
        }

    def print(self, console: Console) -> None:
        """Print a short table, the folder and what to do next."""
        from rich.table import Table

        table = Table("", "top-1", "ms a picture", "MB", title="Handwritten digits, held-out third")
        for name, evaluation, model, timing in zip(
            ("PyTorch", "ONNX"),
            (self.checkpoint, self.artefact),
            self.benchmark.models,
            self.benchmark.timings,
            strict=True,
        ):
            top1 = f"{evaluation.metrics['top1']:.2%}"
            table.add_row(name, top1, f"{timing.median_ms:.2f}", f"{model['bytes'] / 1e6:.1f}")
        console.print(table)
        compared = self.export.comparison
        assert compared  # ONNX Runtime is here, or the demo would not have begun
        console.print(
            f"Largest difference of a logit between the two: {compared.max_difference:.1e}. "
            f"All of it took {self.seconds:.0f} s."
        )
        console.print(f"Everything is in {self.folder}/ (look at run/curves.png).", markup=False)
        console.print("Next, your own photos, a folder for each class: mobilevit train PHOTOS")


def demo(output: str | Path | None = None, progress: bool = True) -> Demo:
    """Train MobileViT-XXS on 1,198 handwritten digits, and prove its ONNX file on 599 others.

    Args:
        output: the folder to make; none: the next free one under ``runs/``.
        progress: show progress.

    Raises:
        UserError: when ``output`` exists and is not empty.
        MissingExtraError: without one of the extras ``train``, ``onnx`` and ``demo``.
    """
    from mobilevit.deployment.formats import FORMATS
    from mobilevit.verbs.train import TRAINS_WITH, train

    require("sklearn", "demo")
    for module in TRAINS_WITH:
        require(module, "train")
    FORMATS["onnx"].check(FORMATS["onnx"].builds)
    from mobilevit.data.digits import write_digits
    from mobilevit.training.run_folder import free_folder
    from mobilevit.verbs.benchmark import benchmark
    from mobilevit.verbs.evaluate import evaluate
    from mobilevit.verbs.export import export

    started = time.perf_counter()
    folder = free_folder(output, "demo")
    pictures, run = folder / "digits", folder / "run"
    write_digits(pictures)
    train(pictures, recipe="digits", output=run, progress=progress)
    report = export(run)
    return Demo(
        folder,
        evaluate(run, pictures, output=folder / "checkpoint.json"),
        evaluate(report.path, pictures, output=folder / "artefact.json"),
        report,
        benchmark([run, report.path]),
        time.perf_counter() - started,
    )
