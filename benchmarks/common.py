"""What the benchmarks share: taking turns, judging, and telling what ran where."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mobilevit import doctor

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MOBILEVIT_DATA", ROOT.parent / "shared" / "data"))
"""Where the real data sets are."""
_LOAD = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # before the benchmark


@dataclass(frozen=True)
class Bar:
    """A number that was promised.

    Attributes:
        what: the promise, in words.
        value: what was measured.
        bar: what it is held against.
        at_most: whether it must stay below the bar instead of reaching it.
    """

    what: str
    value: float
    bar: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self.value <= self.bar if self.at_most else self.value >= self.bar


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=(description or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--quick", action="store_true", help="run in seconds; the numbers are noise")
    made.add_argument(
        "--output", type=Path, help="folder for the JSON; none: benchmarks/results, not if --quick"
    )
    return made


def take_turns(
    contestants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Run every contestant once a round, and return the seconds of each.

    So a busy moment of the machine hits all of them; every other round goes backwards.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(-warmup, rounds):
        names = list(contestants) if turn % 2 else list(reversed(contestants))
        for name in names:
            started = time.perf_counter()
            contestants[name]()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Return median, p10 and p90."""
    low, median, high = np.percentile(np.asarray(seconds) * 1e3, (10, 50, 90))
    return {"median_ms": float(median), "p10_ms": float(low), "p90_ms": float(high)}


def agree(name: str, found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Stop if outputs differ by more than a share of the largest: that would be another job."""
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not difference <= tolerance:
        sys.exit(f"{name} computes something else: off by {difference:.2g} of the largest output")


def report(
    options: argparse.Namespace,
    rows: Sequence[Mapping[str, Any]],
    bars: Sequence[Bar] = (),
    libraries: Sequence[str] = (),
    notes: str = "",
) -> None:
    """Print what was measured, judge it, and write all of it as JSON.

    Args:
        options: of the command line.
        rows: one for each contestant and setting, all with the same keys.
        bars: what was promised.
        libraries: distributions whose versions matter, besides torch and this package.
        notes: how to read the numbers.
    """
    script = Path(sys.argv[0])
    machine = doctor().machine
    versions = {"python": machine.python}
    for library in ("mobilevit", "torch", *libraries):
        versions[library] = metadata.version(library)
    facts = {
        "benchmark": script.stem,
        "command": " ".join(["python", f"benchmarks/{script.name}", *map(_plain, sys.argv[1:])]),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": {
            "processor": machine.cpu,
            "cores": machine.cores,
            "system": sys.platform,
            "load": _LOAD,
        },
        "versions": versions,
        "quick": options.quick,
        "notes": " ".join(notes.split()),
        "rows": list(rows),
        "bars": [asdict(bar) | {"met": None if options.quick else bar.met} for bar in bars],
    }
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    words = ", ".join(f"{name} {version}" for name, version in versions.items())
    console.print(f"{facts['date']}, {machine.cpu}, {machine.cores} cores, {words}")
    table = Table(*rows[0], title=script.stem)
    for column, value in zip(table.columns, rows[0].values(), strict=True):
        column.justify = "left" if isinstance(value, str) else "right"
    for row in rows:
        table.add_row(*map(_short, row.values()))
    console.print(table)
    if facts["notes"]:
        console.print(facts["notes"], style="dim", markup=False)
    for bar in bars:
        verdict = "[green]met[/]" if bar.met else "[red]not met[/]"
        verdict = "not judged, the run was quick" if options.quick else verdict
        sign = "at most" if bar.at_most else "at least"
        console.print(f"{bar.what}: {_short(bar.value)} ({sign} {bar.bar:g}): {verdict}")

    folder = options.output or (None if options.quick else ROOT / "benchmarks" / "results")
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / f"{script.stem}.json").write_text(text + "\n", encoding="utf-8")


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _plain(argument: str) -> str:
    """Return an argument without the folders of this machine."""
    return Path(argument).name if os.sep in argument else argument
