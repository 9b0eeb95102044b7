"""Train a network on a folder of pictures."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.markup import escape

from mobilevit.data.findings import refuse
from mobilevit.errors import UserError, require
from mobilevit.training.recipe import (
    BOXES_RECIPE,
    DEFAULT_RECIPE,
    FINETUNE_RECIPE,
    MASKS_RECIPE,
    TASKS,
    Recipe,
    load_recipe,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from mobilevit.checkpoints import Checkpoint, Pretrained
    from mobilevit.data.folders import Folders
    from mobilevit.data.scan import Scan
    from mobilevit.tasks import Task
    from mobilevit.training.run_folder import RunFolder

TRAINS_WITH = ("lightning_fabric", "tensorboard", "matplotlib")
"""Libraries of the extra ``train``, which are asked for before any work."""
NAMED = 5
"""Files that a warning about the pictures names, at most; `doctor` names all."""


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: the run folder; ``best.safetensors`` in it is the network.
        metrics: of the best epoch: the task's metrics, ``epoch``, ``seconds`` of training.
        primary: the metric that said which epoch was best.
    """

    folder: Path
    metrics: dict[str, Any]
    primary: str = "top1"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain Python."""
        return {"folder": str(self.folder), "metrics": self.metrics}

    def print(self, console: Console) -> None:
        """Say what was reached and what to do next."""
        name, epoch = self.primary, self.metrics["epoch"]
        reached = f"{name} {self.metrics[name]:.2%} on val, after epoch {epoch}"
        console.print(f"{reached}: {escape(str(self.folder))}/")
        command = f"mobilevit export {quote(str(self.folder))}"
        console.print(f"next: {command}", markup=False, highlight=False, soft_wrap=True)


def train(
    data: str | Path | None = None,
    *,
    recipe: str | Path | Recipe | None = None,
    output: str | Path | None = None,
    resume: str | Path | None = None,
    weights: str | Path | None = None,
    channel_order: str | None = None,
    check: bool = True,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Train a network and leave a run folder.

    Args:
        data: a folder of class folders, with ``train/`` and ``val/`` or to be split; to train a
            detector, boxes as COCO, YOLO or Pascal VOC have them, see ``read_boxes``; to segment,
            pictures and masks, see ``read_masks``.
        recipe: the name of a recipe, a YAML file, or a ``Recipe``; none: ``usual_recipe``'s.
        output: the run folder to make; none: the next free one under ``runs/``.
        resume: a run folder whose training was interrupted; it goes on with the same pictures and
            recipe and ends with the very same weights as if it had not been.
        weights: what to start from, whatever ``load_pretrained`` takes: a run folder, a checkpoint,
            weights of another library, a name on the Hugging Face hub. Where the recipe names no
            network it is the one of the weights. Their classifier is kept if the class names are
            the same, and new otherwise.
        channel_order: ``"RGB"`` or ``"BGR"``, what ``weights`` take; none: what is known of them.
        check: read every picture once before training, leave out the unreadable.
        progress: show progress bars.
        **settings: fields of the recipe to change, for example ``epochs=20``.

    Raises:
        UserError: for anything in the arguments or the pictures that cannot be used.
    """
    # Threads that wait spin a moment and then sleep: for ever, they would take the cores from the
    # processes that read pictures. It is read when torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    from mobilevit.checkpoints import load_checkpoint, load_pretrained
    from mobilevit.tasks import get_task
    from mobilevit.training.run_folder import RunFolder, free_folder

    saved: Checkpoint | None = None
    start: Pretrained | None = None
    if resume is not None:
        others = (output, recipe, weights, channel_order)
        if settings or any(other is not None for other in others):
            raise UserError("resume goes on with the run's own recipe: leave the other settings.")
        run = RunFolder.existing(Path(resume))
        saved = load_checkpoint(run.last, training=True)
        chosen = Recipe.from_dict(saved.recipe, str(run.last))
        task = get_task(chosen.task)
        folders = task.read(data or run.data, chosen.data.val_fraction)
    elif channel_order is not None and weights is None:
        raise UserError("channel_order is a fact about weights: name them too.")
    elif data is None:
        raise UserError("train needs a folder of pictures, or resume=RUN to go on with a run.")
    else:
        base = recipe or usual_recipe(data, weights, settings.get("head"))
        chosen = base if isinstance(base, Recipe) else load_recipe(base)
        chosen = chosen.override(**settings)
        task = get_task(chosen.task)
        folders = task.read(data, chosen.data.val_fraction)
        if weights is not None:
            start = load_pretrained(weights, channel_order=channel_order, model=chosen.model.model)
        chosen = _with_network(chosen, start)
        name = f"{Path(data).resolve().name}-{chosen.model_name.replace(':', '-')}"
        run = RunFolder(free_folder(output, name))
    return train_folders(task, folders, chosen, run, saved, start, check, progress)


def usual_recipe(
    data: str | Path | None, weights: str | Path | None, head: str | None = None
) -> str:
    """Return the recipe for data where none is named.

    A head that is asked for decides, or else ``task_of`` the data: ``boxes``, ``masks``, or for
    classes ``finetune`` with weights and ``photos`` without.
    """
    from mobilevit.tasks import task_of

    task = TASKS.get(head or "")
    if head is None and data is not None:
        task = task_of(data)
    if task == "detection":
        return BOXES_RECIPE
    if task == "segmentation":
        return MASKS_RECIPE
    return DEFAULT_RECIPE if weights is None else FINETUNE_RECIPE


def train_folders(
    task: Task,
    folders: Folders[Any],
    recipe: Recipe,
    run: RunFolder,
    saved: Checkpoint | None = None,
    start: Pretrained | None = None,
    check: bool = True,
    progress: bool = True,
    draw: bool = True,
) -> Run:
    """Train on pictures that are found already; see ``train`` and ``fit``.

    Args:
        task: what is learnt.
        folders: the pictures.
        recipe: how.
        run: the run folder.
        saved: the training state to go on from.
        start: a network to start from.
        check: read every picture once before training, leave out the unreadable.
        progress: show progress bars.
        draw: draw what the network does on the val pictures.
    """
    for module in TRAINS_WITH:
        require(module, "train")
    from mobilevit.checkpoints import load_checkpoint
    from mobilevit.data.scan import Scan, scan
    from mobilevit.training.curves import draw_curves
    from mobilevit.training.display import Display
    from mobilevit.training.fit import fit
    from mobilevit.training.memory import keep_memory

    task.metric(task.contract(recipe, folders))  # which may need a library that is not there
    refuse(folders.source, folders.findings)
    keep_memory()
    fabric = _fabric(recipe, run)
    display = Display(enabled=fabric.is_global_zero, bars=progress)
    if check:
        scanned = (
            scan(folders, progress=progress, size=recipe.data.size)
            if fabric.is_global_zero
            else None
        )
        folders = checked(folders, cast(Scan, fabric.broadcast(scanned)), display.console)
    folders = task.trainable(folders)
    if not folders.val:
        raise UserError(
            f"{folders.source}: none of the pictures to validate on can be used, and without any "
            "no epoch is the best. Add some."
        )
    if len(folders.train) < 2 * fabric.world_size:
        raise UserError(
            f"{folders.source}: {len(folders.train)} pictures to train on are too few; it takes "
            f"{2 * fabric.world_size} or more."
        )
    fit(fabric, task, recipe, folders, run, saved, start, display)
    if fabric.is_global_zero:
        draw_curves(run.curves, run.rows(), task.primary)
        if draw:
            task.draw_run(run.best, folders, run.path)
    fabric.barrier()
    return Run(run.path, load_checkpoint(run.best).metrics, task.primary)


def _with_network(recipe: Recipe, start: Pretrained | None) -> Recipe:
    """Return the recipe with its network named: that of the weights, if there are any.

    Raises:
        UserError: for an unknown network, or weights of another one than the recipe names.
    """
    from mobilevit.networks import check_model

    check_model(recipe.model_name)
    if start is None:
        return recipe.override(model=recipe.model_name)
    found = start.checkpoint.architecture
    theirs = found["model"]
    if recipe.model.model not in (None, theirs):
        raise UserError(
            f"{start.report.source}: these weights are of {theirs}, but the recipe names "
            f"{recipe.model.model}. Ask for model={theirs} (--model {theirs}), or use a recipe "
            f"that names none, like {FINETUNE_RECIPE}."
        )
    patches = recipe.model.patch_sizes or found.get("patch_sizes")
    return recipe.override(model=theirs, patch_sizes=patches)


def checked(folders: Folders[Any], result: Scan, console: Console) -> Folders[Any]:
    """Say what a scan found wrong, and leave out the unreadable.

    Raises:
        UserError: when training would teach nothing, for example with an empty class.
    """
    from mobilevit.data.scan import drop_unreadable

    colours = {"error": "red", "warning": "yellow"}
    for finding in result.findings:
        if finding.severity in colours:
            colour = colours[finding.severity]
            console.print(f"[{colour}]{finding.severity}[/] {escape(finding.message)}")
            for path in finding.paths[:NAMED]:
                console.print(f"  {path}", markup=False, soft_wrap=True)
            if len(finding.paths) > NAMED:
                console.print(f"  and {len(finding.paths) - NAMED} more")
    refuse(folders.source, result.findings)
    return drop_unreadable(folders, result)


def _fabric(recipe: Recipe, run: RunFolder) -> Fabric:
    """Start the engine: one process, or those that ``torchrun`` started."""
    from lightning_fabric import Fabric
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    world = int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device = recipe.training.device
    _check_device(device)
    fabric = Fabric(
        accelerator=_accelerator() if device == "auto" else device,
        devices=local,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        precision=fabric_precision(recipe.training.precision, device),  # type: ignore[arg-type]
        loggers=TensorBoardLogger(run.path, name="", version="tensorboard"),
    )
    fabric.launch()
    return fabric


def _accelerator() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu"


def _check_device(device: str) -> None:
    """Do nothing.

    Raises:
        UserError: when torch finds no such device.
    """
    import torch

    here = {"cuda": torch.cuda.is_available, "mps": torch.mps.is_available}
    if device in here and not here[device]():
        raise UserError(
            f"device is {device}, and torch finds none here. Take auto, which is {_accelerator()}."
        )


def fabric_precision(precision: str, device: str) -> str:
    """Return Fabric's name of a precision; auto is bf16 where the processor computes in it."""
    import torch

    if precision == "auto":
        kind = _accelerator() if device == "auto" else device
        if kind == "cpu":
            known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
            fast = known.get("avx512_bf16", False) or known.get("amx_bf16", False)
        else:
            fast = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if fast else "fp32"
    return {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[precision]
