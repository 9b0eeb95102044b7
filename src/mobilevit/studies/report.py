"""What a study found, as tables, plots and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilevit.files import write_text
from mobilevit.studies.folder import Result, StudyFolder

if TYPE_CHECKING:
    from rich.console import Console

    from mobilevit.data.folders import Folders

PAPER = "Beside the paper, differences from the first line"
Row = tuple[str, ...]
"""The cells of a line of a table."""


@dataclass(frozen=True)
class StudyReport:
    """What a study found so far.

    Attributes:
        name: of the study.
        folder: where everything is.
        data: name of the folder of the pictures.
        val: pictures that the networks are judged by.
        results: one for each entry.
        seeds: trainings that each entry is to have.
        epochs: of each, as the study's recipe has it.
    """

    name: str
    folder: Path
    data: str
    val: int
    results: tuple[Result, ...]
    seeds: int
    epochs: int

    @property
    def missing(self) -> int:
        """Trainings whose result is to come."""
        return sum(self.seeds - len(r.trained) - len(r.diverged) for r in self.results)

    @property
    def heading(self) -> str:
        """What this is and how complete, in a sentence or two."""
        facts = [run.facts for result in self.results for run in result.trained]
        text = f"{self.name} on {self.data}: {self.epochs} epochs"
        if facts:
            days = sorted({told["started"][:10] for told in facts})
            machines = {f"{f.get('processor', f['machine'])}, torch {f['torch']}" for f in facts}
            text += f", trained {' to '.join(dict.fromkeys((days[0], days[-1])))}"
            text += f" on {'; '.join(sorted(machines))}"
        text += (
            f". Top-1 on {self.val:,} val pictures after the last epoch, in percent: mean ± "
            "standard deviation over the trainings, whose number stands behind it. Train is "
            "measured while training, with its augmentation and dropout."
        )
        if measured := {r.measures["machine"] for r in self.results if r.measures}:
            text += f" Latency of one picture on one thread: {'; '.join(sorted(measured))}."
        if self.missing:
            total = self.seeds * len(self.results)
            text += f" UNFINISHED: {self.missing} of {total} trainings are to come."
        for result in self.results:
            if result.diverged:
                seeds = ", ".join(map(str, result.diverged))
                text += f" DIVERGED: {result.entry.name} with the seed {seeds}."
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain Python."""
        return {
            "study": self.name,
            "data": self.data,
            "val": self.val,
            "epochs": self.epochs,
            "seeds": self.seeds,
            "missing": self.missing,
            "results": [result.to_dict() for result in self.results],
        }

    def tables(self) -> dict[str, tuple[Row, list[Row]]]:
        """Return titles, and for each a header and rows; what nobody measured is left out."""
        tables = {"Accuracy and cost": _filled(_ACCURACY, self.results)}
        if self.results[0].entry.paper is not None:
            tables[PAPER] = _beside_the_paper(self.results, self.val)
        tough = [result for result in self.results if "robustness" in result.measures]
        if tough:
            pictures = tough[0].measures["robustness"]["samples"]
            title = f"Robustness, top-1 on {pictures:,} val pictures, seed 0"
            tables[title] = _robustness(tough)
        return tables

    def print(self, console: Console) -> None:
        """Print the tables and where everything is."""
        from rich.markup import escape
        from rich.table import Column, Table

        for title, (header, rows) in self.tables().items():
            columns = (
                Column(name, justify="right" if i else "left") for i, name in enumerate(header)
            )
            table = Table(*columns, title=title)
            for row in rows:
                table.add_row(*map(escape, row))
            console.print(table)
        console.print(self.heading, markup=False)
        console.print(f"Everything is in {self.folder}/", markup=False)

    def to_markdown(self) -> str:
        """Return the tables for a README."""
        parts = [f"# {self.name}", self.heading]
        for title, (header, rows) in self.tables().items():
            rule = ("---", *["---:"] * (len(header) - 1))
            cells = ([cell.replace("|", "\\|") for cell in row] for row in (header, rule, *rows))
            lines = [f"| {' | '.join(row)} |" for row in cells]
            parts += [f"## {title}", "\n".join(lines)]
        return "\n\n".join(parts) + "\n"


def write_report(folder: StudyFolder, folders: Folders[Any]) -> StudyReport:
    """Write the tables, the plots and the JSON of what is known, and return it.

    Args:
        folder: of the study.
        folders: the pictures.
    """
    from mobilevit.studies.plots import draw_accuracy, draw_curves

    report = StudyReport(
        folder.study.name,
        folder.path,
        folders.source.resolve().name,
        len(folders.val),
        folder.results(),
        folder.study.seeds,
        folder.study.recipe.training.epochs,
    )
    write_text(folder.path / "results.json", json.dumps(report.to_dict(), indent=2))
    write_text(folder.path / "README.md", report.to_markdown())
    draw_accuracy(folder.path / "accuracy.png", report.results)
    draw_curves(folder.path / "curves.png", report.results)
    return report


def _top1(result: Result) -> str:
    if result.mean is None:
        return ""
    spread = "" if result.spread is None else f" ± {_number(result.spread, 1, 100)}"
    return f"{result.mean * 100:.1f}{spread} ({len(result.trained)})"


def _number(value: float | None, digits: int, scale: float = 1.0) -> str:
    return "" if value is None else f"{value * scale:,.{digits}f}"


_ACCURACY: dict[str, Callable[[Result], str]] = {
    "network": lambda r: r.entry.name,
    "group": lambda r: r.entry.group,
    "params M": lambda r: _number(r.measures.get("parameters"), 2, 1e-6),
    "without classifier": lambda r: _number(r.measures.get("backbone_parameters"), 2, 1e-6),
    "MACs M": lambda r: _number(r.measures.get("multiply_adds"), 0, 1e-6),
    "top-1 % (runs)": _top1,
    "train − val": lambda r: _number(r.gap, 1, 100),
    "PyTorch ms": lambda r: _number(r.measures.get("pytorch_ms"), 1),
    "ONNX ms": lambda r: _number(r.measures.get("onnx_ms"), 1),
    "training min": lambda r: _number(r.seconds, 1, 1 / 60),
    "lr": lambda r: "" if r.rate is None else f"{r.rate:g}" + (" (edge)" if r.at_the_edge else ""),
}


def _filled(
    columns: dict[str, Callable[[Result], str]], results: Sequence[Result]
) -> tuple[Row, list[Row]]:
    """Return the columns that have something to say."""
    cells = {name: [cell(result) for result in results] for name, cell in columns.items()}
    kept = {name: values for name, values in cells.items() if any(values)}
    return tuple(kept), list(zip(*kept.values(), strict=True))


def _beside_the_paper(results: Sequence[Result], val: int) -> tuple[Row, list[Row]]:
    """Return what each entry with a number of the paper differs from the first, here and there.

    A difference here is too small to tell if it is less than twice the standard error of the
    difference of two shares of ``val`` pictures. That no two trainings are alike comes on top of
    it, so the verdict of a single training says so.
    """
    base = results[0]
    header = ("entry", "here %", "here Δ", "paper %", "paper Δ", "the same way")
    rows = []
    for result in results:
        if result.entry.paper is None or base.entry.paper is None:
            continue
        cells = [result.entry.name, _top1(result), "", _number(result.entry.paper, 1), "", ""]
        if result is not base:
            theirs = result.entry.paper - base.entry.paper
            cells[4] = f"{theirs:+.1f}"
            if result.mean is not None and base.mean is not None:
                here = result.mean - base.mean
                noise = 2 * math.sqrt(2 * base.mean * (1 - base.mean) / val)
                cells[2] = f"{here * 100:+.1f}"
                agrees = "yes" if here * theirs > 0 else "no"
                agrees += "" if None not in (result.spread, base.spread) else ", by one training"
                cells[5] = "too close to tell" if abs(here) < noise else agrees
        rows.append(tuple(cells))
    return header, rows


def _robustness(results: Sequence[Result]) -> tuple[Row, list[Row]]:
    """Return a line for each network: corruptions averaged over strengths, and other sizes."""
    found = [result.measures["robustness"] for result in results]
    names = list(found[0]["corrupted"])
    sizes = list(dict.fromkeys(size for told in found for size in told["sizes"]))
    header = ("network", "clean", *names, "mean", "of clean", *(f"{size} px" for size in sizes))
    rows = []
    for result, told in zip(results, found, strict=True):
        means = [sum(told["corrupted"][name]) / len(told["corrupted"][name]) for name in names]
        shares = [told["clean"], *means, told["mean"], told["relative"]]
        shares += [told["sizes"].get(size) for size in sizes]
        rows.append((result.entry.name, *(_number(share, 1, 100) for share in shares)))
    return header, rows
