"""Write a network in a format that runs elsewhere, and prove that it is still the same."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilevit.errors import UserError, unknown

if TYPE_CHECKING:
    from rich.console import Console

    from mobilevit.deployment.comparison import Comparison
    from mobilevit.deployment.contract import Contract

FORMATS = ("onnx",)
COMPARED = 32
"""Pictures that an artefact is compared on, spread evenly over those there are."""


_RAW = {"detections": "candidates", "pixel_logits": "coarse_logits"}
"""What a network puts out when its last step is left to whoever runs it."""


@dataclass(frozen=True)
class ExportReport:
    """A finished export.

    Attributes:
        path: the artefact.
        report: this report as JSON, beside it.
        description: of the artefact, as its predictor gives it.
        comparison: the artefact beside PyTorch.
        seconds: that all of it took.
    """

    path: Path
    report: Path
    description: dict[str, Any]
    comparison: Comparison
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return {
            "path": str(self.path),
            "report": str(self.report),
            "artefact": self.description,
            "comparison": self.comparison.to_dict(),
            "seconds": round(self.seconds, 3),
        }

    def print(self, console: Console) -> None:
        """Print the report for people."""
        self.comparison.print(console)
        size = self.path.stat().st_size
        console.print(f"{self.path}: {size / 1e6:.1f} MB, in {self.seconds:.1f} s", markup=False)
        console.print(f"Next: mobilevit predict {self.path} PICTURES", markup=False)


def export(
    model: str | Path,
    format: str = "onnx",
    output: str | Path | None = None,
    data: str | Path | None = None,
    dynamic_batch: bool = False,
    tolerance: float | None = None,
    raw: bool = False,
) -> ExportReport:
    """Export a checkpoint, and run the result beside PyTorch on real pictures.

    The artefact gets its name only after it has passed, and takes the place of an earlier artefact
    of that name at once; a file that this package did not make is never replaced. The comparison is
    stored in the artefact's metadata and, with the rest of the report, beside it in a ``.json``.

    Args:
        model: whatever ``load_pretrained`` takes.
        format: ``"onnx"``.
        output: the file to write; by default beside the checkpoint, under its name.
        data: a folder or a picture to compare on; by default the pictures that the run was
            validated on.
        dynamic_batch: take any number of pictures at once instead of one.
        tolerance: largest difference of two outputs, as a share of the range of all; by default
            0.001.
        raw: of a detector, write the boxes and probabilities of all anchors, without the choice
            among them, which whoever runs it then makes (non-maximum suppression); of a segmenter,
            the logits at the head's stride, to be upsampled likewise.

    Raises:
        MissingExtraError: when the libraries of the format are not installed.
        UserError: when the model or the pictures cannot be used, when ``output`` is a file of
            another origin, or when the difference is beyond the tolerance.
    """
    started = time.perf_counter()
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    from mobilevit.checkpoints import load_pretrained
    from mobilevit.deployment.comparison import TOLERANCE, compare
    from mobilevit.deployment.onnx import OnnxExporter
    from mobilevit.deployment.runtimes import COMPARISON, TorchPredictor
    from mobilevit.files import replacing, write_text
    from mobilevit.tasks import get_task

    exporter = OnnxExporter()
    exporter.check()
    if str(model).endswith(exporter.suffix):
        raise UserError(f"{model}: this is an artefact already; export takes a checkpoint.")
    found = load_pretrained(model)
    source, checkpoint = found.path, found.checkpoint
    if output is not None:
        path = Path(output)
    elif Path(model) in (source, source.parent):
        path = source.with_suffix(exporter.suffix)
    else:  # it came from the hub or with the package
        path = Path(str(model).partition("@")[0].rpartition("/")[2] + exporter.suffix)
    if path.suffix != exporter.suffix:
        raise UserError(f"{path}: the name of an {format} file ends in {exporter.suffix}.")
    if path.exists() and not exporter.made(path):
        raise UserError(f"{path}: exists, and was not made by this package. Give another output.")
    contract = checkpoint.contract
    if contract.output == "detections" and dynamic_batch and not raw:
        raise UserError(
            "boxes are chosen on one picture at a time: take dynamic_batch with raw (--raw)."
        )
    if raw and contract.output not in _RAW:
        raise UserError(
            f"{model}: raw is for detectors and segmenters, this is for {contract.task}."
        )
    if raw:
        contract = replace(contract, output=_RAW[contract.output])
        found = replace(found, checkpoint=replace(checkpoint, contract=contract))
    reference = TorchPredictor.from_pretrained(found)
    pictures = _pictures(data, source, contract, reference.origin.val_fraction)

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        exporter.export(
            get_task(contract.task).deploy(checkpoint.network, contract),
            contract,
            beside,
            name=reference.name,
            bare=checkpoint.network,
            origin=reference.origin,
            dynamic_batch=dynamic_batch,
        )
        allowed = TOLERANCE if tolerance is None else tolerance
        comparison = compare(reference, exporter.open(beside), pictures, allowed)
        if not comparison.passed:
            raise UserError(
                f"{path}: not written. On {comparison.pictures} pictures its outputs differ from "
                f"PyTorch's by up to {comparison.max_difference:.3g}; allowed is "
                f"{comparison.limit:.3g}, that is {allowed:g} of their range. The first answer is "
                f"the same for {comparison.agreement:.2%}. A larger tolerance accepts that."
            )
        exporter.annotate(beside, {COMPARISON: json.dumps(comparison.to_dict())})
    report = ExportReport(
        path=path,
        report=path.with_name(f"{path.name}.json"),
        description=exporter.open(path).describe(),
        comparison=comparison,
        seconds=time.perf_counter() - started,
    )
    write_text(report.report, json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n")
    return report


def _pictures(
    data: str | Path | None, source: Path, contract: Contract, val_fraction: float
) -> list[Path]:
    """Return the pictures to compare on."""
    from mobilevit.data.folders import pictures
    from mobilevit.data.mask_sets import mask_format
    from mobilevit.deployment.runtimes import remembered_data
    from mobilevit.tasks import get_task

    task = get_task(contract.task)
    if data is not None and contract.task == "segmentation" and mask_format(data):
        found = [sample.path for sample in task.read(data, val_fraction).val]
    elif data is not None:
        found = pictures([data])
    else:
        folder = remembered_data(source)
        if folder is None or not folder.exists():
            gone = f"{folder}, which it was trained on, is gone" if folder else "it names no data"
            raise UserError(
                f"{source}: real pictures are needed to check the export, and {gone}. Name a "
                "folder of pictures with data=FOLDER (--data FOLDER)."
            )
        found = [sample.path for sample in task.read(folder, val_fraction).val]
    step = max(len(found) / COMPARED, 1)
    return [found[int(i * step)] for i in range(min(len(found), COMPARED))]
