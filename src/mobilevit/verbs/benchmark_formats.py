"""One table of a network in all its formats: how good, how large, how fast."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilevit.deployment.formats import FORMATS, format_of, get_format
from mobilevit.errors import UserError, require
from mobilevit.machine import describe_machine
from mobilevit.verbs.benchmark import Timing, check_numbers, time_in_turn

if TYPE_CHECKING:
    from rich.console import Console

    from mobilevit.deployment.runtimes import Predictor

LIMIT = 1000
"""Pictures that each format is judged on, unless told otherwise."""


@dataclass(frozen=True)
class Row:
    """A network in one format.

    Attributes:
        model: name of the file.
        description: as its predictor gives it.
        metrics: of its task, on the same pictures for all.
        peak_memory: bytes that a fresh process took that loads it and runs one picture.
        timings: for each number of threads; none where it is not run by its own runtime here.
    """

    model: str
    description: dict[str, Any]
    metrics: dict[str, Any]
    peak_memory: int | None
    timings: tuple[Timing, ...]


@dataclass(frozen=True)
class FormatTable:
    """A checkpoint and its artefacts, measured in one run.

    Attributes:
        rows: the checkpoint first.
        primary: the metric that the plot shows.
        pictures: that the metrics are of.
        repeats: calls that each timing is made of.
        machine: processor and versions, in words.
        absent: formats that there is no artefact of, and how to make one.
        refused: files that are left out, and why.
        unreadable: pictures that cannot be read, and why.
        plot: the metric against the latency.
    """

    rows: tuple[Row, ...]
    primary: str
    pictures: int
    repeats: int
    machine: str
    absent: dict[str, str]
    refused: dict[str, str]
    unreadable: dict[str, str]
    plot: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "primary": self.primary,
            "pictures": self.pictures,
            "repeats": self.repeats,
            "machine": self.machine,
            "absent": self.absent,
            "refused": self.refused,
            "unreadable": self.unreadable,
        }

    def print(self, console: Console) -> None:
        """Print it for people."""
        from rich.markup import escape
        from rich.table import Column, Table

        name = Column("file", min_width=12, overflow="fold")
        table = Table(name, "precision", title=escape(self.machine))
        threads = [timing.threads for timing in max((row.timings for row in self.rows), key=len)]
        latencies = [f"ms, {count} thread{'s' * (count > 1)} (p90)" for count in threads]
        for column in ("MB", self.primary, *latencies, "memory MB", "int8", "delegated"):
            table.add_column(column, justify="right")
        for row in self.rows:
            known = row.description
            timed = [f"{t.median_ms:.1f} ({t.p90_ms:.1f})" for t in row.timings]
            quantised = known.get("quantised")
            table.add_row(
                escape(row.model),
                known["precision"] or "?",
                f"{(known['bytes'] or 0) / 1e6:.1f}",
                f"{row.metrics[self.primary]:.1%}",
                *(timed or ["not run here"] * len(threads)),
                "-" if row.peak_memory is None else f"{row.peak_memory / 1e6:,.0f}",
                f"{quantised['operations']:.0%}" if quantised else "-",
                "-" if known.get("delegated") is None else f"{known['delegated']:.0%}",
            )
        console.print(table)
        console.print(
            f"{self.primary}: on {self.pictures:,} pictures. ms: medians of {self.repeats} calls "
            "of one picture, in turn. int8: share of the convolutions and matrix products. "
            "delegated: share of the multiply-adds in the runtime's accelerated kernels, where it "
            "tells.",
            style="dim",
            highlight=False,
        )
        for row in self.rows:
            if row.description.get("runs_as"):
                console.print(f"{row.model}: {row.description['runs_as']}", markup=False)
        for format, reason in self.absent.items():
            console.print(f"no {FORMATS[format].title}: {reason}", markup=False)
        for reason in self.refused.values():
            console.print(f"left out: {reason}", markup=False)
        for path, reason in self.unreadable.items():
            console.print(f"left out: {path}: {reason}", markup=False)
        if self.plot:
            console.print(f"{self.plot}", markup=False)


def benchmark_formats(
    run: str | Path,
    formats: Sequence[str] = (),
    data: str | Path | None = None,
    threads: tuple[int, ...] = (1, 2),
    limit: int | None = LIMIT,
    repeats: int = 30,
    warmup: int = 5,
) -> FormatTable:
    """Measure a checkpoint beside all that was exported from it: metric, size, latency, memory.

    The table is written beside the checkpoint as ``formats.json``, and the metric against the
    latency as ``formats.png``.

    Args:
        run: a run folder, or a checkpoint; the artefacts are those that lie beside it.
        formats: which formats; none: all.
        data: labelled pictures; by default those that the run was trained on, their ``val`` side.
        threads: numbers of threads to measure with.
        limit: pictures to judge on, at most; ``None``: all.
        repeats: calls to measure, for each file and number of threads.
        warmup: calls before, which are not measured.

    Raises:
        UserError: when there is no run, when nothing was exported from it that runs here, when
            there are no labelled pictures, or when nothing can be written beside the checkpoint.
    """
    from mobilevit.deployment.memory import measure_peak_memory
    from mobilevit.deployment.runtimes import load_predictor
    from mobilevit.deployment.runtimes.pytorch import remembered_data
    from mobilevit.files import find_model, write_text
    from mobilevit.tasks import get_task
    from mobilevit.verbs.labelled import find_labelled, judge
    from mobilevit.weights import is_shipped

    check_numbers(threads=threads, repeats=(repeats,), limit=(1 if limit is None else limit,))
    check_numbers(0, warmup=(warmup,))
    require("matplotlib", "train")
    wanted = [get_format(name).name for name in formats] or list(FORMATS)
    if is_shipped(str(run)) and not Path(run).exists():
        raise UserError(f"{run}: nothing was exported beside it. Name a run folder of your own.")
    checkpoint = find_model(run)
    if not os.access(checkpoint.parent, os.W_OK):
        raise UserError(f"{checkpoint.parent}: the table cannot be written here.")
    files = _artefacts(checkpoint, wanted)
    if not files:
        raise UserError(
            f"{checkpoint.parent}: nothing was exported here as {', '.join(wanted)}. Do that with: "
            f"mobilevit export {run} --format all"
        )
    source = data or remembered_data(checkpoint)
    if source is None:
        raise UserError(
            f"{checkpoint}: it does not name the data it was trained on. Name labelled pictures "
            "with data=FOLDER (--data FOLDER)."
        )
    opened: list[Predictor] = [load_predictor(checkpoint, threads[0])]
    refused: dict[str, str] = {}
    for file in files:
        try:
            predictor = load_predictor(file, threads[0])
            _check_network(predictor, opened[0])
            opened.append(predictor)
        except UserError as error:
            refused[file.name] = str(error)
    if len(opened) == 1:
        raise UserError(" ".join(refused.values()))
    models = [predictor.path for predictor in opened]
    labelled = find_labelled(opened[0], source).limited(limit)
    metrics: list[dict[str, Any]] = []
    unreadable: dict[str, str] = {}
    for predictor in opened:
        metric, unreadable = judge(predictor, labelled, title=predictor.path.name)
        metrics.append(metric)
    described = [predictor.describe() for predictor in opened]
    timed = [i for i, known in enumerate(described) if not known.get("runs_as")]
    timings: list[Timing] = []
    for count in threads:
        names = [models[i] for i in timed]
        turns = [load_predictor(model, count) for model in names]
        timings += time_in_turn(names, turns, count, 1, repeats, warmup)
    height, width = opened[0].contract.size
    rows = tuple(
        Row(
            model=model.name,
            description={**known, "model": model.name},
            metrics=metric,
            peak_memory=None
            if known.get("runs_as")
            else measure_peak_memory(str(model), (height, width), 1, threads[0], "fp32"),
            timings=tuple(timing for timing in timings if timing.model == str(model)),
        )
        for model, known, metric in zip(models, described, metrics, strict=True)
    )
    here = {known["format"] for known in described}
    runtimes = {library for name in here & FORMATS.keys() for library in FORMATS[name].runs}
    table = FormatTable(
        rows=rows,
        primary=get_task(opened[0].contract.task).primary,
        pictures=len(labelled) - len(unreadable),
        repeats=repeats,
        machine=describe_machine(sorted({"mobilevit", "torch", *runtimes})),
        absent={
            name: f"mobilevit export {run} --format {name}" for name in wanted if name not in here
        },
        refused=refused,
        unreadable=unreadable,
        plot=checkpoint.with_name("formats.png"),
    )
    assert table.plot
    _plot(table, table.plot)
    text = json.dumps(table.to_dict(), indent=2, ensure_ascii=False)
    write_text(checkpoint.with_name("formats.json"), text + "\n")
    return table


def _artefacts(checkpoint: Path, formats: Sequence[str]) -> list[Path]:
    """Return what was exported beside a checkpoint, in the order of the formats."""
    found = []
    for path in sorted(checkpoint.parent.iterdir()):
        format = format_of(path)
        if format and format.name in formats and format.made(path):
            found.append((formats.index(format.name), path))
    return [path for _, path in sorted(found)]


def _check_network(predictor: Predictor, checkpoint: Predictor) -> None:
    ours, theirs = checkpoint.contract, predictor.contract
    known = predictor.origin.checkpoint
    differ = [
        *(["contract"] if replace(theirs, layout=ours.layout, output=ours.output) != ours else []),
        *(["checkpoint"] if known and known != checkpoint.origin.checkpoint else []),
    ]
    if differ:
        raise UserError(
            f"{predictor.path}: its {differ[0]} is not that of {checkpoint.path}, so it was "
            "exported from another network. Export it anew, or move it away."
        )


def _plot(table: FormatTable, path: Path) -> None:
    """Draw the metric against the latency of one picture with the first number of threads."""
    from matplotlib.figure import Figure

    from mobilevit.files import replacing

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    timed = [row for row in table.rows if row.timings]
    for row in timed:
        x, y = row.timings[0].median_ms, 100 * row.metrics[table.primary]
        area = 20 + 10 * (row.description["bytes"] or 0) / 1e6
        colour = axes.scatter([x], [y], area, alpha=0.6).get_facecolor()
        axes.scatter([], [], 30, color=colour, label=row.model)
    for name in axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8).get_texts():
        name.set_parse_math(False)
    count = timed[0].timings[0].threads
    axes.set_xlabel(f"ms for one picture, {count} thread{'s' * (count > 1)} (area: MB)")
    axes.set_ylabel(f"{table.primary} in %, {table.pictures:,} pictures")
    axes.margins(x=0.1, y=0.2)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    with replacing(path) as beside:
        figure.savefig(beside, format="png", dpi=120)
