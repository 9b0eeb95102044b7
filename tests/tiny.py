"""A data set that is learnt in seconds, and training on it without the pictures of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from PIL import Image

from mobilevit import Recipe
from mobilevit.checkpoints import (
    Checkpoint,
    load_checkpoint,
    load_pretrained,
    save_checkpoint,
)
from mobilevit.data.folders import Folders, read_folders
from mobilevit.tasks import get_task
from mobilevit.training.fit import fit
from mobilevit.training.run_folder import RunFolder

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}
SETTINGS: dict[str, Any] = {
    "size": 32,
    "epochs": 1,
    "batch_size": 8,
    "workers": 0,
    "precision": "fp32",
    "device": "cpu",
    "warmup_epochs": 1,
    "ema_decay": 0.9,
    "crop_scale": (0.5, 1.0),
}


def make_pictures(folder: Path, train: int = 8, val: int = 4) -> Path:
    """Write noisy pictures of one colour for each class."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.array(colour) + random.normal(0, 25, (40, 44, 3))
                image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                image.save(folder / split / name / f"{index}.png")
    return folder


def fit_tiny(
    data: Path | Folders,
    output: Path,
    saved: Checkpoint | None = None,
    weights: Checkpoint | None = None,
    **settings: Any,
) -> RunFolder:
    """Train in this process, with the engine bare."""
    recipe = Recipe().override(**(SETTINGS | settings))
    mixed = {"fp32": (), "bf16": ("bf16-mixed", None), "fp16": ("16-mixed", _scaler())}
    given = mixed[recipe.training.precision]
    plugins = [MixedPrecision(given[0], "cpu", given[1])] if given else []
    fabric = Fabric(accelerator="cpu", devices=1, plugins=plugins)
    run = RunFolder(output)
    folders = read_folders(data) if isinstance(data, Path) else data
    start = None
    if weights is not None:
        save_checkpoint(output.with_name("start.safetensors"), weights)
        start = load_pretrained(output.with_name("start.safetensors"))
    fit(fabric, get_task("classification"), recipe, folders, run, saved, start)
    return run


def _scaler() -> torch.amp.GradScaler:
    """Scale gradients as on a GPU, by little enough that the first step's are finite."""
    return torch.amp.GradScaler("cpu", init_scale=16.0)


def resume_tiny(data: Path, run: RunFolder) -> None:
    """Go on with a run in this process."""
    saved = load_checkpoint(run.last, training=True)
    recipe = Recipe.from_dict(saved.recipe, str(run.last))
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fit(fabric, get_task("classification"), recipe, read_folders(data), run, saved)


def python(code: str, *arguments: str, launcher: tuple[str, ...] = ()) -> int:
    """Run a program in processes of its own, with one thread each; return its exit status."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        environment.pop(name, None)
    file = Path(arguments[0]) / f"program-{len(list(Path(arguments[0]).iterdir()))}.py"
    file.write_text(code, encoding="utf-8")
    command = [sys.executable, *launcher, str(file), *arguments]
    with file.with_suffix(".log").open("w+") as log:  # a pipe would wait for orphaned workers
        done = subprocess.run(
            command, env=environment, stdout=log, stderr=log, timeout=240, check=False
        )
        log.seek(0)
        print(log.read()[-4000:])  # pytest shows it when the test fails
    return done.returncode


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a checkpoint, of training too."""
    checkpoint = load_checkpoint(path, training=True)
    named = {f"training.{k}": v for k, v in checkpoint.training.items()}
    return named | dict(checkpoint.network.state_dict())


def rows(run: RunFolder) -> list[dict[str, Any]]:
    """Return the metrics of a run without its times."""
    lines = run.metrics.read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def assert_same_run(one: RunFolder, other: RunFolder) -> None:
    """Compare all that two runs leave, bit for bit, but for times."""
    assert rows(one) == rows(other)
    for file in ("best", "last"):
        mine, theirs = tensors(getattr(one, file)), tensors(getattr(other, file))
        assert mine.keys() == theirs.keys()
        assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
        progress, expected = (
            load_checkpoint(getattr(run, file)).progress | {"seconds": None} for run in (one, other)
        )
        assert progress == expected
