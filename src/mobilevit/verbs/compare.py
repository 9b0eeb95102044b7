"""Train several networks alike, and measure them side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilevit.files import make_folder, write_text
from mobilevit.studies.folder import StudyFolder, finished
from mobilevit.studies.report import Comparison, write_report
from mobilevit.studies.study import DEFAULT_STUDY, Entry, Study, load_study
from mobilevit.training.recipe import DEFAULT_RECIPE, Recipe, load_recipe

if TYPE_CHECKING:
    from rich.console import Console

    from mobilevit.data.folders import Folders
    from mobilevit.tasks import Task
    from mobilevit.training.run_folder import RunFolder


def compare(
    data: str | Path,
    study: str | Path | Study = DEFAULT_STUDY,
    *,
    models: Sequence[str] = (),
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    output: str | Path | None = None,
    only: Sequence[str] = (),
    seeds: int | None = None,
    measure: bool = True,
    progress: bool = True,
    **settings: Any,
) -> Comparison:
    """Train several networks alike on one data set, and measure them side by side.

    For each of them the learning rate is chosen in short trainings judged by a part of the training
    pictures; then it is trained with several seeds, and what counts is val after the last epoch.
    Everything is written as it comes. A call with the same ``output`` goes on where an earlier one
    stopped, even in the middle of an epoch; calls with different ``only`` may share the work.

    Args:
        data: a folder of class folders.
        study: the name of a study, a YAML file, or a ``Study``.
        models: networks to compare instead, each at the learning rate of ``recipe``; ``timm:NAME``
            for one of timm's.
        recipe: what ``models`` are trained with.
        output: the folder; none: ``runs/compare-STUDY``.
        only: entries or groups of the study to work on now; none: all.
        seeds: trainings of each entry; none: as the study says.
        measure: measure cost, latency and robustness when these trainings are done.
        progress: show progress bars.
        **settings: fields of the recipe to change, for example ``epochs=20``.

    Raises:
        UserError: when the study or the pictures cannot be used, or when the folder holds
            trainings with other settings.
        MissingExtraError: when a network needs a library that is not installed.
    """
    from rich.console import Console

    from mobilevit.data.folders import hold_back
    from mobilevit.data.scan import scan
    from mobilevit.networks import check_model
    from mobilevit.tasks import get_task
    from mobilevit.verbs.train import checked

    if models:
        base = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
        plan = Study.of_models(models, base)
    else:
        plan = study if isinstance(study, Study) else load_study(study)
    plan = replace(
        plan,
        recipe=plan.recipe.override(**settings),
        seeds=plan.seeds if seeds is None else seeds,
    )
    for entry in plan.entries:
        check_model(plan.final(entry, plan.rates[0], 0).model_name)
    entries = plan.chosen(only)
    task = get_task("classification")
    folder = StudyFolder(Path(output or Path("runs") / f"compare-{plan.name}"), plan, task.primary)
    found = task.read(data, plan.recipe.data.val_fraction)
    console = Console(stderr=True, highlight=False)
    found = checked(found, scan(found, progress=progress), console)
    make_folder(folder.path)
    work = _Work(folder, task, found, hold_back(found, plan.held_back), console, progress)
    for group in dict.fromkeys(entry.group for entry in entries):
        members = [entry for entry in entries if entry.group == group]
        for entry in members:
            work.choose_rate(entry)
        for seed in range(plan.seeds):
            for entry in members:
                work.train(entry, seed)
    if measure:
        _measure(folder, found.source, console)
    return write_report(folder, found)


@dataclass(frozen=True)
class _Work:
    """Trains what is not trained yet.

    Attributes:
        folder: where everything is written.
        task: what is learnt.
        found: the pictures.
        held: the pictures to train on, a part of them held back.
        console: where each training is announced.
        progress: show progress bars.
    """

    folder: StudyFolder
    task: Task
    found: Folders
    held: Folders
    console: Console
    progress: bool

    def choose_rate(self, entry: Entry) -> None:
        study = self.folder.study
        for rate in study.rates if len(study.rates) > 1 else ():
            run = self.folder.tuning(entry, rate)
            self._run(run, study.tuning(entry, rate), self.held, f"{entry.name}, lr {rate:g}")

    def train(self, entry: Entry, seed: int) -> None:
        rate = self.folder.rate(entry)
        assert rate is not None
        recipe = self.folder.study.final(entry, rate, seed)
        title = f"{entry.name}, lr {recipe.optimizer.lr:g}, seed {seed}"
        self._run(self.folder.final(entry, seed), recipe, self.found, title)

    def _run(self, run: RunFolder, recipe: Recipe, folders: Folders, title: str) -> None:
        from mobilevit.checkpoints import load_checkpoint
        from mobilevit.verbs.train import train_folders

        if finished(run, recipe):
            return
        self.console.rule(title, align="left")
        saved = load_checkpoint(run.last, training=True) if run.last.is_file() else None
        train_folders(
            self.task,
            folders,
            recipe,
            run,
            saved,
            check=False,
            progress=self.progress,
            draw=False,
        )
        write_report(self.folder, self.found)


def _measure(folder: StudyFolder, data: Path, console: Console) -> None:
    """Measure the networks of seed 0, latency of all of them in one run."""
    from mobilevit.checkpoints import load_checkpoint
    from mobilevit.deployment.cost import count_parameters
    from mobilevit.verbs.benchmark import benchmark
    from mobilevit.verbs.export import export
    from mobilevit.verbs.robustness import robustness

    results = [r for r in folder.results() if r.trained and r.trained[0].seed == 0]
    if all(result.measures for result in results):
        return
    checkpoints = [folder.final(result.entry, 0).last for result in results]
    console.rule("cost and latency", align="left")
    artefacts = [export(checkpoint, data=data).path for checkpoint in checkpoints]
    timed = benchmark([*checkpoints, *artefacts], batch_sizes=(1,), threads=(1,))
    measures: dict[str, Any] = {}
    for i, (result, checkpoint) in enumerate(zip(results, checkpoints, strict=True)):
        network: Any = load_checkpoint(checkpoint).network
        known = result.measures.get("robustness")
        if known is None:
            console.rule(f"robustness of {result.entry.name}", align="left")
            known = robustness(checkpoint, data, threads=1).to_dict()
        measures[result.entry.slug] = {
            "parameters": timed.models[i]["parameters"],
            "backbone_parameters": timed.models[i]["parameters"]
            - count_parameters(network.get_classifier()),
            "multiply_adds": timed.models[i]["multiply_adds"],
            "pytorch_ms": timed.timings[i].median_ms,
            "onnx_ms": timed.timings[len(results) + i].median_ms,
            "machine": timed.machine,
            "robustness": known,
        }
    write_text(folder.measures, json.dumps(measures, indent=2))
