"""What a scan counted, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.table import Table
from rich.text import Text

from mobilevit.data.scan import Scan

_CLASSES_SHOWN = 30


def scan_tables(scan: Scan, size: int) -> Iterator[Table]:
    """Yield tables of pictures, boxes or pixels by class, and of boxes by their size.

    Args:
        scan: what was found.
        size: side in pixels that boxes were measured at.
    """
    if scan.holders:
        yield _pixel_table(scan)
        yield _class_table("Readable pictures with a class", scan.holders, scan.pictures)
    elif scan.box_sizes:
        yield _class_table("Boxes", scan.counts, _sums(scan.counts), scan.pictures)
        yield _size_table(scan, size)
    else:
        yield _class_table("Readable pictures", scan.counts, _sums(scan.counts))


def _class_table(
    title: str,
    counts: Mapping[str, Mapping[str, int]],
    totals: Mapping[str, int],
    pictures: Mapping[str, int] | None = None,
) -> Table:
    """Return a table of counts by class and split.

    Args:
        title: of the table.
        counts: by split and class.
        totals: by split.
        pictures: readable ones by split, where something else is counted.
    """
    table = Table("class", title=title)
    for split in counts:
        table.add_column(split, justify="right")
    names = list(counts["train"])
    for name in names[:_CLASSES_SHOWN]:
        table.add_row(Text(name), *(f"{row[name]:,}" for row in counts.values()))
    _tell_rest(table, names)
    table.add_section()
    table.add_row("all", *(f"{totals[split]:,}" for split in counts))
    if pictures:
        table.add_row("readable pictures", *(f"{pictures[split]:,}" for split in counts))
    return table


def _pixel_table(scan: Scan) -> Table:
    """Return a table of pixels by class, and their share in all that have a class."""
    table = Table("class", title="Pixels")
    for split in scan.counts:
        table.add_column(split, justify="right")
        table.add_column("%", justify="right")
    sums = _sums(scan.counts)
    names = list(scan.counts["train"])
    for name in names[:_CLASSES_SHOWN]:
        cells = [(counts[name], sums[split]) for split, counts in scan.counts.items()]
        table.add_row(Text(name), *_with_shares(cells))
    _tell_rest(table, names)
    table.add_section()
    table.add_row("all", *_with_shares([(whole, whole) for whole in sums.values()]))
    ignored = [(count, count + sums[split]) for split, count in scan.ignored_pixels.items()]
    table.add_row("ignored", *_with_shares(ignored))
    return table


def _with_shares(cells: list[tuple[int, int]]) -> Iterator[str]:
    """Yield numbers, and how many per cent of others they are."""
    for count, whole in cells:
        yield f"{count:,}"
        yield f"{100 * count / whole:.2f}" if whole else ""


def _size_table(scan: Scan, size: int) -> Table:
    table = Table("side in pixels", title=f"Boxes on pictures of {size} by {size}")
    for split in scan.box_sizes:
        table.add_column(split, justify="right")
    for side in next(iter(scan.box_sizes.values())):
        table.add_row(side, *(f"{counts[side]:,}" for counts in scan.box_sizes.values()))
    return table


def _tell_rest(table: Table, names: list[str]) -> None:
    if (rest := len(names) - _CLASSES_SHOWN) > 0:
        table.add_row(f"and {rest:,} more")


def _sums(counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {split: sum(row.values()) for split, row in counts.items()}
