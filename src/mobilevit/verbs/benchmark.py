"""Measure how fast networks are, side by side in one run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilevit.errors import UserError
from mobilevit.machine import describe_machine

if TYPE_CHECKING:
    from rich.console import Console

    from mobilevit.deployment.runtimes import Predictor

CONVENTIONS = (
    "Latency: from an array in memory to an array in memory, wall clock; the models take turns, "
    "call by call. MACs: multiply-adds of one picture, attention's matrix products included. "
    "Memory: peak of a fresh process that loads the model and runs one batch of the largest size, "
    "interpreter and libraries included."
)


@dataclass(frozen=True)
class Timing:
    """How fast a model is with so many threads and pictures in a batch.

    Attributes:
        model: as it was given.
        threads: threads that computed.
        batch_size: pictures in a batch.
        median_ms: median latency of a batch, in milliseconds.
        p10_ms: the latency that 10 % of the batches stayed below.
        p90_ms: the latency that 90 % of the batches stayed below.
        images_per_second: pictures per second at the median.
        speedup: the first model's median over this one's.
    """

    model: str
    threads: int
    batch_size: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    images_per_second: float
    speedup: float


@dataclass(frozen=True)
class Benchmark:
    """Models measured in one run.

    Attributes:
        models: description of each, as its predictor gives it, with ``peak_memory`` in bytes.
        timings: for each number of threads, each batch size and each model.
        machine: processor and versions, in words.
        repeats: calls that each timing is made of.
    """

    models: tuple[dict[str, Any], ...]
    timings: tuple[Timing, ...]
    machine: str
    repeats: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {
            "models": list(self.models),
            "timings": [asdict(timing) for timing in self.timings],
            "machine": self.machine,
            "repeats": self.repeats,
            "conventions": CONVENTIONS,
        }

    def print(self, console: Console) -> None:
        """Print it as two tables."""
        from rich.markup import escape
        from rich.table import Column, Table

        name = Column("model", min_width=14, overflow="fold")
        costs = Table(name, "runs as", title=escape(self.machine))
        for column in ("input", "params M", "MACs M", "disk MB", "memory MB"):
            costs.add_column(column, justify="right")
        for model in self.models:
            costs.add_row(
                escape(_short(model["model"])),
                f"{model['format']}\n{model['precision'] or '?'}",
                "x".join(map(str, model["size"])),
                _millions(model["parameters"], 2),
                _millions(model["multiply_adds"], 0),
                _millions(model["bytes"], 1),
                _millions(model["peak_memory"], 0),
            )
        speeds = Table("model", title=f"medians of {self.repeats} calls")
        for column in ("threads", "batch", "ms", "p10", "p90", "images/s", "x first"):
            speeds.add_column(column, justify="right", no_wrap=True)
        for timing in self.timings:
            speeds.add_row(
                escape(_short(timing.model)),
                str(timing.threads),
                str(timing.batch_size),
                f"{timing.median_ms:.1f}",
                f"{timing.p10_ms:.1f}",
                f"{timing.p90_ms:.1f}",
                f"{timing.images_per_second:.1f}",
                f"{timing.speedup:.2f}",
            )
        console.print(costs, speeds)
        console.print(CONVENTIONS, style="dim", highlight=False)


def benchmark(
    models: Sequence[str | Path],
    size: int | None = None,
    threads: tuple[int, ...] = (1,),
    batch_sizes: tuple[int, ...] = (1,),
    repeats: int = 30,
    warmup: int = 5,
    precision: str = "fp32",
) -> Benchmark:
    """Measure latency, throughput and cost of several models in turn.

    Args:
        models: checkpoints, run folders, artefacts, and names of networks (random weights).
        size: side of the input in pixels; by default what each model expects, 256 for a name. An
            artefact has its own.
        threads: numbers of threads to measure with.
        batch_sizes: numbers of pictures in a batch to measure with; an artefact made for one
            picture is fed one by one.
        repeats: calls to measure, for each model, number of threads and batch size.
        warmup: calls before, which are not measured.
        precision: ``"fp32"`` or ``"bf16"``; an artefact has its own.

    Raises:
        UserError: when a model cannot be used, or a number is too small.
    """
    from mobilevit.deployment.memory import measure_peak_memory

    models = [models] if isinstance(models, (str, Path)) else list(models)
    check_numbers(size=(1 if size is None else size,), repeats=(repeats,), models=(len(models),))
    check_numbers(threads=threads, batch_sizes=batch_sizes)
    check_numbers(0, warmup=(warmup,))
    square = (size, size) if size else None
    timings: list[Timing] = []
    described: dict[int, dict[str, Any]] = {}
    for count in threads:
        predictors = [open_model(model, square, count, precision) for model in models]
        for i, predictor in enumerate(predictors):
            if i not in described:
                described[i] = predictor.describe()
        for batch_size in batch_sizes:
            timings += time_in_turn(models, predictors, count, batch_size, repeats, warmup)
    for i, model in enumerate(models):
        height, width = described[i]["size"]
        described[i]["peak_memory"] = measure_peak_memory(
            str(model), (height, width), max(batch_sizes), threads[0], precision
        )
    machine = describe_machine(("mobilevit", "torch", "onnxruntime"))
    return Benchmark(tuple(described.values()), tuple(timings), machine, repeats)


def open_model(
    model: str | Path, size: tuple[int, int] | None, threads: int, precision: str
) -> Predictor:
    """Open whatever ``load_predictor`` takes, or the name of a network, to run it.

    Args:
        model: what to open; a name gives random weights and 1000 classes.
        size: height and width of the input; none: what the model expects.
        threads: threads that compute.
        precision: ``"fp32"`` or ``"bf16"``; an artefact has its own.

    Raises:
        UserError: when there is no such model, or it does not take that size.
    """
    from mobilevit.deployment.formats import format_of
    from mobilevit.deployment.runtimes import load_predictor
    from mobilevit.deployment.runtimes.pytorch import TorchPredictor
    from mobilevit.networks.timm import PREFIX
    from mobilevit.weights import is_shipped

    path, name = Path(model), str(model)
    if format_of(path):
        predictor = load_predictor(path, threads)
        if size and predictor.contract.size != size:
            raise UserError(
                f"{path}: was made for {predictor.contract.size} pixels and takes no other size, "
                f"so not {size}. Leave the size out, or leave this model out."
            )
        return predictor
    like_a_path = path.suffix or len(path.parts) > 1
    if path.exists() or (like_a_path and not name.startswith(PREFIX)) or is_shipped(name):
        from mobilevit.checkpoints import load_pretrained

        found = load_pretrained(model)
        return TorchPredictor.from_pretrained(found, threads, precision, size).tried()

    from mobilevit.checkpoints.files import build
    from mobilevit.deployment.contract import Contract
    from mobilevit.networks import check_model

    try:
        check_model(name)
    except UserError as error:
        raise UserError(f"{name}: is no file and no run folder; {error}") from error
    size = size or (256, 256)
    classes = tuple(str(i) for i in range(1000))
    contract = Contract("classification", classes, size, round(max(size) * 9 / 8))
    told = {"model": name, "num_classes": len(classes)}
    if name.startswith(PREFIX):
        told["img_size"] = max(size)
    return TorchPredictor(build(told), contract, path, name, threads, precision).tried()


def check_numbers(least: int = 1, /, **numbers: Sequence[int]) -> None:
    """Find out whether numbers are large enough, and whether there are any.

    Raises:
        UserError: when one of them is below ``least``, with its name.
    """
    for name, values in numbers.items():
        if not values or min(values) < least:
            given = min(values, default="empty")
            raise UserError(f"{name} is {given}; it must be {least} or more.")


def time_in_turn(
    models: Sequence[str | Path],
    predictors: Sequence[Predictor],
    threads: int,
    batch_size: int,
    repeats: int,
    warmup: int,
) -> list[Timing]:
    """Call each model once a round, so that a busy moment of the machine slows all of them.

    Args:
        models: what they are called.
        predictors: the same models, opened.
        threads: that they were opened with.
        batch_size: pictures in a batch.
        repeats: calls of each to measure.
        warmup: calls of each before.

    Raises:
        UserError: when one of them is not run by its own runtime here.
    """
    import numpy as np

    for predictor in predictors:
        if told := predictor.describe().get("runs_as"):
            raise UserError(f"{predictor.path}: {told}, so its latency cannot be measured here.")
    random = np.random.default_rng(0)
    images = [
        random.random((batch_size, 3, *predictor.contract.size), dtype=np.float32)
        for predictor in predictors
    ]
    milliseconds = np.zeros((len(predictors), repeats))
    for turn in range(-warmup, repeats):
        for i, predictor in enumerate(predictors):
            started = time.perf_counter()
            predictor.run(images[i])
            if turn >= 0:
                milliseconds[i, turn] = (time.perf_counter() - started) * 1e3
    low, median, high = np.percentile(milliseconds, (10, 50, 90), axis=1)
    return [
        Timing(
            model=str(model),
            threads=threads,
            batch_size=batch_size,
            median_ms=float(median[i]),
            p10_ms=float(low[i]),
            p90_ms=float(high[i]),
            images_per_second=float(batch_size / median[i] * 1e3),
            speedup=float(median[0] / median[i]),
        )
        for i, model in enumerate(models)
    ]


def _millions(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value / 1e6:,.{digits}f}"


def _short(model: str) -> str:
    """Return the end of a path, enough to tell models apart in a table."""
    return "/".join(Path(model).parts[-2:])
