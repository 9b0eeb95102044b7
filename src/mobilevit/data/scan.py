"""A look at every picture of a data set before it is trained on."""

from __future__ import annotations

import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from mobilevit.data.decoding import Picture, PictureError
from mobilevit.data.findings import Finding, by_severity
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
        counts: readable pictures, by split (``"train"``, ``"val"``) and class.
        sizes: of the readable pictures; ``None`` where there are none.
    """

    findings: tuple[Finding, ...]
    unreadable: frozenset[Path]
    counts: dict[str, dict[str, int]]
    sizes: Sizes | None

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
        }


class _Record(NamedTuple):
    """What a worker tells of one picture; ``reason`` is why it cannot be read."""

    reason: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    digest: str = ""


class _Entry(NamedTuple):
    """A picture that was read, and its place in the data set."""

    sample: Sample[Any]
    split: str
    record: _Record


def scan(folders: Folders[Any], workers: int | None = None, progress: bool = True) -> Scan:
    """Decode every picture and say what is wrong with the data.

    Args:
        folders: the pictures.
        workers: processes that decode; by default as many as there are cores. Fewer than 200
            pictures are decoded in this process.
        progress: show a bar with the time left on stderr, if that is a terminal.
    """
    splits = [("train", sample) for sample in folders.train]
    splits += [("val", sample) for sample in folders.val]
    paths = [sample.path for _, sample in splits]
    records = _inspect_all(paths, usable_cores() if workers is None else workers)
    if progress:
        records = _with_bar(records, len(paths))
    entries = [
        _Entry(sample, split, record)
        for (split, sample), record in zip(splits, records, strict=True)
    ]
    readable = [entry for entry in entries if not entry.record.reason]
    counts = {split: dict.fromkeys(folders.class_names, 0) for split in ("train", "val")}
    for sample, split, _ in readable:
        counts[split][folders.class_names[sample.label]] += 1
    findings = [
        *_check_reading(entries),
        *_check_counts(counts),
        *_check_copies(readable, folders.class_names),
        *_check_pixels(readable),
        *_check_ignored(folders),
    ]
    return Scan(
        findings=by_severity(findings),
        unreadable=frozenset(entry.sample.path for entry in entries if entry.record.reason),
        counts=counts,
        sizes=_sizes(readable),
    )


def drop_unreadable(folders: Folders[Any], scan: Scan) -> Folders[Any]:
    """Return the folders without the pictures that cannot be read."""
    return replace(
        folders,
        train=tuple(sample for sample in folders.train if sample.path not in scan.unreadable),
        val=tuple(sample for sample in folders.val if sample.path not in scan.unreadable),
    )


def usable_cores() -> int:
    """Return how many logical cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _inspect(path: Path) -> _Record:
    """Decode one picture. The smallest scale of a JPEG still reads its file to the end."""
    try:
        with Picture(path) as picture:
            picture.decode(reduce=8)
            return _Record("", picture.width, picture.height, picture.mode, fingerprint(path))
    except PictureError as error:
        return _Record(reason=str(error).removeprefix(f"{path}: "))
    except OSError as error:
        return _Record(reason=str(error))


def _inspect_all(paths: Sequence[Path], workers: int) -> Iterator[_Record]:
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


def _with_bar(records: Iterable[_Record], total: int) -> Iterator[_Record]:
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


def _sizes(readable: Sequence[_Entry]) -> Sizes | None:
    if not readable:
        return None

    def spread(values: list[int]) -> tuple[int, int, int]:
        return min(values), round(statistics.median(values)), max(values)

    return Sizes(
        spread([entry.record.width for entry in readable]),
        spread([entry.record.height for entry in readable]),
    )


def _check_reading(entries: Sequence[_Entry]) -> Iterator[Finding]:
    kinds: dict[str, list[_Entry]] = defaultdict(list)
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
            f"no readable picture to train on in {_names(empty)}, which would silently teach "
            "nothing. Add pictures, or remove the folder.",
        )
    if empty := [name for name, count in val.items() if not count]:
        yield Finding(
            "warning",
            "class-without-pictures",
            f"no readable picture to validate on in {_names(empty)}, so that it goes unmeasured.",
        )
    some = {name: count for name, count in train.items() if count}
    if few := [f"{name} ({count})" for name, count in some.items() if count < _FEW]:
        yield Finding(
            "warning", "few-pictures", f"fewer than {_FEW} pictures to train on in {_names(few)}."
        )
    if some:
        least, most = min(some, key=some.__getitem__), max(some, key=some.__getitem__)
        if some[most] > _IMBALANCE * some[least]:
            yield Finding(
                "warning",
                "imbalance",
                f"{most} has {some[most]:,} pictures to train on and {least} has {some[least]:,}; "
                "rare classes are learnt badly.",
            )


def _check_copies(readable: Sequence[_Entry], class_names: Sequence[str]) -> Iterator[Finding]:
    conflicts: list[_Entry] = []
    across: list[_Entry] = []
    within: list[_Entry] = []
    for group in _copies(readable):
        if len({entry.sample.label for entry in group}) > 1:
            conflicts += group
        if len({entry.split for entry in group}) > 1:
            across += group
        else:
            within += group
    if across:
        yield Finding(
            "warning",
            "duplicate-across-splits",
            f"{_count(across)} are copies of one another in train and val: the accuracy will "
            "look better than it is. Remove them from one of the two.",
            _paths(across),
        )
    if conflicts:
        labels = _names(sorted({class_names[entry.sample.label] for entry in conflicts}))
        yield Finding(
            "warning",
            "label-conflict",
            f"{_count(conflicts)} are copies of one another under different classes ({labels}). "
            "Keep each under the right one.",
            _paths(conflicts),
        )
    if within:
        yield Finding(
            "warning",
            "duplicate-picture",
            f"{_count(within)} are copies of one another in the same split; each copy counts.",
            _paths(within),
        )


def _copies(readable: Sequence[_Entry]) -> Iterator[list[_Entry]]:
    """Yield the groups of pictures whose files are the same to the last byte."""
    for group in _grouped(readable, lambda entry: entry.record.digest):
        yield from _grouped(group, lambda entry: fingerprint(entry.sample.path, whole=True))


def _grouped(entries: Iterable[_Entry], key: Callable[[_Entry], str]) -> list[list[_Entry]]:
    groups: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return [group for group in groups.values() if len(group) > 1]


def _check_pixels(readable: Sequence[_Entry]) -> Iterator[Finding]:
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


def _paths(entries: Iterable[_Entry]) -> tuple[str, ...]:
    return tuple(str(entry.sample.path) for entry in entries)


def _count(entries: Sequence[_Entry]) -> str:
    return f"{len(entries):,} picture{'s' * (len(entries) != 1)}"


def _names(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
