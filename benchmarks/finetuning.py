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

import numpy as np

from cells import cut_out
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
        numbers = {"train": lambda there: round(SHARE * there), "val": lambda there: MOST}
        if chosen.quick:
            numbers = dict.fromkeys(numbers, lambda there: 8)
        counts = {s: cut_out(chosen.data, data, s, number) for s, number in numbers.items()}

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


if __name__ == "__main__":
    main()
