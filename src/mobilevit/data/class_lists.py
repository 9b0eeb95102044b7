"""Text files that say which number, or which colour, of a mask is which class."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mobilevit.data.masks import IGNORED, LARGEST_NUMBER, Header, colour_of, number_of
from mobilevit.errors import UserError

FILES = (
    *("classes.txt", "labels.txt", "class_names.txt", "classes.csv"),
    *("label_colors.txt", "class_dict.csv"),  # of CamVid, from Cambridge and from Kaggle
    *("labelmap.txt", "_classes.csv"),  # of CVAT, of Roboflow
)
"""Names that such a file may have; the first of them that is there is read."""

UNLABELLED = frozenset(("void", "ignore", "ignored", "unlabelled", "unlabeled"))
"""Names, in lower case and without ``_`` around, of pixels without a class.

``background`` is a class.
"""

MOST_CLASSES = 255

HOW = (
    "Write classes.txt there, with a line for each class: its name, where line 1 is the number 0; "
    "or NUMBER NAME, as in '7 road', or NAME NUMBER; or NAME R G B, where the masks are colours. "
    "A line named 'ignore' is for pixels that belong to no class."
)
"""How a list is written, for messages."""

_GREYS = 65793  # R = G = B = 1 as a number
_SEPARATOR = re.compile(r"[\s,;:]+")
_NUMBER_FIRST = re.compile(r"(\d+) (.+)")
_NUMBER_LAST = re.compile(r"(.+) (\d+)")
_COLOUR_FIRST = re.compile(r"(\d+) (\d+) (\d+) (.+)")
_COLOUR_LAST = re.compile(r"(.+) (\d+) (\d+) (\d+)")

_HEAD = frozenset(
    [
        *("name", "names", "class", "classes", "label", "labels", "category", "id", "index"),
        *("number", "pixel", "value", "color", "colour", "rgb"),
        *("r", "g", "b", "red", "green", "blue"),
    ]
)

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class ClassList:
    """The classes of a set of masks.

    Attributes:
        names: of the classes.
        numbers: of the classes in the masks, or in the list where they are colours there.
        by_number: for every number that is known the index of its class, or ``IGNORED``.
        by_colour: likewise for colours, as ``masks.number_of`` makes them numbers; empty where
            the list has none.
        spare: numbers that are ignored, but may be so by mistake: the one after the last of a list
            without numbers, which may lack its first line.
    """

    names: tuple[str, ...]
    numbers: tuple[int, ...]
    by_number: Mapping[int, int]
    by_colour: Mapping[int, int]
    spare: frozenset[int] = frozenset()

    def indices(self, header: Header) -> Mapping[int, int]:
        """Return the index of the class of every number in a mask.

        A colour of a list counts wherever a mask has colours, in its pixels or in its palette,
        and where both have greys only; otherwise the numbers do, as they do under a palette
        without a colour of the list, such as that of predicted masks. A mask saved in red, green
        and blue may also have the number three times, and in one of single bits 1 is white. A
        palette's 255 has no class, unless its colour is listed.

        Args:
            header: of the mask.
        """
        palette = header.palette
        if header.coloured:
            greys = {n * _GREYS: index for n, index in self.by_number.items() if n < 256}
            return self.by_colour or {**greys, **self.by_number}
        if self.by_colour and palette:
            colours = zip(palette[::3], palette[1::3], palette[2::3], strict=False)
            numbers = enumerate(map(number_of, colours))
            known = {n: self.by_colour[c] for n, c in numbers if c in self.by_colour}
            return {IGNORED: IGNORED, **known} if known else self.by_number
        if self.by_colour and all(colour % _GREYS == 0 for colour in self.by_colour):
            by_grey = {colour // _GREYS: index for colour, index in self.by_colour.items()}
            if header.mode == "1":
                return {grey // 255: index for grey, index in by_grey.items() if grey in (0, 255)}
            return by_grey
        return self.by_number


def make_list(
    entries: Mapping[int, str],
    colours: Sequence[int] = (),
    ignored: Iterable[int] = (),
    spare: Iterable[int] = (),
) -> ClassList:
    """Make a list of classes; what is called by a name in ``UNLABELLED`` is none.

    Args:
        entries: names by their numbers, in the order of the classes.
        colours: of the entries, if they have some.
        ignored: numbers without a class, besides those in ``entries``.
        spare: see ``ClassList``; those without a class are in ``ignored`` too.
    """
    classes = [number for number, name in entries.items() if _is_class(name)]
    indices = {number: index for index, number in enumerate(classes)}
    by_number = {n: indices.get(n, IGNORED) for n in (*ignored, *entries)}
    by_colour = {c: by_number[n] for c, n in zip(colours, entries, strict=bool(colours))}
    names = tuple(entries[number] for number in classes)
    return ClassList(names, tuple(classes), by_number, by_colour, frozenset(spare))


def find_list(folders: Iterable[Path]) -> Path | None:
    """Return the first list of classes that is right in one of some folders."""
    files = (folder / name for folder in folders for name in FILES)
    return next((file for file in files if file.is_file()), None)


def read_list(file: Path) -> ClassList:
    """Read a list of classes.

    Each line has a name, and all lines or none have a number in front of it, or each another one
    behind it, and all or none a colour in front of it or behind; a comma, a semicolon or a colon
    is as good as a blank. Without numbers the first line is 0. Lines that begin with ``#`` are
    passed over, and so is the head of a table in a CSV file. Pixels of 255 have no class, unless
    it is listed, nor those of 65,535 where a number is above 255, nor white ones where one is above
    that; where no numbers are written, nor have those of the number after the last.

    Raises:
        UserError: when it cannot be understood, has a class, a number or a colour twice, no class
            or too many.
    """
    lines = file.read_text(encoding="utf-8-sig", errors="replace").strip().splitlines()
    lines = [line.strip() for line in lines if not line.startswith("#")]
    if file.suffix == ".csv":
        lines = words = _rows(lines)
    else:
        words = [_SEPARATOR.sub(" ", line).strip() for line in lines]
    coloured = _all_or_none(file, "colour", lines, [_colour(word) for word in words])
    if coloured:
        lines = words = [name for name, _ in coloured]
    colours = [colour for _, colour in coloured]
    first = [_NUMBER_FIRST.fullmatch(word) for word in words]
    numbered = [(int(m[1]), m[2]) for m in _all_or_none(file, "number", lines, first)]
    numbered = numbered or _numbers_last(words)
    numbers = [number for number, _ in numbered] or list(range(len(lines)))
    names = [name for _, name in numbered] or lines
    if "" in names:
        raise UserError(f"{file}: has an empty line among the others. Remove it, or name it.")
    classes = [name for name in names if _is_class(name)]
    _refuse_twice(file, "number", numbers)
    _refuse_twice(file, "class", classes)
    _refuse_twice(file, "colour", [colour_of(colour) for colour in colours])
    if max(numbers, default=0) > LARGEST_NUMBER:
        raise UserError(f"{file}: {max(numbers)} is above {LARGEST_NUMBER}, the largest number.")
    if not 0 < len(classes) <= MOST_CLASSES:
        raise UserError(
            f"{file}: has {len(classes)} classes; it can have 1 to {MOST_CLASSES}. {HOW}"
        )
    after = () if numbered or len(lines) == IGNORED else (len(lines),)
    highest = max(numbers)
    largest = next(most for most in (IGNORED, 65_535, LARGEST_NUMBER) if highest <= most)
    spare = after if colours else (*after, *(number * _GREYS for number in after))
    return make_list(
        dict(zip(numbers, names, strict=True)), colours, (*after, IGNORED, largest), spare
    )


def _is_class(name: str) -> bool:
    return name.lower().strip("_") not in UNLABELLED


def _rows(lines: Sequence[str]) -> list[str]:
    """Return the cells of each row of a table with blanks between them, without its head."""
    delimiter = ";" if lines and ";" in lines[0] and "," not in lines[0] else ","
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    words = [" ".join(" ".join(row).split()) for row in rows]
    head = re.split(r"[\s_]+", words[0].lower()) if words else []
    told = [_colour(word) or _NUMBER_FIRST.fullmatch(word) for word in words]
    is_head = _HEAD.issuperset(head) or (not any(told[:1]) and len(told) > 1 and all(told[1:]))
    return words[1:] if is_head else words


def _numbers_last(words: Sequence[str]) -> list[tuple[int, str]]:
    """Return the number and the name of each line, if all end in another number."""
    matches = [match for word in words if (match := _NUMBER_LAST.fullmatch(word))]
    entries = [(int(match[2]), match[1]) for match in matches]
    distinct = len(set(dict(entries).values())) == len(words)
    return entries if distinct and len(entries) == len(words) else []


def _colour(words: str) -> tuple[str, int] | None:
    """Return the name and the colour of a line that has one."""
    if match := _COLOUR_FIRST.fullmatch(words):
        *parts, name = match.groups()
    elif match := _COLOUR_LAST.fullmatch(words):
        name, *parts = match.groups()
    else:
        return None
    colour = [int(part) for part in parts]
    return (name, number_of(colour)) if max(colour) < 256 else None


def _all_or_none(
    file: Path, what: str, lines: Sequence[str], found: Sequence[_Found | None]
) -> list[_Found]:
    """Return what was found in the lines, nothing where it was found in none."""
    some = [one for one in found if one is not None]
    if some and len(some) < len(lines):
        without = lines[found.index(None)]
        raise UserError(
            f"{file}: '{without}' has no {what}, but other lines do. Write one in every line."
        )
    return some


def _refuse_twice(file: Path, what: str, values: Sequence[object]) -> None:
    if twice := [value for value, count in Counter(values).items() if count > 1]:
        raise UserError(f"{file}: the {what} '{twice[0]}' is there twice. Change or remove one.")
