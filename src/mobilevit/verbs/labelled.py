"""Labelled pictures to judge a trained network on: which, and what it calls their classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from mobilevit.data.boxes import classes_of, relabelled
from mobilevit.data.findings import refuse
from mobilevit.errors import UserError, nearest, unknown

if TYPE_CHECKING:
    from mobilevit.data.folders import Folders, Sample
    from mobilevit.deployment.preprocess import Batch
    from mobilevit.deployment.runtimes import Predictor

SPLITS = ("val", "train", "test", "all")
_OF_TRAINING = ("no-boxes", "no-masks")


@dataclass(frozen=True)
class Labelled:
    """Pictures and their labels.

    Attributes:
        source: the folder they were found in.
        split: which of its pictures these are, in words.
        paths: the pictures.
        labels: for each the index of its class among those the network knows, its boxes, or its
            mask.
    """

    source: Path
    split: str
    paths: tuple[Path, ...]
    labels: tuple[Any, ...]

    def name(self, position: int) -> str:
        """Return a picture's path in the data set, the same on every machine."""
        return Path(os.path.relpath(self.paths[position], self.source)).as_posix()

    def limited(self, limit: int | None) -> Labelled:
        """Return at most ``limit`` of the pictures, as evenly over the classes as they allow.

        Which ones depends on their names alone, so every network and every machine gets the same,
        and a smaller limit gives a part of what a larger one gives.
        """
        if limit is None or limit >= len(self.paths):
            return self
        order = sorted((_hash(self.name(i)), self.name(i), i) for i in range(len(self)))
        taken: Counter[int] = Counter()
        ranked = []
        for turn, (_, _, position) in enumerate(order):
            label = min(classes_of(self.labels[position]), default=-1)
            ranked.append((taken[label], turn, position))
            taken[label] += 1
        chosen = sorted(position for _, _, position in sorted(ranked)[:limit])
        return replace(
            self,
            paths=tuple(self.paths[position] for position in chosen),
            labels=tuple(self.labels[position] for position in chosen),
        )

    def check_readable(self, unreadable: Mapping[str, str]) -> None:
        """Do nothing.

        Raises:
            UserError: when none of the pictures can be read.
        """
        if len(unreadable) == len(self):
            path, reason = next(iter(unreadable.items()))
            raise UserError(
                f"{self.source}: none of its {len(self)} pictures can be read. {path}: {reason}"
            )

    def __len__(self) -> int:
        return len(self.paths)


def find_labelled(predictor: Predictor, data: str | Path, split: str = "val") -> Labelled:
    """Find labelled pictures whose classes a network knows.

    Classes are matched by their names, or where that fails by their synonyms, without regard to
    case and underscores; the data may have fewer than the network knows.

    Args:
        predictor: the network.
        data: labelled pictures, as the network's task reads them.
        split: ``"val"``, ``"train"``, ``"test"`` or ``"all"``. In a folder without a split
            of its own, ``val`` and ``train`` are the two sides that training made of it, if the
            network was trained on this very folder; otherwise all of it is ``val``.

    Raises:
        UserError: when the data cannot be used, have boxes or masks for pictures of another size,
            or have a class that the network does not know.
    """
    from mobilevit.data.scan import check_label_sizes
    from mobilevit.tasks import get_task

    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    contract, origin = predictor.contract, predictor.origin
    folders = get_task(contract.task).read(
        data, origin.val_fraction if origin.is_at(data) else None
    )
    refuse(folders.source, (f for f in folders.findings if f.check not in _OF_TRAINING))
    samples, chosen = _choose(folders, split)
    if contract.task != "classification":
        refuse(folders.source, check_label_sizes(samples))
    labels = _match(folders, samples, contract.class_names, str(predictor.path))
    paths = tuple(sample.path for sample in samples)
    return Labelled(folders.source, chosen, paths, tuple(labels))


def judge(
    predictor: Predictor, labelled: Labelled, batch_size: int = 32, title: str = "evaluate"
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run a network on labelled pictures.

    Args:
        predictor: the network.
        labelled: the pictures.
        batch_size: pictures run at a time.
        title: of the progress bar.

    Returns:
        The metrics of the network's task by name, and the pictures that cannot be read with the
        reason.

    Raises:
        UserError: when none of the pictures can be read, or masks have numbers in no class.
    """
    from mobilevit.data.scan import check_label_numbers
    from mobilevit.deployment.preprocess import batches
    from mobilevit.tasks import get_task

    refuse(labelled.source, check_label_numbers(labelled.labels))
    metric = get_task(predictor.contract.task).metric(predictor.contract)
    unreadable: dict[str, str] = {}
    read = batches(labelled.paths, predictor.contract, batch_size)
    for batch in with_bar(read, len(labelled), title):
        unreadable |= {str(path): reason for path, reason in batch.unreadable.items()}
        if batch.positions:
            labels = [labelled.labels[position] for position in batch.positions]
            metric.update(predictor.run(batch.images), labels)
    labelled.check_readable(unreadable)
    return metric.compute(), unreadable


def with_bar(found: Iterator[Batch], pictures: int, title: str) -> Iterator[Batch]:
    """Show a progress bar with the time left on stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(title, total=pictures)
        for batch in found:
            yield batch
            bar.advance(task, len(batch.positions) + len(batch.unreadable))


def _choose(folders: Folders[Any], split: str) -> tuple[list[Sample[Any]], str]:
    """Return the pictures of a split, and which they are in words."""
    if split == "all":
        return [*folders.train, *folders.val, *folders.test], "all"
    if not folders.val and split == "val" and folders.test:
        raise UserError(
            f"{folders.source}: has no pictures in its val split, but a test split: --split test."
        )
    if not folders.val and split != "test":
        if split == "train":
            raise UserError(
                f"{folders.source}: has no val/ folder, and the network was not trained on this "
                "very folder, so which pictures are to train on is not known. Use split 'all'."
            )
        return list(folders.train), "all of a folder without a split"
    samples = {"val": folders.val, "train": folders.train, "test": folders.test}[split]
    if not samples:
        raise UserError(f"{folders.source}: has no pictures in its {split} split.")
    return list(samples), split


def _match(
    folders: Folders[Any], samples: Sequence[Sample[Any]], known: tuple[str, ...], model: str
) -> list[Any]:
    """Return the samples' labels with the indices of the classes that the network knows."""
    counts = Counter(known)  # ImageNet's "crane" is a bird, and another one lifts loads
    exact = {name: index for index, name in enumerate(known) if counts[name] == 1}
    loose = _loose_names(known)
    indices = [exact.get(name, loose.get(_loosely(name), -1)) for name in folders.class_names]
    for label in sorted({label for sample in samples for label in classes_of(sample.label)}):
        if indices[label] < 0:
            name = folders.class_names[label]
            reason = f"does not know.{nearest(name, known)}"
            if name in counts:
                reason = "knows several of."
            raise UserError(
                f"{folders.source}: has a class '{name}', which {model} {reason} "
                f"It knows: {_listed(known)}."
            )
    return [relabelled(sample.label, indices) for sample in samples]


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


def _hash(name: str) -> int:
    return crc32(name.encode(errors="surrogateescape"))
