"""What a person sees while a network trains."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from mobilevit.data.folders import Folders
from mobilevit.data.samplers import Step
from mobilevit.training.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

REFRESH = 0.5
"""Seconds between two looks at the running loss, each of which waits for the device."""


class Display:
    """A line for every epoch and a bar with the time left, on standard error.

    Args:
        enabled: show anything; the first process does.
        bars: show the bar too, if standard error is a terminal.
    """

    def __init__(self, enabled: bool = True, bars: bool = True) -> None:
        self.console = Console(stderr=True, quiet=not enabled, highlight=False)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[now]}"),
            console=self.console,
            transient=True,
            disable=not (enabled and bars and self.console.is_terminal),
        )
        self.seen = 0.0

    @contextmanager
    def running(
        self, recipe: Recipe, folders: Folders[Any], model: str, fabric: Fabric
    ) -> Iterator[None]:
        """Announce the run, and keep the bar up while it lasts."""
        self.total = recipe.training.epochs * len(folders.train)
        self.epochs = recipe.training.epochs
        self.console.print(
            f"[bold]{model}[/] on {len(folders.train):,} pictures of {len(folders.class_names)} "
            f"classes, {len(folders.val):,} held back, {fabric.world_size} x {fabric.device.type}, "
            f"{fabric.strategy.precision.precision}"
        )
        self.task = self.bar.add_task("", total=self.total, now="")
        with self.bar:
            yield

    def epoch(self, epoch: int, steps: Sequence[Step], done: int) -> None:
        """Begin an epoch, some steps of which may be done."""
        samples = sum(step.count for step in steps)
        self.completed = epoch * samples + sum(step.count for step in steps[:done])
        self.bar.update(
            self.task,
            description=f"epoch {epoch + 1}/{self.epochs}",
            completed=self.completed,
        )

    def step(self, sums: Tensor, rate: float, step: Step) -> None:
        """Move the bar on by a step."""
        self.completed += step.count
        if self.bar.disable or time.monotonic() - self.seen < REFRESH:
            return
        self.seen = time.monotonic()
        loss, _, seen = sums.tolist()
        now = f"loss {loss / seen:.3f}  lr {rate:.1e}  {step.count} x {step.size} px"
        self.bar.update(self.task, completed=self.completed, now=now)

    def finish_epoch(self, row: dict[str, Any], better: bool) -> None:
        """Print the line of a finished epoch."""
        parts = []
        for part in ("train", "val"):
            values = [f"{k[len(part) + 1 :]} {v:.3f}" for k, v in row.items() if k.startswith(part)]
            parts.append(f"{part} {' '.join(values)}")
        mark = "  [green]best[/]" if better else ""
        self.console.print(f"{row['epoch']:>3} {row['seconds']:>6.0f} s  {'  '.join(parts)}{mark}")
