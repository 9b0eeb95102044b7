"""The run folder: what training leaves behind.

::

    best.safetensors   the network of the best epoch: weights, architecture, contract, recipe
    last.safetensors   the newest state; `train --resume` goes on from it
    recipe.yaml        every setting of the run
    run.json           the pictures' folder, versions, machine
    metrics.jsonl      one line of JSON an epoch
    tensorboard/       the same for TensorBoard
    batch.png          the first training batch as the network saw it
    curves.png         loss and metric, train and val
    confusion.png, mistakes.png   of the best network on val (classification)
    predictions.png, precision_recall.png   likewise (detection)
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mobilevit.errors import UserError
from mobilevit.files import make_folder, read_json, write_text
from mobilevit.machine import processor, versions
from mobilevit.training.recipe import Recipe


class RunFolder:
    """A run folder on disk, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"
        self.recipe = path / "recipe.yaml"
        self.metrics = path / "metrics.jsonl"
        self.info = path / "run.json"
        self.batch = path / "batch.png"
        self.curves = path / "curves.png"

    @classmethod
    def existing(cls, path: Path) -> RunFolder:
        """Open the folder of a run that was interrupted.

        Raises:
            UserError: when there is no training state in it.
        """
        folder = cls(path)
        if not folder.last.is_file():
            raise UserError(f"{path}: there is no last.safetensors in it to resume from.")
        return folder

    def facts(self) -> dict[str, Any]:
        """Return what ``run.json`` says.

        Raises:
            UserError: when it cannot be read.
        """
        return read_json(self.info)

    @property
    def data(self) -> Path:
        """The folder of pictures the run was trained on.

        Raises:
            UserError: when ``run.json`` does not say.
        """
        try:
            return Path(self.facts()["data"])
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{self.path / 'run.json'}: it names no folder of pictures. Name it to train."
            ) from error

    @contextmanager
    def locked(self, new: bool) -> Iterator[None]:
        """Keep other processes from training into this folder meanwhile.

        Args:
            new: whether nothing was trained into it yet.

        Raises:
            UserError: when another process does so, or has done so with ``new``.
        """
        from filelock import FileLock, Timeout

        make_folder(self.path)
        lock = self.path / ".lock"
        try:
            with FileLock(lock, timeout=0):
                try:
                    if new and self.last.is_file():
                        raise UserError(
                            f"{self.path}: another process has trained into it. Choose another."
                        )
                    yield
                finally:
                    with suppress(OSError):  # Windows keeps a file that is open
                        lock.unlink()
        except Timeout as error:
            raise UserError(
                f"{self.path}: another process trains into it. Give each work of its own: another "
                "output, or in a study other entries with only."
            ) from error

    def begin(self, recipe: Recipe, data: Path, epoch: int) -> None:
        """Write what is known before training; forget the metrics of epochs to be done again."""
        self.path.mkdir(parents=True, exist_ok=True)
        for unfinished in self.path.glob(".*.safetensors.*"):
            unfinished.unlink()
        write_text(self.recipe, recipe.to_yaml())
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with suppress(UserError):  # there is none yet
            started = self.facts().get("started", started)
        facts = {
            "data": str(data.absolute()),
            "started": started,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "processor": processor(),
            **versions(("mobilevit", "torch", "torchvision", "pillow")),
        }
        write_text(self.info, json.dumps(facts, indent=2, ensure_ascii=False))
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in self.rows()[:epoch]))

    def rows(self) -> list[dict[str, Any]]:
        """Return the metrics of the epochs so far; a line cut short by an interruption is none."""
        found = []
        for line in self._lines():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found

    def append(self, row: dict[str, Any]) -> None:
        """Add the metrics of an epoch."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _lines(self) -> list[str]:
        if not self.metrics.is_file():
            return []
        return self.metrics.read_text(encoding="utf-8").splitlines()


def free_folder(output: str | Path | None, name: str) -> Path:
    """Choose a folder to make; nothing that exists is touched.

    Args:
        output: the folder wished for; none: ``runs/NAME``, or the first of ``runs/NAME-2`` … that
            is not there.
        name: what it is about.

    Raises:
        UserError: when ``output`` is there already and not empty.
    """
    if output is None:
        path, number = Path("runs") / name, 2
        while path.exists():
            path, number = Path("runs") / f"{name}-{number}", number + 1
        return path
    path = Path(output)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        saved = RunFolder(path).last.is_file()
        goes_on = f" An interrupted run goes on with resume={path} (--resume {path})."
        raise UserError(
            f"{path}: it exists and is not empty. Choose another output.{goes_on if saved else ''}"
        )
    return path
