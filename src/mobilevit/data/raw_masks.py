"""Pairs of pictures and masks that readers found, and how they become samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobilevit.data.class_lists import HOW, ClassList
from mobilevit.data.decoding import PictureError
from mobilevit.data.findings import listed
from mobilevit.data.folders import Sample
from mobilevit.data.masks import Header, Mask, MaskFile, colour_of, read_header, read_numbers
from mobilevit.data.raw_boxes import Kind, Problems
from mobilevit.errors import UserError

LOSSY_MASK = Kind(
    *("warning", "lossy-mask"),
    "masks saved as JPEG, which changes numbers at the edges of things",
    "Make them anew as PNG.",
)
MASK_WITHOUT_PICTURE = Kind(
    *("warning", "mask-without-picture"),
    "masks whose picture was not found",
    "They are left out; put the pictures there to use them.",
)
PICTURE_WITHOUT_MASK = Kind(
    *("warning", "picture-without-mask"),
    "pictures without a mask",
    "They are left out; add the masks to use them.",
)
UNREADABLE_MASK = Kind(
    *("warning", "unreadable-mask"),
    "masks that cannot be read",
    "They and their pictures are left out.",
)

_LOOKED_AT = 20


@dataclass
class MaskSet:
    """A data set as its files have it.

    Attributes:
        class_names: see ``Folders``.
        class_ids: the user's own numbers of the classes.
        splits: the samples by split: ``"train"``, and ``"val"`` and ``"test"`` if there.
        problems: what was wrong so far.
    """

    class_names: tuple[str, ...]
    class_ids: tuple[int, ...]
    splits: dict[str, list[Sample[Mask]]]
    problems: Problems


def make_set(
    pairs: Mapping[str, Sequence[tuple[Path, Path]]], classes: ClassList, problems: Problems
) -> MaskSet:
    """Make a data set of pictures and masks that have the classes of a list.

    Args:
        pairs: of a picture and its mask, by split.
        classes: the list.
        problems: see ``make_samples``.
    """

    def label(mask: Path, header: Header) -> MaskFile:
        size = (header.width, header.height)
        return MaskFile(mask, classes.indices(header), *size, classes.spare, header.coloured)

    splits = {split: make_samples(found, label, problems) for split, found in pairs.items()}
    return MaskSet(classes.names, classes.numbers, splits, problems)


def make_samples(
    pairs: Sequence[tuple[Path, Path]],
    label: Callable[[Path, Header], MaskFile],
    problems: Problems,
) -> list[Sample[Mask]]:
    """Make samples of pictures and their masks, of which the headers are read.

    Args:
        pairs: of a picture and its mask.
        label: makes the label of a mask.
        problems: gathers masks that are left out, and those that lost something.
    """
    samples: list[Sample[Mask]] = []
    with ThreadPoolExecutor() as pool:
        headers = list(pool.map(_header, (mask for _, mask in pairs)))
    for (picture, mask), header in zip(pairs, headers, strict=True):
        if isinstance(header, PictureError):
            problems.add(UNREADABLE_MASK, mask, str(header).removeprefix(f"{mask}: "))
            continue
        if header.format == "JPEG":
            problems.add(LOSSY_MASK, mask)
        samples.append(Sample(picture, label(mask, header)))
    return samples


def no_list(data: Path, masks: Sequence[Path]) -> UserError:
    """Return the error for masks whose classes are not known."""
    numbers, colours = numbers_of_some(masks)
    found = [*map(str, sorted(numbers)), *(f"colour {colour_of(n)}" for n in sorted(colours))]
    return UserError(
        f"{data}: has no list that says which number of its masks is which class. In the first "
        f"{min(_LOOKED_AT, len(masks))} of them are: {listed(found, 20) or 'none'}. {HOW}"
    )


def numbers_of_some(masks: Sequence[Path]) -> tuple[set[int], set[int]]:
    """Return what the first of some masks hold, as far as they can be read.

    Returns:
        The numbers of masks of one channel, and those that colours make.
    """
    numbers: set[int] = set()
    colours: set[int] = set()
    for mask in masks[:_LOOKED_AT]:
        with suppress(PictureError):
            found = colours if read_header(mask).coloured else numbers
            found.update(np.unique(read_numbers(mask)).tolist())
    return numbers, colours


def _header(file: Path) -> Header | PictureError:
    try:
        return read_header(file)
    except PictureError as error:
        return error
