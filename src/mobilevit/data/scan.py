"""A look at every picture of a data set before it is trained on."""

from __future__ import annotations

import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from mobilevit.data.box_checks import box_sizes, check_boxes
from mobilevit.data.boxes import Boxes
from mobilevit.data.copies import check_copies
from mobilevit.data.decoding import Picture, PictureError
from mobilevit.data.findings import Finding, by_severity, counted, listed
from mobilevit.data.folders import Folders, Sample, fingerprint, is_picture

_WORTH_A_POOL = 200
_FEW = 10
_IMBALANCE = 10
_TINY = 32
_HUGE = 50_000_000
_USUAL_MODES = {"RGB", "L"}
_FOREIGN_PHOTOS = {".heic", ".heif", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".psd", ".svg"}


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
        counts: readable pictures, or the boxes on them, by split (``"train"``, ``"val"``, and
            ``"test"`` if there is one) and class.
        sizes: of the readable pictures; ``None`` where there are none.
        pictures: readable ones, by split.
        box_sizes: boxes by split and by their size in pixels at the size trained at; empty where
            labels are no boxes.
    """

    findings: tuple[Finding, ...]
    unreadable: frozenset[Path]
    counts: dict[str, dict[str, int]]
    sizes: Sizes | None
    pictures: dict[str, int] = field(default_factory=dict)
    box_sizes: dict[str, dict[str, int]] = field(default_factory=dict)

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
    """

    reason: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    digest: str = ""
    turned: bool = False


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
    paths = [sample.path for _, sample in placed]
    records = _inspect_all(paths, usable_cores() if workers is None else workers)
    if progress:
        records = _with_bar(records, len(paths))
    entries = [
        Entry(sample, split, record)
        for (split, sample), record in zip(placed, records, strict=True)
    ]
    readable = [entry for entry in entries if not entry.record.reason]
    counts = {split: dict.fromkeys(folders.class_names, 0) for split in splits}
    for sample, split, _ in readable:
        is_class = isinstance(sample.label, int)
        for label in [sample.label] if is_class else sample.label.labels():
            counts[split][folders.class_names[label]] += 1
    has_boxes = any(isinstance(sample.label, Boxes) for _, sample in placed)
    told = {finding.check for finding in folders.findings}  # nothing is said twice
    of_labels = check_boxes(readable, counts, size) if has_boxes else _check_counts(counts)
    findings = [
        *folders.findings,
        *_check_reading(entries),
        *(finding for finding in of_labels if finding.check not in told),
        *_check_imbalance(counts["train"], "boxes" if has_boxes else "pictures"),
        *check_copies(readable, folders.class_names),
        *_check_pixels(readable),
        *_check_ignored(folders),
    ]
    return Scan(
        findings=by_severity(findings),
        unreadable=frozenset(entry.sample.path for entry in entries if entry.record.reason),
        counts=counts,
        sizes=_sizes(readable),
        pictures={split: sum(entry.split == split for entry in readable) for split in splits},
        box_sizes=box_sizes(readable, size) if has_boxes else {},
    )


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


def _inspect(path: Path) -> Record:
    """Decode one picture. The smallest scale of a JPEG still reads its file to the end."""
    try:
        with Picture(path) as picture:
            picture.decode(reduce=8)
            size = (picture.width, picture.height)
            return Record("", *size, picture.mode, fingerprint(path), picture.turned)
    except PictureError as error:
        return Record(reason=str(error).removeprefix(f"{path}: "))
    except OSError as error:
        return Record(reason=str(error))


def _inspect_all(paths: Sequence[Path], workers: int) -> Iterator[Record]:
    """Yield a record for each path, in order."""
    done = 0
    if workers > 1 and len(paths) >= _WORTH_A_POOL:
        size = min(workers, 32)
        try:
            with ProcessPoolExecutor(size) as pool:
                for record in pool.map(_inspect, paths, chunksize=_chunk(len(paths), size)):
                    yield record
                    done += 1
        except BrokenProcessPool:
            # Started from a script without a main guard, processes cannot start: go on here.
            pass
    yield from map(_inspect, paths[done:])


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


def _check_reading(entries: Sequence[Entry]) -> Iterator[Finding]:
    kinds: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.record.reason:
            kinds[entry.record.reason.partition(" (")[0]].append(entry)
    for kind, group in kinds.items():
        reason = kind.rstrip(".") + "." if len(group) > 1 else group[0].record.reason
        yield Finding(
            "warning",
            "unreadable-picture",
            f"{_count(group)} cannot be read and will be left out: {reason}",
            _paths(group),
        )


def _check_counts(counts: dict[str, dict[str, int]]) -> Iterator[Finding]:
    train, val = counts["train"], counts["val"]
    if len(train) == 1:
        yield Finding(
            "error", "one-class", f"'{next(iter(train))}' is the only class; add another."
        )
    if empty := [name for name, count in train.items() if not count]:
        yield Finding(
            "error",
            "class-without-pictures",
            f"no readable picture to train on in {listed(empty)}, which would silently teach "
            "nothing. Add pictures, or remove the folder.",
        )
    if empty := [name for name, count in val.items() if not count]:
        yield Finding(
            "warning",
            "class-without-pictures",
            f"no readable picture to validate on in {listed(empty)}, so that it goes unmeasured.",
        )
    some = {name: count for name, count in train.items() if count}
    if few := [f"{name} ({count})" for name, count in some.items() if count < _FEW]:
        yield Finding(
            "warning", "few-pictures", f"fewer than {_FEW} pictures to train on in {listed(few)}."
        )


def _check_imbalance(counts: dict[str, int], things: str) -> Iterator[Finding]:
    some = {name: count for name, count in counts.items() if count}
    if not some:
        return
    least, most = min(some, key=some.__getitem__), max(some, key=some.__getitem__)
    if some[most] > _IMBALANCE * some[least]:
        yield Finding(
            "warning",
            "imbalance",
            f"{most} has {some[most]:,} {things} to train on and {least} has {some[least]:,}; "
            "rare classes are learnt badly.",
        )


def _check_pixels(readable: Sequence[Entry]) -> Iterator[Finding]:
    huge = [entry for entry in readable if entry.record.width * entry.record.height > _HUGE]
    if huge:
        yield Finding(
            "warning",
            "huge-picture",
            f"{_count(huge)} of more than {_HUGE:,} pixels: decoding slows down every epoch. "
            "Make them smaller.",
            _paths(huge),
        )
    tiny = [entry for entry in readable if min(entry.record.width, entry.record.height) < _TINY]
    if tiny:
        yield Finding(
            "warning",
            "tiny-picture",
            f"{_count(tiny)} with a side of less than {_TINY} pixels.",
            _paths(tiny),
        )
    unusual = [entry for entry in readable if entry.record.mode not in _USUAL_MODES]
    if unusual:
        modes = Counter(entry.record.mode for entry in unusual)
        yield Finding(
            "info",
            "unusual-mode",
            "pictures that are not plain RGB or grey are converted: "
            + ", ".join(f"{count:,} {mode}" for mode, count in modes.most_common())
            + ".",
            _paths(unusual),
        )


def _check_ignored(folders: Folders[Any]) -> Iterator[Finding]:
    loose = [path for path in folders.ignored if is_picture(path)]
    if loose:
        yield Finding(
            "warning",
            "loose-picture",
            f"pictures outside the class folders are not used: {len(loose):,}.",
            tuple(map(str, loose)),
        )
    other = [path for path in folders.ignored if not is_picture(path)]
    if other:
        foreign = sorted({path.suffix.lower() for path in other} & _FOREIGN_PHOTOS)
        convert = f" Convert {', '.join(foreign)} to JPEG or PNG to use them." if foreign else ""
        yield Finding(
            "warning" if foreign else "info",
            "not-a-picture",
            f"files without the ending of a picture are passed over: {len(other):,}.{convert}",
            tuple(map(str, other)),
        )


def _paths(entries: Iterable[Entry]) -> tuple[str, ...]:
    return tuple(str(entry.sample.path) for entry in entries)


def _count(entries: Sequence[Entry]) -> str:
    return counted(len(entries), "picture")
