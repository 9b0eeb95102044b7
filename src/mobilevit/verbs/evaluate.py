"""Measure how good a network is on labelled pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilevit.errors import UserError, nearest, unknown

if TYPE_CHECKING:
    from rich.console import Console

    from mobilevit.data.folders import Folders, Sample
    from mobilevit.deployment.preprocess import Batch

SPLITS = ("val", "train", "all")


@dataclass(frozen=True)
class Evaluation:
    """How good a network is.

    Attributes:
        model: description of the network, as its predictor gives it.
        data: the folder of the pictures.
        split: which of them, in words.
        metrics: of the task, for example ``{"top1": 0.63, …}``.
        unreadable: pictures that were left out, and why.
        seconds: for reading the pictures and running the network.
    """

    model: dict[str, Any]
    data: str
    split: str
    metrics: dict[str, Any]
    unreadable: dict[str, str]
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Pictures read and classified in a second."""
        samples: int = self.metrics["samples"]
        return samples / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {
            "model": self.model,
            "data": self.data,
            "split": self.split,
            "metrics": self.metrics,
            "unreadable": self.unreadable,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_per_second, 1),
        }

    def print(self, console: Console) -> None:
        """Print it for people."""
        from rich.markup import escape
        from rich.table import Table

        per_class: dict[str, dict[str, Any]] = self.metrics.get("per_class", {})
        if per_class:
            table = Table("class", title=escape(f"{self.model['model']} on {self.data}"))
            for column in ("pictures", "recall", "precision"):
                table.add_column(column, justify="right")
            for name, row in per_class.items():
                shares = (_percent(row["recall"]), _percent(row["precision"]))
                table.add_row(escape(name), f"{row['support']:,}", *shares)
            console.print(table)
        for name in ("top1", "top5"):
            if name in self.metrics:
                console.print(f"{name}: [bold]{self.metrics[name]:.2%}[/]")
        console.print(
            f"loss {self.metrics['loss']:.4f}, {self.metrics['samples']:,} pictures "
            f"({self.split}), {self.images_per_second:.0f} a second",
            highlight=False,
            markup=False,
        )
        for path, reason in self.unreadable.items():
            console.print(f"left out: {path}: {reason}", markup=False, soft_wrap=True)


def evaluate(
    model: str | Path,
    data: str | Path,
    split: str = "val",
    batch_size: int = 32,
    threads: int | None = None,
    output: str | Path | None = None,
) -> Evaluation:
    """Evaluate a network on labelled pictures.

    Classes are matched by their names, or where that fails by their synonyms, without regard to
    case and underscores; the data may have fewer than the network knows.

    Args:
        model: whatever ``load_predictor`` takes; an ``.onnx`` file needs no torch.
        data: a folder of class folders, with ``train/`` and ``val/`` or without.
        split: ``"val"``, ``"train"`` or ``"all"``. In a folder without a split of its own, ``val``
            and ``train`` are the two sides that training made of it, if the network was trained on
            this very folder; otherwise all of it is ``val``.
        batch_size: pictures run at a time.
        threads: threads that compute; by default as many as the runtime finds good.
        output: a file to write the result to, as JSON.

    Raises:
        UserError: when the model or the data cannot be used, or when the data have a class that
            the network does not know. A picture that cannot be read is no error: it is among
            ``unreadable``.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be 1 or more.")
    import numpy as np

    from mobilevit.deployment.preprocess import batches
    from mobilevit.deployment.runtimes import load_predictor
    from mobilevit.files import write_text
    from mobilevit.tasks import get_task

    predictor = load_predictor(model, threads)
    contract, origin = predictor.contract, predictor.origin
    task = get_task(contract.task)
    folders = task.read(data, origin.val_fraction if origin.is_at(data) else None)
    samples, chosen = _choose(folders, split)
    labels = _match(folders, samples, contract.class_names, str(predictor.path))
    paths = [sample.path for sample in samples]
    metric = task.metric(contract)
    unreadable: dict[str, str] = {}
    started = time.perf_counter()
    for batch in _with_bar(batches(paths, contract, batch_size), len(paths)):
        unreadable |= {str(path): reason for path, reason in batch.unreadable.items()}
        if batch.positions:
            targets = np.array([labels[position] for position in batch.positions])
            metric.update(predictor.run(batch.images), targets)
    seconds = time.perf_counter() - started
    if len(unreadable) == len(paths):
        first, reason = next(iter(unreadable.items()))
        raise UserError(f"{data}: none of its {len(paths)} pictures can be read. {first}: {reason}")
    evaluation = Evaluation(
        predictor.describe(), str(data), chosen, metric.compute(), unreadable, seconds
    )
    if output:
        text = json.dumps(evaluation.to_dict(), indent=2, ensure_ascii=False)
        write_text(Path(output), text + "\n")
    return evaluation


def _choose(folders: Folders, split: str) -> tuple[list[Sample], str]:
    """Return the pictures of a split, and which they are in words."""
    if split == "all":
        return [*folders.train, *folders.val], "all"
    if not folders.val:
        if split == "train":
            raise UserError(
                f"{folders.source}: has no val/ folder, and the network was not trained on this "
                "very folder, so which pictures are to train on is not known. Use split 'all'."
            )
        return list(folders.train), "all of a folder without a split"
    samples = folders.val if split == "val" else folders.train
    if not samples:
        raise UserError(f"{folders.source}: has no pictures in its {split} split.")
    return list(samples), split


def _match(
    folders: Folders, samples: Iterable[Sample], known: tuple[str, ...], model: str
) -> list[int]:
    """Return for each sample the index of its class among those the network knows."""
    exact = {name: index for index, name in enumerate(known)}
    loose = _loose_names(known)
    labels = []
    for sample in samples:
        name = folders.class_names[sample.label]
        index = exact.get(name, loose.get(_loosely(name)))
        if index is None:
            raise UserError(
                f"{folders.source}: has a class '{name}', which {model} does not know."
                f"{nearest(name, known)} It knows: {_listed(known)}."
            )
        labels.append(index)
    return labels


def _loose_names(known: Sequence[str]) -> dict[str, int]:
    """Return the classes by their names and synonyms, those that mean one class only.

    Published weights say "tench, Tinca tinca" and "cassette player" where a folder is called
    "tench" or "cassette_player".
    """
    owners: dict[str, set[int]] = {}
    for index, name in enumerate(known):
        for synonym in (name, *name.split(",")):
            owners.setdefault(_loosely(synonym), set()).add(index)
    return {name: owner.pop() for name, owner in owners.items() if len(owner) == 1}


def _loosely(name: str) -> str:
    return name.replace("_", " ").strip().casefold()


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def _with_bar(found: Iterator[Batch], pictures: int) -> Iterator[Batch]:
    """Show a progress bar with the time left on stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    bar = Progress(
        "evaluate",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=pictures)
        for batch in found:
            yield batch
            bar.advance(task, len(batch.positions) + len(batch.unreadable))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
