"""What can be wrong with pictures, and with the classes of those in class folders."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mobilevit.data.decoding import FOREIGN
from mobilevit.data.findings import Finding, counted, listed
from mobilevit.data.folders import Folders, is_picture

if TYPE_CHECKING:
    from mobilevit.data.scan import Entry

_FEW = 10
_IMBALANCE = 10
_TINY = 32
_HUGE = 50_000_000
_USUAL_MODES = {"RGB", "L"}


def check_reading(entries: Sequence[Entry]) -> Iterator[Finding]:
    """Yield which pictures, or masks of pictures, cannot be read, and why."""
    kinds: dict[tuple[str, bool], list[Entry]] = defaultdict(list)
    for entry in entries:
        if reason := entry.record.reason:
            kinds[reason.partition(" (")[0], entry.record.of_mask].append(entry)
    for (kind, of_mask), group in kinds.items():
        reason = kind.rstrip(".") + "." if len(group) > 1 else group[0].record.reason
        if of_mask:
            yield Finding(
                "warning",
                "unreadable-mask",
                f"{counted(len(group), 'mask')} cannot be read and will be left out with the "
                f"pictures: {reason}",
                tuple(str(entry.sample.label.path) for entry in group),
            )
            continue
        yield Finding(
            "warning",
            "unreadable-picture",
            f"{_count(group)} cannot be read and will be left out: {reason}",
            _paths(group),
        )


def check_counts(counts: Mapping[str, Mapping[str, int]]) -> Iterator[Finding]:
    """Yield which classes have too few pictures.

    Args:
        counts: readable pictures by split and class.
    """
    train, val = counts["train"], counts["val"]
    if len(train) == 1:
        yield Finding(
            "error", "one-class", f"'{next(iter(train))}' is the only class; add another."
        )
    if empty := [name for name, count in train.items() if not count]:
        held = sum(val.get(name, 0) for name in empty)
        kept = f" (but {held:,} to validate on)" if held else ""
        yield Finding(
            "error",
            "class-without-pictures",
            f"no readable picture to train on in {listed(empty)}{kept}, which would silently teach "
            "nothing. Add pictures, or remove the folder.",
        )
    if not any(val.values()):
        yield Finding("error", "no-val", "no picture to validate on can be read. Add some.")
    elif empty := [name for name, count in val.items() if not count]:
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


def check_imbalance(counts: Mapping[str, int], things: str) -> Iterator[Finding]:
    """Yield whether a class has many times as much to train on as another.

    Args:
        counts: of things by class.
        things: what is counted, in words.
    """
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


def check_pixels(readable: Sequence[Entry]) -> Iterator[Finding]:
    """Yield which pictures are too large, too small or of an unusual kind."""
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


def check_ignored(folders: Folders[Any]) -> Iterator[Finding]:
    """Yield which files of a folder are not used."""
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
        foreign = sorted({path.suffix.lower() for path in other} & FOREIGN)
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
