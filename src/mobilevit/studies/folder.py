"""What a study leaves on disk, and what can be read from it at any moment.

::

    pictures.json              which pictures all of it is about
    ENTRY/rate-0.002/          the run folder of a short training that tries a learning rate
    ENTRY/lr-0.002-seed-0/     the run folder of a training whose result counts
    measures.json              cost, latency and robustness of the networks of seed 0
    results.json               all that is known so far
    README.md                  the same as tables
    ENTRY/…/diverged.txt       why a training ended without weights; without it, it is tried again
    accuracy.png               top-1 against parameters, multiply-adds and latency
    curves.png                 train and val over the epochs

What a training reached stands in its ``recipe.yaml``, ``metrics.jsonl`` and ``run.json``: the
checkpoints of trainings that are done may be deleted, and the rest goes on on any machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from safetensors import safe_open

from mobilevit.data.folders import Folders, data_hash
from mobilevit.errors import UserError
from mobilevit.files import make_folder, read_json, write_text
from mobilevit.studies.study import Entry, Study
from mobilevit.training.recipe import Recipe, load_recipe
from mobilevit.training.run_folder import RunFolder

_OF_NO_CONSEQUENCE = {"workers": None, "save_steps": 500}
"""Settings that a training may be taken up again without."""
DIVERGED = "diverged.txt"


@dataclass(frozen=True)
class Trained:
    """A training that is done.

    Attributes:
        seed: its seed.
        rows: the metrics of its epochs, as in ``metrics.jsonl``.
        facts: where it ran, as in ``run.json``.
        checkpoint: the network after its last epoch, if nobody deleted it.
    """

    seed: int
    rows: tuple[Mapping[str, Any], ...]
    facts: Mapping[str, Any]
    checkpoint: Path

    @property
    def key(self) -> str:
        """What no other training has."""
        return hashlib.blake2b(json.dumps(self.rows).encode(), digest_size=8).hexdigest()

    @property
    def last(self) -> Mapping[str, Any]:
        """The metrics after the last epoch: no epoch is chosen by val."""
        return self.rows[-1]


@dataclass(frozen=True)
class Result:
    """What is known of an entry so far.

    Attributes:
        entry: what it is.
        tried: the value on the held-back part that each learning rate reached.
        rate: the learning rate chosen, or the only one; none as long as it is not known.
        trained: the trainings that are done.
        diverged: seeds of those that ended without weights, which are not tried again.
        measures: cost, latency and robustness, empty as long as they are not measured.
        metric: the name of the value that counts.
    """

    entry: Entry
    tried: Mapping[float, float]
    rate: float | None
    trained: tuple[Trained, ...]
    diverged: tuple[int, ...]
    measures: Mapping[str, Any]
    metric: str

    @property
    def values(self) -> list[float]:
        """What each training reached on val after its last epoch."""
        return [run.last[f"val_{self.metric}"] for run in self.trained]

    @property
    def mean(self) -> float | None:
        """Their mean."""
        return mean(self.values) if self.trained else None

    @property
    def spread(self) -> float | None:
        """Their standard deviation; one training has none."""
        return stdev(self.values) if len(self.trained) > 1 else None

    @property
    def gap(self) -> float | None:
        """How much higher train is than val after the last epoch, on average."""
        gaps = [r.last[f"train_{self.metric}"] - r.last[f"val_{self.metric}"] for r in self.trained]
        return mean(gaps) if gaps else None

    @property
    def seconds(self) -> float | None:
        """Time of a training without evaluation, on average."""
        return mean(run.last["seconds"] for run in self.trained) if self.trained else None

    @property
    def at_the_edge(self) -> bool:
        """Whether the rate chosen is the lowest or highest tried: a better one may lie beyond."""
        return len(self.tried) > 1 and self.rate in (min(self.tried), max(self.tried))

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain Python."""
        return {
            "name": self.entry.name,
            "group": self.entry.group,
            "settings": dict(self.entry.settings),
            "paper": self.entry.paper,
            "machines": sorted({run.facts.get("processor", "?") for run in self.trained}),
            "tried": {f"{rate:g}": value for rate, value in self.tried.items()},
            "rate": self.rate,
            f"val_{self.metric}": self.mean,
            "spread": self.spread,
            "train_minus_val": self.gap,
            "seconds": self.seconds,
            "seeds": [run.seed for run in self.trained],
            "diverged": list(self.diverged),
            "runs": [dict(run.last) for run in self.trained],
            **self.measures,
        }


class StudyFolder:
    """The folder of a study on disk, which need not exist yet.

    Args:
        path: the folder.
        study: what is compared.
        metric: the name of the value that counts, ``"top1"``.
    """

    def __init__(self, path: Path, study: Study, metric: str) -> None:
        self.path = path
        self.study = study
        self.metric = metric
        self.measures = path / "measures.json"

    def begin(self, folders: Folders[Any]) -> None:
        """Make the folder, and remember the pictures.

        Raises:
            UserError: when the folder is about other pictures, another part was held back, or it
                holds what is no study.
        """
        make_folder(self.path)
        facts = {
            "data": folders.source.resolve().name,
            "train": data_hash(folders.train, folders.source),
            "val": data_hash(folders.val, folders.source),
            "held back": self.study.held_back,
        }
        file = self.path / "pictures.json"
        there = {entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")}
        if there and file.name not in there:
            raise UserError(f"{self.path}: it exists and holds no study. Choose another output.")
        if there:
            theirs = read_json(file)
            for what, value in facts.items():
                if theirs.get(what) != value:
                    raise UserError(
                        f"{self.path}: this study was begun with other pictures ({what}: "
                        f"{theirs.get(what)} there, {value} here). Choose another output."
                    )
        write_text(file, json.dumps(facts, indent=2))

    def tuning(self, entry: Entry, rate: float) -> RunFolder:
        """Return the run folder that tries a learning rate."""
        return RunFolder(self.path / entry.slug / f"rate-{rate:g}")

    def final(self, entry: Entry, rate: float, seed: int) -> RunFolder:
        """Return the run folder of a training whose result counts."""
        return RunFolder(self.path / entry.slug / f"lr-{rate:g}-seed-{seed}")

    def rate(self, entry: Entry) -> float | None:
        """Return the rate that reached most, of equals the lower; none while some are open."""
        return self._best(self.tried(entry))

    def results(self) -> tuple[Result, ...]:
        """Return what is known of every entry."""
        measured = self.measured()
        return tuple(self._result(entry, measured) for entry in self.study.entries)

    def measured(self) -> dict[str, Any]:
        """Return what was measured, for each entry by its slug."""
        return read_json(self.measures) if self.measures.is_file() else {}

    def _result(self, entry: Entry, measured: Mapping[str, Any]) -> Result:
        tried, trained, diverged = self.tried(entry), [], []
        rate = self._best(tried)
        if rate is not None:
            for seed in range(self.study.seeds):
                run = self.final(entry, rate, seed)
                if rows := finished_rows(run, self.study.final(entry, rate, seed)):
                    trained.append(Trained(seed, tuple(rows), run.facts(), run.last))
                elif has_diverged(run):
                    diverged.append(seed)
        measures = measured.get(entry.slug, {})
        if not trained or measures.get("network") != trained[0].key:
            measures = {}
        ended = (tuple(trained), tuple(diverged))
        return Result(entry, tried, rate, *ended, measures, self.metric)

    def _best(self, tried: Mapping[float, float]) -> float | None:
        rates = sorted(self.study.rates)
        if len(rates) == 1:
            return rates[0]
        return max(rates, key=lambda rate: tried[rate]) if len(tried) == len(rates) else None

    def tried(self, entry: Entry) -> dict[float, float]:
        """Return what each learning rate reached on the held-back part; 0 if it diverged."""
        if len(self.study.rates) == 1:
            return {}
        tried = {}
        for rate in self.study.rates:
            run = self.tuning(entry, rate)
            if rows := finished_rows(run, self.study.tuning(entry, rate)):
                tried[rate] = rows[-1][f"val_{self.metric}"]
            elif has_diverged(run):
                tried[rate] = 0.0
        return tried


def mark_diverged(run: RunFolder, reason: str) -> None:
    """Remember that a training ended without weights."""
    write_text(run.path / DIVERGED, reason)


def has_diverged(run: RunFolder) -> bool:
    """Tell whether a training ended without weights."""
    return (run.path / DIVERGED).is_file()


def finished_rows(run: RunFolder, recipe: Recipe) -> list[dict[str, Any]]:
    """Return the metrics of a run's epochs if all of them are done, else nothing.

    Raises:
        UserError: when the run has another recipe.
    """
    if not run.recipe.is_file():
        return []
    theirs = load_recipe(run.recipe).override(**_OF_NO_CONSEQUENCE)
    recipe = recipe.override(**_OF_NO_CONSEQUENCE)
    if here := theirs.changes(recipe):
        there = recipe.changes(theirs)
        differing = [f"{name} {there[name]} there, {value} here" for name, value in here.items()]
        raise UserError(
            f"{run.path}: it was trained with other settings ({'; '.join(differing)}). "
            "Choose another output, or the settings of that one."
        )
    rows, epochs = run.rows(), recipe.training.epochs
    if [row["epoch"] for row in rows] != list(range(1, epochs + 1)):
        return []
    if not run.last.is_file():  # deleted, as the last epoch's row comes after earlier checkpoints
        return rows
    with safe_open(run.last, framework="np") as file:
        progress = json.loads((file.metadata() or {}).get("progress", "{}"))
    return rows if progress.get("epoch") == epochs else []
