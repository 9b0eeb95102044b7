"""Weights of one library turned into those of another, and boxes of one format likewise."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilevit.data.box_sets import (
    FORMATS,
    box_format,
    read_boxes,
    splits_of,
    storable,
    write_boxes,
)
from mobilevit.data.findings import Finding
from mobilevit.data.mask_coco import has_outlines
from mobilevit.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mobilevit.checkpoints.pretrained import LoadReport
    from mobilevit.data.box_sets import BoxFormat


@dataclass(frozen=True)
class Conversion:
    """A finished conversion.

    Attributes:
        path: the file or folder that was written.
        library: whose it is now.
        report: what was loaded to make it.
    """

    path: Path
    library: str
    report: LoadReport

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {
            "path": str(self.path),
            "library": self.library,
            "loaded": self.report.to_dict(),
        }

    def print(self, console: Console) -> None:
        """Print it for people."""
        self.report.print(console)
        console.print(
            f"{self.path}: as {self.library} has it, and read back the same.", markup=False
        )
        if self.path.is_file() and self.library != "mobilevit":
            console.print(
                "It holds the weights alone; class names and sizes go into a folder.", markup=False
            )


@dataclass(frozen=True)
class BoxConversion:
    """A finished conversion of boxes.

    Attributes:
        path: the folder that was written.
        format: of its boxes.
        pictures: how many were written, by split.
        boxes: how many were written, by split.
        classes: their names.
        findings: what was repaired in the source, and what the format has no place for.
    """

    path: Path
    format: BoxFormat
    pictures: dict[str, int]
    boxes: dict[str, int]
    classes: tuple[str, ...]
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return asdict(self) | {"path": str(self.path)}

    def print(self, console: Console) -> None:
        """Print it for people."""
        for finding in self.findings:
            console.print(f"{finding.severity}: {finding.check}: {finding.message}", markup=False)
        for split, count in self.pictures.items():
            console.print(f"{split}: {count:,} pictures, {self.boxes[split]:,} boxes", markup=False)
        console.print(
            f"{self.path}: {len(self.classes):,} classes as {self.format} has them, "
            "and read back the same.",
            markup=False,
        )


def convert(
    source: str | Path,
    target: str | Path,
    to: str = "mobilevit",
    library: str | None = None,
    channel_order: str | None = None,
) -> Conversion | BoxConversion:
    """Write weights or boxes as others have them, and read them back to prove it.

    Args:
        source: a run folder, a checkpoint, a weights file or folder of another library, or a name
            on the Hugging Face hub; or pictures with boxes, see ``read_boxes``.
        target: a new file for the weights alone (``.safetensors``, ``.pt``, ``.pth``, ``.bin``),
            or a new folder for all that the library wants.
        to: whose names, channel order and settings the target has: ``"mobilevit"``, ``"timm"``,
            ``"transformers"`` or ``"cvnets"`` (ml-cvnets and corenet). For boxes, the format:
            ``"coco"``, ``"yolo"`` or ``"voc"``.
        library: whose names the source has; none: it is recognised.
        channel_order: ``"RGB"`` or ``"BGR"``, what the source's weights take; none: what is known
            of their origin.

    Raises:
        UserError: when the source cannot be read or is no whole network, when its boxes have
            errors, when there is something at the target, or when the library cannot hold the
            network.
    """
    if to in FORMATS:
        if library or channel_order:
            raise UserError(f"{source}: boxes as {to} have neither a library nor a channel order.")
        return _convert_boxes(source, Path(target), to)
    if Path(source).exists() and (known := box_format(source)):
        raise UserError(
            f"{source}: these are pictures with boxes, as {known} has them. Say what to write "
            "with to (--to): coco, yolo or voc."
        )
    from mobilevit.checkpoints.pretrained import load_pretrained
    from mobilevit.checkpoints.writing import save_for

    target = Path(target)
    found = load_pretrained(source, library, channel_order)
    missing = sorted({name.partition(".")[0] for name in found.report.transfer.new})
    if missing:
        raise UserError(
            f"{source}: it has no {' and no '.join(missing)}, so it is no whole network that could "
            f"be converted. Train one from it with: mobilevit train PHOTOS --weights {source}"
        )
    save_for(found.checkpoint, target, to)
    return Conversion(target, to, found.report)


def _convert_boxes(source: str | Path, target: Path, to: BoxFormat) -> BoxConversion:
    """Write a data set in another format; one with errors is refused, lest they go unseen."""
    folders = read_boxes(source, None)
    if errors := [finding for finding in folders.findings if finding.severity == "error"]:
        told = "".join(f"\n  {finding.check}: {finding.message}" for finding in errors)
        raise UserError(f"{source}: its boxes cannot be converted before this is mended.{told}")
    lost = write_boxes(folders, target, to)
    if box_format(source) == "coco" and has_outlines(Path(source)):
        lost += (Finding("info", "outlines", "boxes alone are converted, not the outlines."),)
    splits = splits_of(folders)
    return BoxConversion(
        path=target,
        format=to,
        pictures={split: len(samples) for split, samples in splits.items()},
        boxes={
            s: sum(len(storable(x.label, to)) for x in samples) for s, samples in splits.items()
        },
        classes=folders.class_names,
        findings=folders.findings + lost,
    )
