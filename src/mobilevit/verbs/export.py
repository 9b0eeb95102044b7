"""Write a network in a format that runs elsewhere, and prove that it is still the same."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.formats import FORMATS, Format, format_of, get_format
from mobilevit.errors import UserError
from mobilevit.machine import clips_int8

if TYPE_CHECKING:
    from rich.console import Console

    from mobilevit.checkpoints import Pretrained
    from mobilevit.deployment.comparison import Comparison
    from mobilevit.deployment.contract import Contract

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
        comparison: the artefact beside PyTorch; ``None`` where nothing here runs it.
        seconds: that all of it took.
    """

    path: Path
    report: Path
    description: dict[str, Any]
    comparison: Comparison | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return {
            "path": str(self.path),
            "report": str(self.report),
            "artefact": self.description,
            "comparison": self.comparison.to_dict() if self.comparison else None,
            "seconds": round(self.seconds, 3),
        }

    def print(self, console: Console) -> None:
        """Print the report for people."""
        if self.comparison:
            self.comparison.print(console)
        known = self.description
        if known.get("runs_as"):
            console.print(f"{self.path.name}: {known['runs_as']}", markup=False)
        if known["quantised"]:
            shares = known["quantised"]
            console.print(
                f"int8: {shares['operations']:.0%} of the convolutions and matrix products, "
                f"{shares['bytes']:.0%} of the weights' bytes"
            )
        if known.get("clipped"):
            console.print(
                "This processor has no VNNI instructions, so ONNX Runtime clips sums of int8 "
                "products here: other devices compute the file more exactly."
            )
        size = known["bytes"]
        console.print(f"{self.path}: {size / 1e6:.1f} MB, in {self.seconds:.1f} s", markup=False)
        command = f"mobilevit predict {quote(str(self.path))} PICTURES"
        console.print(f"Next: {command}", markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Exports:
    """All formats that this machine could write.

    Attributes:
        reports: of the artefacts.
        refused: why the other formats were not written, by name.
    """

    reports: tuple[ExportReport, ...]
    refused: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {
            "exports": [report.to_dict() for report in self.reports],
            "refused": self.refused,
        }

    def print(self, console: Console) -> None:
        """Print it for people, as one table."""
        from rich.markup import escape
        from rich.table import Table

        table = Table("artefact", "precision", title="beside PyTorch")
        for column in ("MB", "largest difference", "PSNR", "same first answer", "s"):
            table.add_column(column, justify="right")
        for report in self.reports:
            compared = report.comparison
            found = ["unchecked"] * 3
            if compared:
                found = [
                    f"{compared.max_difference:.2e}",
                    "equal" if compared.psnr is None else f"{compared.psnr:.0f} dB",
                    f"{compared.agreement:.2%}",
                ]
            table.add_row(
                escape(report.path.name),
                report.description["precision"],
                f"{report.description['bytes'] / 1e6:.1f}",
                *found,
                f"{report.seconds:.0f}",
            )
        console.print(table)
        for report in self.reports:
            if report.description.get("runs_as"):
                console.print(f"{report.path.name}: {report.description['runs_as']}", markup=False)
        for name, reason in self.refused.items():
            console.print(f"not written: {FORMATS[name].title}: {reason}", markup=False)


def export(
    model: str | Path,
    format: str = "onnx",
    output: str | Path | None = None,
    data: str | Path | None = None,
    dynamic_batch: bool = False,
    tolerance: float | None = None,
    raw: bool = False,
    precision: str | None = None,
    calibrate: str | Path | None = None,
    float_blocks: tuple[str, ...] = (),
    backend: str | None = None,
) -> ExportReport:
    """Export a checkpoint, and run the result beside PyTorch on real pictures.

    The artefact gets its name only after it has passed, and takes the place of an earlier artefact
    of that name at once; a file that this package did not make is never replaced. The comparison is
    stored in the artefact and, with the rest of the report, beside it in a ``.json``. What nothing
    on this machine runs (ExecuTorch with Core ML, away from a Mac) is written and said to be
    unchecked.

    Args:
        model: whatever ``load_pretrained`` takes.
        format: ``"onnx"``, ``"coreml"``, ``"executorch"``, ``"litert"`` or ``"openvino"``.
        output: the file to write (Core ML: the folder); by default beside the checkpoint, under its
            name, with what is unusual: ``raw``, and a precision that is not the format's own.
        data: a folder or a picture to compare on; by default the pictures that the run was
            validated on.
        dynamic_batch: take any number of pictures at once instead of one.
        tolerance: largest difference of two outputs, as a share of the range of all; by default
            0.001 for fp32, more for others, see ``comparison.TOLERANCES``, and for int8 nine in ten
            first answers have to be the same too, which a tolerance that is given leaves to you.
        raw: of a detector, write the boxes and probabilities of all anchors, without the choice
            among them, which whoever runs it then makes (non-maximum suppression); of a segmenter,
            the logits at the head's stride, to be upsampled likewise.
        precision: see ``ExportConfig``.
        calibrate: a folder of pictures that int8 learns its ranges from; by default those that the
            run was trained on.
        float_blocks: see ``ExportConfig``.
        backend: see ``ExportConfig``.

    Raises:
        MissingExtraError: when the libraries of the format are not installed.
        UserError: when the model or the pictures cannot be used, when the format does not honour an
            option, when ``output`` is a file of another origin, or when the difference is beyond
            the tolerance.
    """
    started = time.perf_counter()
    if tolerance is not None and not tolerance >= 0:
        raise UserError(f"tolerance is {tolerance}; it must be 0 or more.")
    chosen = get_format(format)
    config = chosen.resolve(ExportConfig(precision, dynamic_batch, float_blocks, backend))
    chosen.check(chosen.builds + chosen.runs)
    if calibrate is not None and config.precision != "int8":
        raise UserError("pictures to calibrate on are for int8: leave calibrate out.")
    from rich.console import Console

    from mobilevit.checkpoints import load_pretrained
    from mobilevit.deployment.comparison import AGREEMENTS, TOLERANCES, compare
    from mobilevit.deployment.exporters import check, write
    from mobilevit.deployment.manifest import COMPARISON
    from mobilevit.deployment.runtimes.pytorch import TorchPredictor
    from mobilevit.files import make_folder, publishing, write_text
    from mobilevit.tasks import get_task

    if format_of(model):
        raise UserError(f"{model}: this is an artefact already; export takes a checkpoint.")
    found = load_pretrained(model)
    path = _target(model, found.path, chosen, config, output, raw)
    found = _read_raw(found, model) if raw else found
    checkpoint, contract = found.checkpoint, found.checkpoint.contract
    reference = TorchPredictor.from_pretrained(found)
    network = get_task(contract.task).deploy(checkpoint.network, contract)
    check(chosen, network, contract, config)
    fraction = reference.origin.val_fraction
    pictures = find_pictures(data, found.path, contract, fraction, "val")
    calibration = None
    if config.precision == "int8":
        from mobilevit.deployment.calibration import load_calibration

        paths = find_pictures(calibrate, found.path, contract, fraction, "train")
        calibration = load_calibration(paths, contract)

    allowed = TOLERANCES[str(config.precision)] if tolerance is None else tolerance
    least = AGREEMENTS.get(str(config.precision), 0.0) if tolerance is None else 0.0
    make_folder(path.parent)
    waiting = Console(stderr=True).status(f"{chosen.title}: writing and comparing")
    with publishing(path) as beside, waiting:
        write(
            chosen,
            network,
            contract,
            beside,
            config,
            name=reference.name,
            bare=checkpoint.network,
            origin=reference.origin,
            calibration=calibration,
        )
        comparison = None
        described: dict[str, Any] = {
            "format": format,
            "precision": config.precision,
            "quantised": None,
            "runs_as": chosen.only_on(config.backend),
        }
        if not described["runs_as"]:
            artefact = chosen.open(beside)
            comparison = compare(reference, artefact, pictures, allowed, least)
            if not comparison.passed:
                raise UserError(f"{path}: not written. {comparison.why_not()}")
            described = artefact.describe()
            if format == "onnx" and config.precision == "int8":
                described["clipped"] = clips_int8()
            del artefact  # some runtimes hold their file
            chosen.exporter().annotate(beside, {COMPARISON: json.dumps(comparison.to_dict())})
    report = ExportReport(
        path=path,
        report=_report(path),
        description={**described, "model": str(path), "bytes": chosen.bytes(path)},
        comparison=comparison,
        seconds=time.perf_counter() - started,
    )
    write_text(report.report, json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n")
    return report


def export_all(model: str | Path, output: str | Path | None = None, **options: Any) -> Exports:
    """Export a checkpoint in every format that this machine can write.

    Args:
        model: whatever ``load_pretrained`` takes.
        output: a folder; by default that of the checkpoint.
        **options: of ``export``.

    Raises:
        UserError: when the model or the pictures cannot be used, or no format could be written.
    """
    reports: list[ExportReport] = []
    refused: dict[str, str] = {}
    stem = _stem(model, options.get("raw", False), options.get("precision"))
    for name, format in FORMATS.items():
        target = None if output is None else Path(output) / f"{stem}{format.suffix}"
        try:
            reports.append(export(model, name, target, **options))
        except UserError as error:
            refused[name] = str(error)
    if not reports:
        raise UserError(next(iter(refused.values())))
    return Exports(tuple(reports), refused)


def _stem(model: str | Path, raw: bool, precision: str | None) -> str:
    """Return what an artefact is called, where a folder is named for all of them."""
    path = Path(model)
    name = "best" if path.is_dir() else str(model).partition("@")[0].rpartition("/")[2]
    name = name.removesuffix(".safetensors")
    return "-".join([name, *["raw"] * raw, *([precision] if precision else [])])


def _target(
    model: str | Path,
    source: Path,
    format: Format,
    config: ExportConfig,
    output: str | Path | None,
    raw: bool,
) -> Path:
    """Return where the artefact goes."""
    usual = format.resolve(ExportConfig())
    unusual = [
        str(value)
        for value, other in (
            (config.precision, usual.precision),
            (config.backend, usual.backend),
        )
        if value != other
    ]
    if output is not None:
        path = Path(output)
    else:
        own = Path(model) in (source, source.parent)
        name = source.stem if own else str(model).partition("@")[0].rpartition("/")[2]
        path = Path("-".join([name, *["raw"] * raw, *unusual]) + format.suffix)
        path = source.parent / path if own else path  # else from the hub or with the package
    if path.suffix != format.suffix:
        other = format_of(path)
        hint = (
            f" For {other.title}, take format={other.name} (--format {other.name})."
            if other
            else ""
        )
        raise UserError(
            f"{path}: the name of a file for {format.title} ends in {format.suffix}.{hint}"
        )
    if path.exists() and not format.made(path):
        raise UserError(f"{path}: exists, and was not made by this package. Give another output.")
    report = _report(path)
    if report.exists() and not _is_report(report):
        raise UserError(
            f"{report}: exists, and is no report of an export; it needs that name. "
            "Give another output."
        )
    for beside in map(path.with_suffix, format.beside):
        if beside.exists() and not path.exists():
            raise UserError(
                f"{beside}: exists, and is no part of an earlier export; {format.title} needs that "
                "name too. Give another output."
            )
    return path


def _report(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _is_report(path: Path) -> bool:
    """Return whether a file is one that ``export`` wrote beside an artefact."""
    try:
        told = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(told, dict) and {"path", "artefact", "comparison"} <= told.keys()


def _read_raw(found: Pretrained, model: str | Path) -> Pretrained:
    """Return the network with its last step left to whoever runs it."""
    checkpoint = found.checkpoint
    output = _RAW.get(checkpoint.contract.output)
    if output is None:
        raise UserError(
            f"{model}: raw is for detectors and segmenters, this is for {checkpoint.contract.task}."
        )
    contract = replace(checkpoint.contract, output=output)
    return replace(found, checkpoint=replace(checkpoint, contract=contract))


def find_pictures(
    data: str | Path | None, source: Path, contract: Contract, val_fraction: float, split: str
) -> list[Path]:
    """Return pictures to compare on, spread evenly over those there are, or to calibrate on.

    Args:
        data: a folder, or a picture; ``None``: one side of what the network was trained on.
        source: the checkpoint.
        contract: of the network.
        val_fraction: that training held out.
        split: ``"val"``, at most ``COMPARED`` to compare on, or ``"train"``, all to calibrate on.

    Raises:
        UserError: when there are none.
    """
    from mobilevit.data.folders import spread

    found = _pictures(data, source, contract, val_fraction, split)
    return spread(found, COMPARED) if split == "val" else found


def _pictures(
    data: str | Path | None, source: Path, contract: Contract, val_fraction: float, split: str
) -> list[Path]:
    from mobilevit.data.folders import pictures
    from mobilevit.data.mask_sets import mask_format
    from mobilevit.deployment.runtimes.pytorch import remembered_data
    from mobilevit.tasks import get_task

    task = get_task(contract.task)
    if data is not None and not (contract.task == "segmentation" and mask_format(data)):
        return pictures([data])
    folder = data
    if folder is None:
        folder = remembered_data(source)
        if folder is None or not Path(folder).exists():
            gone = f"{folder}, which it was trained on, is gone" if folder else "it names no data"
            use, way_out = (
                ("check the export", "data=FOLDER (--data FOLDER)")
                if split == "val"
                else ("calibrate int8", "calibrate=FOLDER (--calibrate FOLDER)")
            )
            raise UserError(
                f"{source}: real pictures are needed to {use}, and {gone}. Name a "
                f"folder of pictures with {way_out}."
            )
    folders = task.read(folder, val_fraction)
    return [sample.path for sample in getattr(folders, split)]
