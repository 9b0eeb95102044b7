"""Is this machine ready, and is this data set: the verb ``doctor``."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilevit.data.box_checks import is_crowded
from mobilevit.data.boxes import Boxes
from mobilevit.data.findings import Finding, counted
from mobilevit.data.folders import Folders, spread
from mobilevit.data.masks import Mask
from mobilevit.data.scan import Scan, drop_unreadable, scan, usable_cores
from mobilevit.deployment.formats import FORMATS, Format
from mobilevit.errors import MissingExtraError, UserError
from mobilevit.files import check_writable, replacing
from mobilevit.machine import processor, versions
from mobilevit.tasks import get_task, task_of
from mobilevit.verbs.scan_tables import scan_tables

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

EXTRAS = {
    "train": ("lightning-fabric", "matplotlib", "tensorboard", "filelock"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "hub": ("huggingface_hub",),
    "demo": ("scikit-learn",),
    "timm": ("timm",),
    "detection": ("faster-coco-eval",),
    "coreml": ("coremltools",),
    "executorch": ("executorch", "torchao"),
    "litert": ("litert-torch", "ai-edge-litert", "torchao"),
    "openvino": ("openvino", "nncf"),
}
"""The optional libraries, by the extra of this package that installs them."""

_CORE = ("torch", "torchvision", "numpy", "pillow", "pyyaml", "safetensors", "rich", "tyro")
_VERBS = {
    "train": ("train",),
    "evaluate, predict, benchmark (.safetensors)": (),
    "convert, doctor, models": (),
    "names on the Hugging Face hub": ("hub",),
    "compare": ("train", "onnx"),
    "networks of timm": ("timm",),
    "train and evaluate with boxes": ("train", "detection"),
    "demo": ("train", "onnx", "demo"),
}
_MARKS = {"error": "[bold red]error[/]", "warning": "[yellow]warning[/]", "info": "[cyan]info[/]"}
_FILES_SHOWN = 5


@dataclass(frozen=True)
class Machine:
    """What this machine is, and what it can do.

    Attributes:
        python: version of Python.
        system: name and version of the operating system.
        cpu: model of the processor.
        cores: logical cores this process may use.
        memory: bytes of main memory, or ``None`` where the system does not tell.
        devices: the accelerators that torch sees.
        versions: of the libraries; ``None`` for one that is not installed.
        extras: whether everything of an extra is installed.
        verbs: ``None`` for what works here, else the pip line that makes it work.
        formats: for each format of artefacts the same of ``"built"``, that is ``export``, and of
            ``"run"``, that is ``evaluate``, ``predict`` and ``benchmark``.
    """

    python: str
    system: str
    cpu: str
    cores: int
    memory: int | None
    devices: tuple[str, ...]
    versions: dict[str, str | None]
    extras: dict[str, bool]
    verbs: dict[str, str | None]
    formats: dict[str, dict[str, str | None]]


@dataclass(frozen=True)
class Report:
    """What the doctor found.

    Attributes:
        machine: this machine.
        data: the data set that was looked at, if any.
        scan: its pictures; ``None`` where there are none to look at.
        problems: findings besides those of the scan.
        size: side in pixels that boxes are measured at.
    """

    machine: Machine
    data: str | None = None
    scan: Scan | None = None
    problems: tuple[Finding, ...] = ()
    size: int = 320

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything found, errors of the machine and of the layout first."""
        return self.problems + (self.scan.findings if self.scan else ())

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        scanned = self.scan.to_dict() if self.scan else {}
        return {
            "ok": self.ok,
            "machine": asdict(self.machine),
            "data": self.data,
            **scanned,
            "size": self.size,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def print(self, console: Console | None = None) -> None:
        """Show the report as tables."""
        from rich.console import Console
        from rich.text import Text

        console = console or Console()
        for table in _machine_tables(self.machine):
            console.print(table)
        if self.scan:
            for table in scan_tables(self.scan, self.size):
                console.print(table)
            if sizes := self.scan.sizes:
                for side, (least, middle, most) in asdict(sizes).items():
                    console.print(f"{side}: {least} to {most} pixels, median {middle}")
        for finding in self.findings:
            line = Text.from_markup(_MARKS[finding.severity])
            console.print(line.append(f" {finding.check}: ").append(finding.message))
            for path in finding.paths[:_FILES_SHOWN]:
                console.print(Text(f"    {path}"), soft_wrap=True)
            if (rest := len(finding.paths) - _FILES_SHOWN) > 0:
                console.print(f"    and {rest:,} more")
        if self.ok:
            console.print("[green]Ready.[/]")


def doctor(
    data: str | Path | None = None,
    progress: bool = True,
    size: int = 320,
    draw: str | Path | None = None,
    task: str | None = None,
) -> Report:
    """Look at this machine and, if given, at a data set.

    What is wrong with the data is a finding of the report, not an exception.

    Args:
        data: class folders as ``read_folders`` takes them, boxes as ``read_boxes`` does, or masks
            as ``read_masks`` does.
        progress: show a bar while the pictures are read.
        size: side in pixels of the pictures to train on, which boxes are measured at.
        draw: a PNG to make, of some of the pictures to train on with their labels.
        task: what the data are looked at for, where they could be for several, such as COCO's
            outlines; by default boxes go before masks.

    Raises:
        UserError: when ``size`` is below 1, when there is no such task, or when ``draw`` cannot be
            made: without ``data``, under another ending, or where there is a file already.
    """
    if size < 1:
        raise UserError(f"size is {size}; it must be 1 or more.")
    if draw is not None:
        _check_drawing(Path(draw), data)
    if task is not None:
        get_task(task)
    machine, problems = _examine_machine()
    if data is None:
        return Report(machine, problems=problems)
    try:
        folders = get_task(task or task_of(data)).read(data)
    except UserError as error:
        problems += (Finding("error", "layout", str(error), (str(data),)),)
        return Report(machine, str(data), problems=problems)
    scanned = scan(folders, progress=progress, size=size)
    readable = drop_unreadable(folders, scanned)
    if scanned.box_sizes:
        problems += tuple(_check_truth(readable))
    if draw is not None:
        _draw(Path(draw), readable)
    return Report(machine, str(data), scanned, problems, size)


def pip_line(extras: Sequence[str]) -> str:
    """Return the command that installs some extras of this package."""
    return f'pip install "mobilevit[{",".join(extras)}]"'


def _check_truth(folders: Folders[Boxes]) -> Iterator[Finding]:
    """Take the true boxes for detections: each must be found, or evaluation cannot be trusted."""
    from mobilevit.tasks.detection.metrics import imperfect

    samples = [*folders.train, *folders.val, *folders.test]
    samples = [sample for sample in samples if not is_crowded(sample.label)]
    try:
        wrong = imperfect([sample.label for sample in samples], folders.class_names)
    except MissingExtraError as error:
        yield Finding("info", "truth-not-checked", str(error))
        return
    if wrong:
        yield Finding(
            "error",
            "truth-not-perfect",
            f"the true boxes of {counted(len(wrong), 'picture')}, taken for detections, do not "
            "reach an average precision of 1, as when a box is too small to be told from none. "
            "Correct them, or remove them.",
            tuple(str(samples[i].path) for i in wrong),
        )


def _check_drawing(path: Path, data: str | Path | None) -> None:
    if data is None:
        raise UserError(f"{path}: nothing to draw without DATA. Name a data set too.")
    if path.suffix.lower() != ".png":
        raise UserError(f"{path}: it is drawn as PNG; choose a name that ends in .png.")
    if path.exists():
        raise UserError(f"{path}: it exists already. Choose another file to draw into.")
    check_writable(path)


def _draw(path: Path, folders: Folders[Any]) -> None:
    """Draw some pictures to train on, and the boxes or masks of those that have some."""
    from mobilevit.data.decoding import read_picture
    from mobilevit.data.drawing import MOSAIC, mosaic, tile, titled
    from mobilevit.tasks.detection.pictures import draw_mosaic

    with replacing(path) as beside:
        if any(isinstance(sample.label, Mask) for sample in folders.train):
            from mobilevit.tasks.segmentation.pictures import draw_mosaic as draw_masks

            draw_masks(beside, folders.train, folders.class_names)
            return
        if any(isinstance(sample.label, Boxes) for sample in folders.train):
            boxed = [sample for sample in folders.train if sample.label.items]
            draw_mosaic(beside, boxed, folders.class_names)
            return
        tiles = []
        for sample in spread(folders.train, MOSAIC):
            picture = read_picture(sample.path)
            shown = tile(picture, picture.width, picture.height)
            tiles.append(titled(shown, folders.class_names[sample.label]))
        mosaic(tiles).save(beside, format="PNG")


def _examine_machine() -> tuple[Machine, tuple[Finding, ...]]:
    optional = [name for names in EXTRAS.values() for name in names]
    found = versions(("mobilevit", *_CORE, *optional))
    extras = {extra: all(found[name] for name in names) for extra, names in EXTRAS.items()}
    missing = {
        verb: [extra for extra in needed if not extras[extra]] for verb, needed in _VERBS.items()
    }
    devices, problems = _devices() if found["torch"] else ((), ())
    if absent := [name for name in _CORE if not found[name]]:
        message = f"not installed: {', '.join(absent)}. Install with: pip install mobilevit"
        problems += (Finding("error", "missing-library", message),)
    machine = Machine(
        python=platform.python_version(),
        system=platform.platform(),
        cpu=processor(),
        cores=usable_cores(),
        memory=_memory(),
        devices=devices,
        versions=found,
        extras=extras,
        verbs={verb: pip_line(extras) if extras else None for verb, extras in missing.items()},
        formats={name: _examine_format(format) for name, format in FORMATS.items()},
    )
    return machine, problems


def _examine_format(format: Format) -> dict[str, str | None]:
    """Return whether a format can be built and run here: ``None``, or what is in the way."""
    found: dict[str, str | None] = {}
    for what, libraries in (("built", format.builds), ("run", format.runs)):
        try:
            format.check(libraries)
            found[what] = None
        except MissingExtraError:
            found[what] = pip_line([format.extra])
    if format.name == "coreml" and sys.platform != "darwin":
        found["run"] = found["run"] or "interpreted; Core ML itself is on Apple's machines only"
    return found


def _devices() -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """Return the accelerators, or why torch cannot be asked."""
    try:
        torch = import_module("torch")
    except Exception as error:
        message = f"torch is installed but cannot be imported ({error!r}). Install it anew."
        return (), (Finding("error", "torch-import", message),)
    found = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            found.append(f"cuda:{index} {device.name}, {_gib(device.total_memory)}")
    if torch.backends.mps.is_available():
        found.append("mps")
    return tuple(found), ()


def _memory() -> int | None:
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _machine_tables(machine: Machine) -> list[Table]:
    from rich.table import Table
    from rich.text import Text

    about = Table(title="This machine", show_header=False)
    rows = {
        "Python": machine.python,
        "system": machine.system,
        "processor": f"{machine.cpu}, {machine.cores} cores",
        "memory": _gib(machine.memory) if machine.memory else "unknown",
        "accelerators": ", ".join(machine.devices) or "none",
        **{name: version or "not installed" for name, version in machine.versions.items()},
    }
    for name, value in rows.items():
        about.add_row(name, value)
    verbs = Table("verb", "here", title="What works here")
    for verb, line in machine.verbs.items():
        verbs.add_row(verb, Text("ready", "green") if line is None else Text(line))
    formats = Table("format", "can be built here", "can be run here", title="Formats")
    for name, here in machine.formats.items():
        cells = [
            Text("yes", "green") if line is None else Text(line)
            for line in (here["built"], here["run"])
        ]
        formats.add_row(f"{FORMATS[name].title} ({FORMATS[name].suffix})", *cells)
    return [about, verbs, formats]
