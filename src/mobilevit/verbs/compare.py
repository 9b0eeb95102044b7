"""Train several networks alike, and measure them side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilevit.errors import DivergedError, UserError
from mobilevit.files import write_text
from mobilevit.studies.folder import StudyFolder, finished_rows, has_diverged, mark_diverged
from mobilevit.studies.report import StudyReport, write_report
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
    recipe: str | Path | Recipe | None = None,
    output: str | Path | None = None,
    only: Sequence[str] = (),
    seeds: int | None = None,
    measure: bool = True,
    progress: bool = True,
    **settings: Any,
) -> StudyReport:
    """Train several networks alike on one data set, and measure them side by side.

    For each of them the learning rate is chosen in short trainings judged by a part of the training
    pictures; then it is trained with several seeds, and what counts is val after the last epoch.
    Everything is written as it comes. A call with the same ``output`` goes on where an earlier one
    stopped, even in the middle of an epoch; calls at the same time with different ``only`` may
    share the work. A training that diverges ends with a ``diverged.txt`` and is not tried again.

    Args:
        data: a folder of class folders.
        study: the name of a study, a YAML file, or a ``Study``.
        models: networks to compare instead, each at the learning rate of ``recipe``; ``timm:NAME``
            for one of timm's.
        recipe: what ``models`` are trained with; none: ``photos``.
        output: a new folder, or one of this study; none: ``runs/compare-STUDY-DATA``.
        only: entries or groups of the study to work on now; none: all.
        seeds: trainings of each entry; none: as the study says.
        measure: measure cost, latency and robustness when these trainings are done.
        progress: show progress bars.
        **settings: fields of the recipe to change, for example ``epochs=20``.

    Raises:
        UserError: when the study or the pictures cannot be used, when the folder holds trainings
            with other settings or no study, or when every training diverges.
        MissingExtraError: when a network needs a library that is not installed.
    """
    from rich.console import Console

    from mobilevit.data.folders import hold_back
    from mobilevit.data.scan import scan
    from mobilevit.deployment.formats import FORMATS
    from mobilevit.networks import check_model
    from mobilevit.tasks import get_task
    from mobilevit.training.fit import check_network
    from mobilevit.verbs.train import checked

    plan = _plan(study, models, recipe, settings)
    plan = plan if seeds is None else replace(plan, seeds=seeds)
    entries = plan.chosen([only] if isinstance(only, str) else only)
    task = get_task("classification")
    if plan.recipe.task != task.name:
        raise UserError(
            f"compare is for {task.name}; train detectors and segmenters one by one: mobilevit "
            "train DATA --model NAME --recipe boxes, or --recipe masks"
        )
    found = task.read(data, plan.recipe.data.val_fraction)
    for entry in plan.entries:
        asked = plan.final(entry, plan.rates[0], 0)
        check_model(asked.model_name)
        check_network(asked, len(found.class_names))
    if measure:
        FORMATS["onnx"].check(FORMATS["onnx"].builds)
    console = Console(stderr=True, highlight=False)
    found = checked(found, scan(found, progress=progress), console)
    held = hold_back(found, plan.held_back) if len(plan.rates) > 1 else None
    name = f"compare-{plan.name}-{found.source.resolve().name}"
    folder = StudyFolder(Path(output or Path("runs") / name), plan, task.primary)
    folder.begin(found)
    write_report(folder, found)
    work = _Work(folder, task, found, held, console, progress)
    for group in dict.fromkeys(entry.group for entry in entries):
        members = [entry for entry in entries if entry.group == group]
        for entry in members:
            work.choose_rate(entry)
        for seed in range(plan.seeds):
            for entry in members:
                work.train(entry, seed)
    if measure:
        _measure(work)
    report = write_report(folder, found)
    if not any(result.trained for result in report.results):
        raise DivergedError(f"{folder.path}: all trainings diverged. Try lower rates.")
    return report


def _plan(
    study: str | Path | Study,
    models: Sequence[str],
    recipe: str | Path | Recipe | None,
    settings: dict[str, Any],
) -> Study:
    """Return the study with its settings, or one of some networks.

    Raises:
        UserError: when the words do not go together.
    """
    if models:
        if study != DEFAULT_STUDY:
            raise UserError("models are compared instead of a study: leave one of the two out.")
        if "model" in settings:
            raise UserError("models and model exclude each other: name all networks in models.")
        base = recipe or DEFAULT_RECIPE
        base = base if isinstance(base, Recipe) else load_recipe(base)
        names = [models] if isinstance(models, str) else models
        return Study.of_models(names, base.override(**settings))
    if recipe is not None:
        raise UserError("recipe is what models are trained with: name them, or leave it out.")
    for key, way_out in (("lr", "rates in the study"), ("seed", "seeds")):
        if key in settings:
            raise UserError(f"{key} differs from training to training in a study: see {way_out}.")
    plan = study if isinstance(study, Study) else load_study(study)
    for key in settings:
        if all(key in entry.settings for entry in plan.entries):
            raise UserError(f"{key} is another in each entry of {plan.name}: change it there.")
    return replace(plan, recipe=plan.recipe.override(**settings))


@dataclass(frozen=True)
class _Work:
    """Trains what is not trained yet.

    Attributes:
        folder: where everything is written.
        task: what is learnt.
        found: the pictures.
        held: the pictures to train on, a part of them held back; none where no rate is chosen.
        console: where each training is announced.
        progress: show progress bars.
    """

    folder: StudyFolder
    task: Task
    found: Folders[Any]
    held: Folders[Any] | None
    console: Console
    progress: bool

    def choose_rate(self, entry: Entry) -> None:
        if self.held is None:
            return
        study, tried = self.folder.study, self.folder.tried(entry)
        for rate in study.rates:
            if rate in tried:
                continue
            run, recipe = self.folder.tuning(entry, rate), study.tuning(entry, rate)
            self._run(run, recipe, self.held, f"{entry.name}, lr {rate:g}")

    def train(self, entry: Entry, seed: int) -> None:
        rate = self.folder.rate(entry)
        assert rate is not None
        recipe = self.folder.study.final(entry, rate, seed)
        title = f"{entry.name}, lr {rate:g}, seed {seed}"
        self._run(self.folder.final(entry, rate, seed), recipe, self.found, title)

    def _run(self, run: RunFolder, recipe: Recipe, folders: Folders[Any], title: str) -> None:
        from rich.markup import escape

        from mobilevit.checkpoints import load_checkpoint
        from mobilevit.verbs.train import train_folders

        if finished_rows(run, recipe) or has_diverged(run):
            return
        self.console.rule(escape(title), align="left")
        saved = load_checkpoint(run.last, training=True) if run.last.is_file() else None
        try:
            train_folders(
                *(self.task, folders, recipe, run, saved),
                check=False,
                progress=self.progress,
                draw=False,
            )
        except DivergedError as error:
            self.console.print(f"{error}", markup=False)
            mark_diverged(run, str(error))
        write_report(self.folder, self.found)


def _measure(work: _Work) -> None:
    """Measure the networks of seed 0 that are there, the latency of all of them in one run."""
    from rich.markup import escape

    from mobilevit.checkpoints import load_checkpoint
    from mobilevit.deployment.cost import count_parameters
    from mobilevit.deployment.runtimes import load_predictor
    from mobilevit.verbs.benchmark import benchmark
    from mobilevit.verbs.export import export
    from mobilevit.verbs.labelled import Labelled
    from mobilevit.verbs.robustness import measure_robustness

    folder, found = work.folder, work.found
    results = []
    for result in folder.results():
        if not result.trained or result.trained[0].seed != 0:
            continue
        if result.trained[0].checkpoint.is_file():
            results.append(result)
        elif not result.measures:
            name = result.entry.name
            work.console.print(f"{name}: not measured, its checkpoint is gone", markup=False)
    if all("robustness" in result.measures for result in results):
        return
    checkpoints = [result.trained[0].checkpoint for result in results]
    work.console.rule("cost and latency", align="left")
    artefacts = [export(checkpoint, data=found.source).path for checkpoint in checkpoints]
    timed = benchmark([*checkpoints, *artefacts], batch_sizes=(1,), threads=(1,))
    known = folder.measured()
    for i, (result, checkpoint) in enumerate(zip(results, checkpoints, strict=True)):
        network: Any = load_checkpoint(checkpoint).network
        parameters = timed.models[i]["parameters"]
        known[result.entry.slug] = {
            "network": result.trained[0].key,
            "parameters": parameters,
            "backbone_parameters": parameters - count_parameters(network.get_classifier()),
            "multiply_adds": timed.models[i]["multiply_adds"],
            "pytorch_ms": timed.timings[i].median_ms,
            "onnx_ms": timed.timings[len(results) + i].median_ms,
            "machine": timed.machine,
            **{key: value for key, value in result.measures.items() if key == "robustness"},
        }
    write_text(folder.measures, json.dumps(known, indent=2))
    paths, labels = zip(*((sample.path, sample.label) for sample in found.val), strict=True)
    labelled = Labelled(found.source, "val", paths, labels)
    for result, checkpoint in zip(results, checkpoints, strict=True):
        measures = known[result.entry.slug]
        if "robustness" not in measures:
            work.console.rule(escape(f"robustness of {result.entry.name}"), align="left")
            tough = measure_robustness(load_predictor(checkpoint, threads=1), labelled)
            measures["robustness"] = tough.to_dict()
            write_text(folder.measures, json.dumps(known, indent=2))
