"""Cut single blood cells out of the photos of BCCD: a small data set of the kind users have.

    python benchmarks/cells.py FOLDER

leaves class folders in three kinds: up to 250 cells of each in ``train``, and up to 100 of each
from the photos of the test split in ``val``, for most cells are red ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from common import DATA

SMALLEST = 8
"""Side in pixels below which a box is no cell to learn from."""
MOST = {"train": 250, "val": 100}


def main() -> None:
    """Write the data set."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("folder", type=Path, help="folder to make")
    options.add_argument("--data", type=Path, default=DATA / "bccd", help="BCCD, as Pascal VOC")
    chosen = options.parse_args()
    for split, most in MOST.items():
        count = cut_out(
            chosen.data, chosen.folder, split, lambda there, most=most: min(there, most)
        )
        print(f"{chosen.folder / split}: {count} cells")


def cut_out(source: Path, data: Path, split: str, number: Callable[[int], int]) -> int:
    """Save cells of a split as class folders; return how many.

    Args:
        source: BCCD.
        data: the folder to make ``split`` in.
        split: ``"train"``, or ``"val"`` for the cells of its test split.
        number: how many to take of so many that are there, by chance but always the same.
    """
    names = source / "ImageSets" / "Main" / f"{'train' if split == 'train' else 'test'}.txt"
    cells: dict[str, list[Image.Image]] = {}
    for name in names.read_text().split():
        photo = Image.open(source / "JPEGImages" / f"{name}.jpg").convert("RGB")
        for thing in ElementTree.parse(source / "Annotations" / f"{name}.xml").iter("object"):
            left, top, right, bottom = (
                float(thing.findtext(f"bndbox/{side}") or 0)
                for side in ("xmin", "ymin", "xmax", "ymax")
            )
            if right - left >= SMALLEST and bottom - top >= SMALLEST:
                cell = photo.crop((int(left), int(top), int(right), int(bottom)))
                cells.setdefault(thing.findtext("name") or "", []).append(cell)
    count = 0
    for kind, pictures in sorted(cells.items()):
        order = np.random.default_rng(0).permutation(len(pictures))
        folder = data / split / kind
        folder.mkdir(parents=True)
        for index in order[: number(len(pictures))]:
            pictures[index].save(folder / f"{index}.png")
            count += 1
    return count


if __name__ == "__main__":
    main()
