"""A look at every picture of a data set before it is trained on."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from mobilevit.data import box_checks, mask_checks
from mobilevit.data.box_checks import box_sizes, check_boxes
from mobilevit.data.boxes import Boxes
from mobilevit.data.copies import check_copies
from mobilevit.data.decoding import Picture, PictureError
from mobilevit.data.findings import Finding, by_severity
from mobilevit.data.folders import Folders, Sample, fingerprint
from mobilevit.data.mask_checks import Tally, check_masks, count_masks
from mobilevit.data.masks import Mask, MaskFile, Pixels
from mobilevit.data.picture_checks import (
    check_counts,
    check_ignored,
    check_imbalance,
    check_pixels,
    check_reading,
)

_WORTH_A_POOL = 200


@dataclass(frozen=True)
class Sizes:
    """Smallest, median and largest width and height of the upright pictures, in pixels."""

    width: tuple[int, int, int]
    height: tuple[int, int, int]


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        findings: errors first, then warnings, then the rest.
        unreadable: the pictures to leave out.
        counts: readable pictures, or the boxes on them, or the pixels of their masks, by split
            (``"train"``, ``"val"``, and ``"test"`` if there is one) and class.
        sizes: of the readable pictures; ``None`` where there are none.
        pictures: readable ones, by split.
        box_sizes: boxes by split and by their size in pixels at the size trained at; empty where
            labels are no boxes.
        holders: pictures with a pixel of a class, by split and class; empty where labels are no
            masks.
        ignored_pixels: pixels without a class, by split; likewise.
    """

    findings: tuple[Finding, ...]
    unreadable: frozenset[Path]
    counts: dict[str, dict[str, int]]
    sizes: Sizes | None
    pictures: dict[str, int] = field(default_factory=dict)
    box_sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    holders: dict[str, dict[str, int]] = field(default_factory=dict)
    ignored_pixels: dict[str, int] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that training cannot go well with."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that training goes on with."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    def to_dict(self) -> dict[str, Any]:
        """Return the scan as plain values for JSON."""
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "unreadable": sorted(map(str, self.unreadable)),
            "counts": self.counts,
            "sizes": asdict(self.sizes) if self.sizes else None,
            "pictures": self.pictures,
            "box_sizes": self.box_sizes,
            "holders": self.holders,
            "ignored_pixels": self.ignored_pixels,
        }


class Record(NamedTuple):
    """What a worker tells of one picture.

    Attributes:
        reason: why it cannot be read; empty if it can.
        width: of the upright picture, in pixels.
        height: likewise.
        mode: Pillow's name of its pixels.
        digest: the same for copies of a file.
        turned: whether it lies on its side in the file.
        pixels: of its mask, if it has one.
        of_mask: whether it is its mask that cannot be read.
    """

    reason: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    digest: str = ""
    turned: bool = False
    pixels: Pixels | None = None
    of_mask: bool = False


class Entry(NamedTuple):
    """A picture that was read, and its place in the data set."""

    sample: Sample[Any]
    split: str
    record: Record


def scan(
    folders: Folders[Any], workers: int | None = None, progress: bool = True, size: int = 320
) -> Scan:
    """Decode every picture and say what is wrong with the data.

    Args:
        folders: the pictures.
        workers: processes that decode; by default as many as there are cores. Fewer than 200
            pictures are decoded in this process.
        progress: show a bar with the time left on stderr, if that is a terminal.
        size: side in pixels of the pictures to train on, which boxes are measured at.
    """
    splits = {"train": folders.train, "val": folders.val}
    if folders.test:
        splits["test"] = folders.test
    placed = [(split, sample) for split, samples in splits.items() for sample in samples]
    records = _inspect_all(
        [
            (sample.path, sample.label if isinstance(sample.label, Mask) else None)
            for _, sample in placed
        ],
        usable_cores() if workers is None else workers,
    )
    if progress:
        records = _with_bar(records, len(placed))
    entries = [
        Entry(sample, split, record)
        for (split, sample), record in zip(placed, records, strict=True)
    ]
    readable = [entry for entry in entries if not entry.record.reason]
    counts = {split: dict.fromkeys(folders.class_names, 0) for split in splits}
    tallies: dict[str, Tally] = {}
    has_boxes = any(isinstance(sample.label, Boxes) for _, sample in placed)
    if any(isinstance(sample.label, Mask) for _, sample in placed):
        for split in splits:
            of_split = [entry for entry in readable if entry.split == split]
            tallies[split] = count_masks(of_split, folders.class_names)
        counts = {split: tally.pixels for split, tally in tallies.items()}
        of_labels = [*check_masks(readable, tallies)]
    else:
        for sample, split, _ in readable:
            is_class = isinstance(sample.label, int)
            for label in [sample.label] if is_class else sample.label.labels():
                counts[split][folders.class_names[label]] += 1
        things = "boxes" if has_boxes else "pictures"
        of_labels = [
            *(check_boxes(readable, counts, size) if has_boxes else check_counts(counts)),
            *check_imbalance(counts["train"], things),
        ]
    told = {finding.check for finding in folders.findings}  # nothing is said twice
    findings = [
        *folders.findings,
        *check_reading(entries),
        *(finding for finding in of_labels if finding.check not in told),
        *check_copies(readable, folders.class_names),
        *check_pixels(readable),
        *check_ignored(folders),
    ]
    return Scan(
        findings=by_severity(findings),
        unreadable=frozenset(entry.sample.path for entry in entries if entry.record.reason),
        counts=counts,
        sizes=_sizes(readable),
        pictures={split: sum(entry.split == split for entry in readable) for split in splits},
        box_sizes=box_sizes(readable, size) if has_boxes else {},
        holders={split: tally.holders for split, tally in tallies.items()},
        ignored_pixels={split: tally.ignored for split, tally in tallies.items()},
    )


def check_label_sizes(samples: Iterable[Sample[Any]]) -> Iterator[Finding]:
    """Yield which boxes and masks are for pictures of another size; only headers are read."""
    entries = []
    for sample in samples:
        try:
            with Picture(sample.path) as picture:
                size = (picture.width, picture.height)
                record = Record("", *size, picture.mode, turned=picture.turned)
        except PictureError:  # it is among the unreadable when its turn comes
            continue
        entries.append(Entry(sample, "", record))
    boxes = [entry for entry in entries if isinstance(entry.sample.label, Boxes)]
    yield from box_checks.check_shapes(boxes)
    masks = [entry for entry in entries if isinstance(entry.sample.label, Mask)]
    yield from mask_checks.check_shapes(masks)


def check_label_numbers(labels: Iterable[Any]) -> Iterator[Finding]:
    """Yield which numbers in masks are in no class; each mask is read, other labels are not."""
    counts = []
    for mask in labels:
        if isinstance(mask, MaskFile):
            with suppress(PictureError):  # it is left out, and told, when its turn comes
                counts.append((mask, mask.count()))
    yield from mask_checks.check_numbers(counts)


def drop_unreadable(folders: Folders[Any], scan: Scan) -> Folders[Any]:
    """Return the folders without the pictures that cannot be read."""

    def kept(samples: Sequence[Sample[Any]]) -> tuple[Sample[Any], ...]:
        return tuple(sample for sample in samples if sample.path not in scan.unreadable)

    return replace(
        folders, train=kept(folders.train), val=kept(folders.val), test=kept(folders.test)
    )


def usable_cores() -> int:
    """Return how many logical cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _inspect(pair: tuple[Path, Mask | None]) -> Record:
    """Decode one picture and count its mask's pixels, if it has one.

    The smallest scale of a JPEG still reads its file to the end.
    """
    path, mask = pair
    try:
        with Picture(path) as picture:
            picture.decode(reduce=8)
            size = (picture.width, picture.height)
            record = Record("", *size, picture.mode, fingerprint(path), picture.turned)
    except PictureError as error:
        return Record(reason=str(error).removeprefix(f"{path}: "))
    except OSError as error:
        return Record(reason=str(error))
    try:
        return record._replace(pixels=mask.count()) if mask else record
    except PictureError as error:
        file = mask.path if isinstance(mask, MaskFile) else path
        return Record(reason=str(error).removeprefix(f"{file}: "), of_mask=True)


def _inspect_all(pairs: Sequence[tuple[Path, Mask | None]], workers: int) -> Iterator[Record]:
    """Yield a record for each picture and its mask, in order."""
    done = 0
    if workers > 1 and len(pairs) >= _WORTH_A_POOL:
        size = min(workers, 32)
        try:
            with ProcessPoolExecutor(size) as pool:
                for record in pool.map(_inspect, pairs, chunksize=_chunk(len(pairs), size)):
                    yield record
                    done += 1
        except BrokenProcessPool:
            # Started from a script without a main guard, processes cannot start: go on here.
            pass
    yield from map(_inspect, pairs[done:])


def _chunk(pictures: int, workers: int) -> int:
    return max(1, min(64, pictures // (4 * workers)))


def _with_bar(records: Iterable[Record], total: int) -> Iterator[Record]:
    """Show a progress bar; it refreshes here, for a thread must not run where processes fork."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    step = max(1, total // 200)
    with Progress(
        "Reading pictures",
        *columns,
        console=console,
        auto_refresh=False,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=total)
        for done, record in enumerate(records, 1):
            yield record
            if done % step == 0 or done == total:
                bar.update(task, completed=done, refresh=True)


def _sizes(readable: Sequence[Entry]) -> Sizes | None:
    if not readable:
        return None

    def spread(values: list[int]) -> tuple[int, int, int]:
        return min(values), round(statistics.median(values)), max(values)

    return Sizes(
        spread([entry.record.width for entry in readable]),
        spread([entry.record.height for entry in readable]),
    )
