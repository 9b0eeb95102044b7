"""The multi-scale sampler beside the standard one: epochs of MobileViT-XXS with `mobilevit train`.

The standard one draws every step at 128 pixels; the multi-scale one draws 64, 96 or 128, with as
many pictures in a step as make up for it.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from common import DATA, parser, report, take_turns
from mobilevit import MultiScaleSampler, train
from mobilevit.data.folders import Folders, read_folders
from mobilevit.training.run_folder import RunFolder

SIZE = 128
CONTESTANTS = {"standard, 128": (), "multi-scale, 64 96 128": (64, 96, 128)}


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument(
        "--data", type=Path, default=DATA / "imagenette", help="folder of class folders"
    )
    options.add_argument("--pictures", type=int, default=9469, help="pictures in an epoch")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.pictures = min(chosen.pictures, 40)
    rounds = 1 if chosen.quick else 3
    batch = 8 if chosen.quick else 64
    with tempfile.TemporaryDirectory() as folder:
        data, runs = Path(folder) / "data", Path(folder) / "runs"
        count = link_some(read_folders(chosen.data), data, chosen.pictures)
        trained: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}

        def epoch(name: str) -> None:
            done = trained[name]
            run = train(
                data,
                recipe="imagenette_xxs",
                output=runs / name / str(len(done)),
                check=False,
                progress=False,
                size=SIZE,
                sizes=CONTESTANTS[name],
                epochs=1,
                batch_size=batch,
                seed=len(done),
            )
            done.append(RunFolder(run.folder).rows()[0])

        take_turns({name: partial(epoch, name) for name in CONTESTANTS}, rounds, warmup=0)
    rows = []
    base = np.median([row["seconds"] for row in trained["standard, 128"]])
    for name, done in trained.items():
        seconds = float(np.median([row["seconds"] for row in done]))
        samplers = [
            MultiScaleSampler(count, batch, CONTESTANTS[name] or (SIZE,), SIZE, seed=seed)
            for seed in range(rounds)
        ]
        pixels = [sum(s.count * s.size**2 for s in sampler.steps) for sampler in samplers]
        rows.append(
            {
                "contestant": name,
                "epoch s": seconds,
                "samples": int(np.median([row["samples"] for row in done])),
                "steps": int(np.median([row["updates"] for row in done])),
                "pixels/sample": float(np.mean(pixels)) / count,
                "samples/s": count / seconds,
                "x standard": float(base / seconds),
            }
        )
    notes = f"""mobilevit_xxs, batch {batch} at {SIZE} px, {count:,} pictures, medians of {rounds}
        epochs, each with another seed; evaluation and saving are not counted."""
    report(chosen, rows, (), ("torchvision", "pillow", "lightning-fabric"), notes)


def link_some(folders: Folders, data: Path, count: int) -> int:
    """Make a data set of some of the pictures, few of them to validate on; return how many."""
    count = min(count, len(folders.train))
    chosen = {
        "train": [
            folders.train[i] for i in np.linspace(0, len(folders.train) - 1, count, dtype=int)
        ],
        "val": folders.val[:: max(1, len(folders.val) // 20)],
    }
    for split, samples in chosen.items():
        for index, sample in enumerate(samples):
            place = data / split / folders.class_names[sample.label]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{index}{sample.path.suffix}").symlink_to(sample.path.resolve())
    return len(chosen["train"])


if __name__ == "__main__":
    main()
