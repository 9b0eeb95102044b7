"""What can be wrong with the masks of pictures that can be read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mobilevit.data.findings import Finding, counted, listed
from mobilevit.data.masks import IGNORED, Mask, MaskFile, Pixels, colour_of

if TYPE_CHECKING:
    from mobilevit.data.scan import Entry

_RARE = 1000


class Tally(NamedTuple):
    """What the masks of a split hold.

    Attributes:
        pixels: by the name of their class.
        holders: pictures with a pixel of a class, likewise.
        ignored: pixels without a class.
    """

    pixels: dict[str, int]
    holders: dict[str, int]
    ignored: int


def count_masks(entries: Sequence[Entry], class_names: Sequence[str]) -> Tally:
    """Count the pixels of readable pictures."""
    pixels: Counter[int] = Counter()
    holders: Counter[int] = Counter()
    for entry in entries:
        if entry.record.pixels:
            pixels.update(entry.record.pixels.classes)
            holders.update(entry.record.pixels.classes.keys())
    return Tally(
        {name: pixels[index] for index, name in enumerate(class_names)},
        {name: holders[index] for index, name in enumerate(class_names)},
        pixels[IGNORED],
    )


def check_masks(entries: Sequence[Entry], tallies: Mapping[str, Tally]) -> Iterator[Finding]:
    """Yield what is wrong with the masks of readable pictures.

    Args:
        entries: the pictures.
        tallies: of all splits.
    """
    yield from check_shapes(entries)
    counts = ((entry.sample.label, entry.record.pixels) for entry in entries)
    yield from check_numbers((mask, pixels) for mask, pixels in counts if pixels)
    yield from _check_classes(tallies)
    empty = [e for e in entries if e.record.pixels and set(e.record.pixels.classes) == {IGNORED}]
    if empty:
        yield Finding(
            "warning",
            "empty-mask",
            f"{counted(len(empty), 'picture')} without a pixel that has a class: nothing is learnt "
            "or measured on them. Label them, or remove them.",
            tuple(str(entry.sample.path) for entry in empty),
        )


def check_shapes(entries: Sequence[Entry]) -> Iterator[Finding]:
    """Compare the sizes of masks with those of the upright pictures."""
    turned, other = [], []
    for entry in entries:
        mask, record = entry.sample.label, entry.record
        if (mask.width, mask.height) == (record.height, record.width) and record.turned:
            turned.append(entry)
        elif (mask.width, mask.height) != (record.width, record.height):
            other.append(entry)
    for group, way_out in (
        (
            turned,
            "They fit the pictures as they lie in the file, not as the EXIF orientation turns them "
            "upright. Turn the masks likewise, or remove the orientation from the pictures.",
        ),
        (
            other,
            "They cannot lie on them pixel by pixel. Make the masks anew at the pictures' size.",
        ),
    ):
        if group:
            mask, record = group[0].sample.label, group[0].record
            yield Finding(
                "error",
                "size-mismatch",
                f"{counted(len(group), 'mask')} of another size than the picture "
                f"({group[0].sample.path.name} is {record.width}×{record.height}, its mask "
                f"{mask.width}×{mask.height}). {way_out}",
                tuple(str(entry.sample.path) for entry in group),
            )


def check_numbers(masks: Iterable[tuple[Mask, Pixels]]) -> Iterator[Finding]:
    """Yield which numbers in masks are in no class.

    Args:
        masks: and what they count.
    """
    totals: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    files: dict[str, list[str]] = defaultdict(list)
    for mask, pixels in masks:
        if isinstance(mask, MaskFile):
            for number, count in pixels.unlisted.items():
                name = _told(number, mask.coloured)
                totals[number in mask.spare][name] += count
                files[name].append(str(mask.path))
    for is_spare, counts in totals.items():
        if not counts:
            continue
        worst = listed(
            [
                f"{name} ({counted(count, 'pixel')} of {counted(len(files[name]), 'mask')})"
                for name, count in counts.most_common()
            ]
        )
        paths = tuple(dict.fromkeys(path for name in counts for path in files[name]))
        if is_spare:
            yield Finding(
                "warning",
                "number-after-last",
                f"the number after the last of the list of classes is in masks: {worst}. It is "
                "ignored; but if the list lacks a line, as a background first, every class is one "
                "off. Add the line, or one named 'ignore' at the end.",
                paths,
            )
        else:
            yield Finding(
                "error",
                "unlisted-number",
                f"numbers in masks that are in no class: {worst}. Add a line for each to the "
                "list of classes, named 'ignore' where it is no class; or correct the masks.",
                paths,
            )


def _told(number: int, coloured: bool) -> str:
    """Return a number in words, with the colour that it may be."""
    if coloured:
        return f"colour {colour_of(number)}"
    return str(number) if number < 256 else f"{number}, as a colour {colour_of(number)}"


def _check_classes(tallies: Mapping[str, Tally]) -> Iterator[Finding]:
    for split, use, so in (("train", "train", "learnt"), ("val", "validate", "measured")):
        pixels = tallies[split].pixels
        empty = [name for name, count in pixels.items() if not count]
        if len(empty) == len(pixels):
            yield Finding(
                "error",
                "no-masks",
                f"no pixel to {use} on has a class. Label some pictures.",
            )
        elif empty:
            yield Finding(
                "warning",
                "class-without-pixels",
                f"no pixel to {use} on in {counted(len(empty), 'class', 'classes')}, never {so}: "
                f"{listed(empty)}.",
            )
    pixels = tallies["train"].pixels
    some = [name for name, count in pixels.items() if count]
    if len(some) == 1:
        yield Finding(
            "error",
            "one-class",
            f"every pixel to train on that has a class is '{some[0]}', so that there is nothing to "
            f"tell apart. Label more; if pixels of {IGNORED} are a class, list it as NUMBER NAME.",
        )
    whole = sum(pixels.values())
    rare = [name for name, count in pixels.items() if 0 < count < whole / _RARE]
    if rare:
        yield Finding(
            "warning",
            "imbalance",
            f"less than one in {_RARE:,} pixels to train on in "
            f"{counted(len(rare), 'class', 'classes')}, learnt badly unless they weigh more: "
            f"{listed(rare)}.",
        )
