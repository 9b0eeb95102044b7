"""Which pictures are copies of one another, and what that spoils."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from mobilevit.data.boxes import Boxes
from mobilevit.data.findings import Finding, counted, listed
from mobilevit.data.folders import fingerprint
from mobilevit.data.masks import IGNORED

if TYPE_CHECKING:
    from mobilevit.data.scan import Entry


def check_copies(readable: Sequence[Entry], class_names: Sequence[str]) -> Iterator[Finding]:
    """Yield which pictures are copies of one another: across splits, within one, and at odds.

    Args:
        readable: the pictures.
        class_names: of all classes.
    """
    conflicts: list[Entry] = []
    differing: set[int] = set()
    across: list[Entry] = []
    within: list[Entry] = []
    for group in _copies(readable):
        meanings = [_meaning(entry) for entry in group]
        if len(set(meanings)) > 1:
            conflicts += group
            differ = frozenset.union(*meanings) - frozenset.intersection(*meanings)
            differing.update(label for label, *_ in differ)
        if len({entry.split for entry in group}) > 1:
            across += group
        else:
            within += group
    if across:
        between = sorted({entry.split for entry in across}, key=("train", "val", "test").index)
        yield Finding(
            "warning",
            "duplicate-across-splits",
            f"{_count(across)} are copies of one another in {' and '.join(between)}: results will "
            "look better than they are. Keep them in one of these only.",
            _paths(across),
        )
    if conflicts:
        labels = {class_names[label] for label in differing}
        what = {int: "classes", Boxes: "boxes"}.get(type(conflicts[0].sample.label), "masks")
        yield Finding(
            "warning",
            "label-conflict",
            f"{_count(conflicts)} are copies of one another with different {what} "
            f"({listed(sorted(labels))}). Keep each with the right ones.",
            _paths(conflicts),
        )
    if within:
        yield Finding(
            "warning",
            "duplicate-picture",
            f"{_count(within)} are copies of one another in the same split; each copy counts.",
            _paths(within),
        )


def _meaning(entry: Entry) -> frozenset[tuple[int, ...]]:
    """Return what the labels of copies have in common, a class first in each part.

    Formats of boxes round differently.
    """
    if entry.record.pixels:
        classes = entry.record.pixels.classes
        return frozenset(item for item in classes.items() if item[0] != IGNORED)
    label: int | Boxes = entry.sample.label
    if isinstance(label, int):
        return frozenset([(label,)])
    return frozenset((box.label, *map(round, box[:4])) for box in label.items)


def _copies(readable: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Yield the groups of pictures whose files are the same to the last byte."""
    for group in _grouped(readable, lambda entry: entry.record.digest):
        yield from _grouped(group, lambda entry: fingerprint(entry.sample.path, whole=True))


def _grouped(entries: Iterable[Entry], key: Callable[[Entry], str]) -> list[list[Entry]]:
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return [group for group in groups.values() if len(group) > 1]


def _count(entries: Sequence[Entry]) -> str:
    return counted(len(entries), "picture")


def _paths(entries: Sequence[Entry]) -> tuple[str, ...]:
    return tuple(str(entry.sample.path) for entry in entries)
