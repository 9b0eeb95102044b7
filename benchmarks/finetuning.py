"""A pretrained start beside a random one: few pictures, the same steps, several seeds.

The pictures are single blood cells, cut out of the photos of BCCD along their boxes: a tenth of
each kind in the training split to train on; up to a hundred of each kind in the test split to
measure, for most cells are red ones. The weights come from everyday photos.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from common import DATA, parser, report, take_turns
from mobilevit import evaluate, load_checkpoint, train

SHARE, MOST = 0.1, 100
"""Which share of each kind is trained on, and how many of each are measured on at most."""


@dataclass(frozen=True)
class Start:
    """How a contestant begins."""

    recipe: str
    pretrained: bool


STARTS = {
    "random, recipe photos": Start("photos", False),
    "pretrained, recipe photos": Start("photos", True),
    "pretrained, recipe finetune": Start("finetune", True),
}


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, default=DATA / "bccd", help="BCCD, as Pascal VOC")
    options.add_argument("--weights", type=Path, required=True, help="run or checkpoint to start")
    options.add_argument("--epochs", type=int, default=20, help="passes over the few pictures")
    options.add_argument("--seeds", type=int, default=3, help="runs of each start")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.epochs, chosen.seeds = 1, 1
    model = load_checkpoint(chosen.weights).architecture["model"]
    reached: dict[str, list[dict[str, float]]] = {name: [] for name in STARTS}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "cells"
        counts = {s: cut_out(chosen.data, data, s, chosen.quick) for s in ("train", "val")}

        def run(name: str) -> None:
            start, seed = STARTS[name], len(reached[name])
            trained = train(
                data,
                recipe=start.recipe,
                weights=chosen.weights if start.pretrained else None,
                output=Path(folder) / f"{name} {seed}",
                check=False,
                progress=False,
                model=model,
                epochs=chosen.epochs,
                seed=seed,
            )
            rows = (trained.folder / "metrics.jsonl").read_text().splitlines()
            metrics = evaluate(trained.folder, data).metrics
            recall = float(np.mean([kind["recall"] for kind in metrics["per_class"].values()]))
            last = json.loads(rows[-1])
            found = {"recall": recall, "top1": last["val_top1"], "seconds": last["seconds"]}
            reached[name].append(found)
            print(name, seed, found, flush=True)

        take_turns({name: partial(run, name) for name in STARTS}, chosen.seeds, warmup=0)
    notes = f"""{model} on {counts["train"]} of BCCD's cells in three kinds, {counts["val"]:,} to
        measure on, {chosen.epochs} epochs, {chosen.seeds} seeds: mean, lowest and highest. Top-1
        is the last epoch's, the mean recall of the three kinds the best one's."""
    report(chosen, [summary(name, runs) for name, runs in reached.items()], (), (), notes)


def summary(name: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    """Return a row of the table: means, and the spread over the seeds."""
    top1, recall = ([run[key] for run in runs] for key in ("top1", "recall"))
    return {
        "contestant": name,
        "top-1": float(np.mean(top1)),
        "lowest": min(top1),
        "highest": max(top1),
        "mean recall": float(np.mean(recall)),
        "lowest recall": min(recall),
        "highest recall": max(recall),
        "s": float(np.median([run["seconds"] for run in runs])),
    }


def cut_out(source: Path, data: Path, split: str, few: bool) -> int:
    """Save the cells of a split as a folder of class folders; return how many."""
    names = source / "ImageSets" / "Main" / f"{'train' if split == 'train' else 'test'}.txt"
    cells: dict[str, list[Image.Image]] = {}
    for name in names.read_text().split():
        photo = Image.open(source / "JPEGImages" / f"{name}.jpg").convert("RGB")
        for thing in ElementTree.parse(source / "Annotations" / f"{name}.xml").iter("object"):
            left, top, right, bottom = (
                float(thing.findtext(f"bndbox/{side}") or 0)
                for side in ("xmin", "ymin", "xmax", "ymax")
            )
            if right - left >= 8 and bottom - top >= 8:
                cell = photo.crop((int(left), int(top), int(right), int(bottom)))
                cells.setdefault(thing.findtext("name") or "", []).append(cell)
    count = 0
    for kind, pictures in sorted(cells.items()):
        number = round(SHARE * len(pictures)) if split == "train" else MOST
        order = np.random.default_rng(0).permutation(len(pictures))
        folder = data / split / kind
        folder.mkdir(parents=True)
        for index in order[: 8 if few else number]:
            pictures[index].save(folder / f"{index}.png")
            count += 1
    return count


if __name__ == "__main__":
    main()
