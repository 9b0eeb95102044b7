"""The one training function, for every task."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from mobilevit.checkpoints import Checkpoint, Pretrained, architecture, save_checkpoint
from mobilevit.checkpoints.files import build
from mobilevit.checkpoints.pretrained import OF_ITS_OWN, tensors_for
from mobilevit.checkpoints.transfer import transfer
from mobilevit.data.folders import Folders, Sample, data_hash
from mobilevit.data.samplers import MultiScaleSampler
from mobilevit.data.scan import usable_cores
from mobilevit.data.transforms import EvalDataset, collate
from mobilevit.deployment.sensitivity import SimulatedInt8, find_blocks
from mobilevit.errors import DivergedError, UserError
from mobilevit.networks import Backbone, TimmNetwork
from mobilevit.networks.timm import PREFIX
from mobilevit.networks.torchvision_lraspp import NAME as TORCHVISION_LRASPP
from mobilevit.networks.torchvision_ssdlite import NAME as TORCHVISION_SSDLITE
from mobilevit.tasks.base import Metric, Task
from mobilevit.training.display import Display
from mobilevit.training.parameters import freeze, parameter_groups
from mobilevit.training.recipe import Recipe
from mobilevit.training.run_folder import RunFolder
from mobilevit.training.schedule import averaged, learning_rate
from mobilevit.training.state import Progress, restore_tensors, training_tensors

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Network = Backbone | TimmNetwork


def fit(
    fabric: Fabric,
    task: Task,
    recipe: Recipe,
    folders: Folders[Any],
    run: RunFolder,
    saved: Checkpoint | None = None,
    weights: Pretrained | None = None,
    display: Display | None = None,
) -> None:
    """Train from the first step, or the one after ``saved``, to the last.

    The random numbers of a step are a function of the seed, the step and the process, so that a
    run that is taken up again is the run that was interrupted.

    Args:
        fabric: the engine, launched.
        task: what is learnt.
        recipe: how.
        folders: the pictures.
        run: where everything is written, by the first process.
        saved: the training state to go on from.
        weights: a network to start from; its classifier is kept if the class names are the same.
        display: shows what happens; none: nothing is shown.

    Raises:
        UserError: when the pictures are not those ``saved`` was trained on, or the loss is not
            finite.
    """
    display = display or Display(enabled=False)
    contract = task.contract(recipe, folders)
    torch.manual_seed(recipe.training.seed)
    like = saved or (weights.checkpoint if weights else None)
    raw = make_network(recipe, len(contract.class_names), like)
    provenance = saved.provenance if saved else {}
    if weights is not None:
        theirs, report = weights.checkpoint, weights.report
        new_head = theirs.contract.class_names != contract.class_names
        done = transfer(tensors_for(raw, theirs), raw, report.source, new_head=new_head)
        report = dataclasses.replace(report, transfer=report.transfer.then(done))
        report.print(display.console)
        provenance = theirs.provenance or report.provenance()
    described = architecture(recipe.model_name, raw)
    side = task.training(recipe, folders, raw)
    raw = raw.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    frozen = freeze(raw, recipe.optimizer.freeze)
    average = averaged(raw, recipe.optimizer.ema_decay)
    evaluated: Network = average.module if recipe.optimizer.ema_decay else raw  # type: ignore[assignment]
    # a fused optimizer unscales the gradients of fp16 itself, too late for them to be clipped
    fused = not (recipe.training.precision == "fp16" and recipe.optimizer.clip_norm)
    optimizer = torch.optim.AdamW(parameter_groups(raw, recipe.optimizer), fused=fused)
    progress = Progress(data=data_hash(folders.train, folders.source), processes=fabric.world_size)
    if saved is not None:
        progress = _restored(saved, progress, raw, evaluated, optimizer, run)
        average.n_averaged.fill_(progress.updates)
        if progress.epoch >= recipe.training.epochs:
            display.console.print(f"{progress.epoch} epochs are done: nothing is left to train")
    if progress.scaler:
        fabric.strategy.precision.load_state_dict(progress.scaler)
    if recipe.training.compile:
        raw.compile(dynamic=False)
    if fabric.device.type == "cpu":
        exact_depthwise(raw)
    network, stepper = fabric.setup(raw, optimizer)
    sampler = MultiScaleSampler(
        len(folders.train),
        recipe.training.batch_size,
        recipe.train_sizes,
        recipe.data.size,
        recipe.data.anchor,
        fabric.world_size,
        fabric.global_rank,
        recipe.training.seed,
    )
    workers = recipe.data.workers
    loading: dict[str, Any] = {
        "num_workers": min(usable_cores(), 8) if workers is None else workers,
        "collate_fn": collate,
        "pin_memory": fabric.device.type == "cuda",
    }
    loader = DataLoader(
        side.train_dataset(folders.train),
        batch_sampler=sampler,
        persistent_workers=loading["num_workers"] > 0,
        **loading,
    )
    held_back = folders.val[fabric.global_rank :: fabric.world_size]
    val_loader = DataLoader(
        EvalDataset(held_back, contract),
        batch_size=min(recipe.training.batch_size, 64),
        **loading,
    )

    def checkpoint(metrics: dict[str, Any], resumable: bool) -> Checkpoint:
        progress.scaler = fabric.strategy.precision.state_dict()
        return Checkpoint(
            evaluated,
            contract,
            described,
            recipe.to_dict(),
            metrics,
            progress.to_dict() if resumable else {},
            training_tensors(raw, optimizer) if resumable else {},
            provenance,
        )

    lock = run.locked(new=saved is None) if fabric.is_global_zero else nullcontext()
    running = display.running(recipe, folders, described["model"], fabric)
    with lock, running, attention_kernel(fabric):
        if fabric.is_global_zero:
            run.begin(recipe, folders.source, progress.epoch)
            if saved is None:  # so that a run can be resumed from its very first step
                save_checkpoint(run.last, checkpoint({}, resumable=True))
        while progress.epoch < recipe.training.epochs:
            sampler.set_epoch(progress.epoch, progress.step)
            display.epoch(progress.epoch, sampler.steps, progress.step)
            sums = torch.tensor(progress.sums, device=fabric.device)  # loss, right, seen
            sums *= fabric.is_global_zero  # what was saved is of all processes
            network.train()
            frozen.eval()
            started = time.perf_counter()
            for batch, step in zip(loader, sampler.steps[progress.step :], strict=True):
                torch.manual_seed(_seed(recipe.training.seed, progress.updates, fabric.global_rank))
                rate = learning_rate(recipe, progress.samples, len(folders.train))
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["lr_scale"]
                if not len(batch[1]):
                    raise UserError("none of a batch's pictures can be read; is the disk gone?")
                if len(batch[1]) == 1:  # the others cannot be read, and batch-norm takes two
                    batch = [part.repeat_interleave(2, dim=0) for part in batch]
                pictures, targets = side.prepare(*fabric.to_device(batch))
                if progress.updates == 0 and fabric.is_global_zero:
                    side.draw_batch(run.batch, pictures, targets)
                count = max(1, min(recipe.training.accumulate, len(pictures) // 2))
                parts = zip(pictures.tensor_split(count), targets.tensor_split(count), strict=True)
                for part, (x, target) in enumerate(parts, start=1):
                    with fabric.no_backward_sync(network, enabled=part < count):
                        with graphs(recipe, step in sampler.choices), rounding(recipe, raw):
                            outputs = network(x)
                        loss = side.loss(outputs, target)
                        fabric.backward(loss * (fabric.world_size / step.count))
                    right = side.score(outputs, target)
                    sums += torch.stack((loss.detach(), right, right.new_tensor(len(x))))
                if recipe.optimizer.clip_norm:
                    fabric.clip_gradients(
                        network,
                        stepper,
                        max_norm=recipe.optimizer.clip_norm,
                        error_if_nonfinite=False,  # a gradient scaler skips such a step
                    )
                stepper.step()
                stepper.zero_grad()
                if recipe.optimizer.ema_decay:
                    average.update_parameters(raw)
                progress.step += 1
                progress.updates += 1
                progress.samples += step.count
                display.step(sums, rate, step)
                if progress.updates % recipe.training.save_steps == 0:
                    progress.sums = _finite(fabric, raw, sums, progress)
                    now = time.perf_counter()
                    progress.seconds, started = progress.seconds + now - started, now
                    if fabric.is_global_zero:
                        save_checkpoint(run.last, checkpoint({}, resumable=True))
            progress.seconds += time.perf_counter() - started

            loss_sum, right_sum, seen = _finite(fabric, raw, sums, progress)
            if fabric.world_size > 1:  # batch-norm's statistics are each process's own
                for buffer in evaluated.buffers():
                    torch.distributed.broadcast(buffer, 0)
            fast = task.deploy(evaluated, contract, "fp32")
            metric = _evaluate(fabric, fast, val_loader, held_back, task.metric(contract))
            results = metric.compute()
            better = results[task.primary] > progress.best
            progress.best = max(progress.best, results[task.primary])
            row: dict[str, Any] = {
                "epoch": progress.epoch + 1,
                "updates": progress.updates,
                "samples": progress.samples,
                "seconds": round(progress.seconds, 2),
                "lr": learning_rate(recipe, progress.samples, len(folders.train)),
                "train_loss": loss_sum / seen,
                f"train_{side.score_name}": right_sum / seen,
                **{f"val_{key}": v for key, v in results.items() if isinstance(v, float)},
            }
            progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, [0.0, 0.0, 0.0]
            if fabric.is_global_zero:
                metrics = {**results, "epoch": row["epoch"], "seconds": row["seconds"]}
                if better:
                    save_checkpoint(run.best, checkpoint(metrics, resumable=False))
                run.append(row)
                save_checkpoint(run.last, checkpoint(metrics, resumable=True))
            fabric.log_dict({k: v for k, v in row.items() if k != "epoch"}, step=row["epoch"])
            display.finish_epoch(row, better)
            fabric.barrier()


def make_network(recipe: Recipe, num_classes: int, like: Checkpoint | None = None) -> Network:
    """Make the network of a recipe; what the recipe leaves open is that of a checkpoint.

    Raises:
        UserError: for a checkpoint of another network, and numbers that make none.
    """
    name = recipe.model_name
    theirs: dict[str, Any] = like.architecture if like is not None else {"model": name}
    if theirs["model"] != name:
        raise UserError(f"the weights are of {theirs['model']}, not of {name}.")
    own = dataclasses.asdict(recipe.model)
    numbers, head = own.pop("numbers") or {}, own.pop("head")
    told: dict[str, Any] = {
        **({"img_size": recipe.data.size} if name.startswith(PREFIX) else {}),
        **{key: value for key, value in theirs.items() if key not in OF_ITS_OWN},
        **{key: value for key, value in own.items() if value is not None},
        **numbers,
        "model": name,
        "num_classes": num_classes,
    }
    if head != "classifier":
        known: dict[str, Any] = theirs.get("head", {})
        known = known if known.get("type") == head else {}
        background = int(head == "ssdlite")
        told["head"] = {**known, "type": head, "num_classes": num_classes + background}
        told["num_classes"] = 0
        if name.startswith((PREFIX, TORCHVISION_SSDLITE, TORCHVISION_LRASPP)):
            if set_ := [key for key, value in own.items() if key != "model" and value is not None]:
                raise UserError(f"{name} has no {set_[0]} to set: leave it out.")
            if numbers and not name.startswith(PREFIX):
                raise UserError(f"{name} is what it is: leave numbers out.")
            kept = {k: v for k, v in theirs.items() if known and k not in OF_ITS_OWN}
            told = {"model": name, **kept, **numbers, "head": told["head"]}
        if head == "deeplabv3":
            stride = recipe.segmentation.output_stride
            stride = stride or (theirs.get("output_stride", 16) if known else 16)
            wide = {"aspp_width": 512, "aspp_rates": (12, 24, 36)} if stride == 8 else {}
            if "output_stride" in numbers:
                raise UserError("output_stride is a setting of its own (--output-stride).")
            aux = {"aux": recipe.segmentation.aux_weight > 0}
            if name == TORCHVISION_LRASPP and (aux["aux"] or stride != 16):
                raise UserError(f"{name} is what it is: leave aux_weight and output_stride out.")
            told |= {"output_stride": stride, "head": {**wide, **told["head"], **aux}}
    try:
        return cast(Network, build(told))
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"{name} cannot be made with numbers {numbers} ({error}).") from error


def check_network(recipe: Recipe, num_classes: int) -> None:
    """Find out whether the network of a recipe can be made and takes its sizes, by shapes alone.

    Raises:
        UserError: when it does not.
    """
    with torch.device("meta"):
        network = make_network(recipe, num_classes).eval()
        for height, width in {*((s, s) for s in recipe.train_sizes), recipe.eval_size}:
            try:
                network(torch.empty(2, 3, height, width))
            except (AssertionError, RuntimeError, ValueError) as error:
                raise UserError(
                    f"{recipe.model_name} does not take {height} x {width} pixels ({error}). "
                    "Choose other sizes (--size, --sizes, --eval-shape)."
                ) from error


def _restored(
    saved: Checkpoint,
    fresh: Progress,
    raw: Network,
    evaluated: Network,
    optimizer: torch.optim.Optimizer,
    run: RunFolder,
) -> Progress:
    progress = Progress(**saved.progress)
    if progress.step and progress.processes != fresh.processes:
        raise UserError(
            f"{run.last}: it was interrupted in an epoch that {progress.processes} processes "
            f"share; resume with as many, not {fresh.processes}."
        )
    if progress.data != fresh.data:
        raise UserError(
            f"{run.last}: it was trained on other pictures than the folder has now. To go on, "
            "name the same data, with the same choice of check (--no-check); to start anew from "
            "its weights use weights= (--weights) instead of resume."
        )
    evaluated.load_state_dict(saved.network.state_dict())
    restore_tensors(saved.training, raw, optimizer)
    progress.processes = fresh.processes
    return progress


def attention_kernel(fabric: Fabric) -> AbstractContextManager[None]:
    """On a processor, compute attention by plain products: its fused bf16 backward is slower."""
    if fabric.device.type == "cpu":
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def exact_depthwise(network: nn.Module) -> None:
    """Compute some depth-wise convolutions in fp32 where the rest of a network is in bf16.

    On a processor the gradients of their filters are wrong in bf16 and channels-last (torch 2.14,
    oneDNN): noise where a filter is dilated, at maps of 32 x 32 and more, as a MobileViT at output
    stride 8 has; memory that nobody wrote where a filter of stride 2 meets a map of one pixel, as
    the last maps of a detector at 128 pixels and below.
    """
    before: list[bool] = []

    def begin(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        before.append(torch.is_autocast_enabled("cpu"))
        if _is_dilated(layer) or min(inputs[0].shape[2:]) == 1:
            torch.set_autocast_enabled("cpu", False)
            return (inputs[0].float(),)
        return inputs

    def end(*_: Any) -> None:
        torch.set_autocast_enabled("cpu", before.pop())

    for layer in network.modules():
        if not isinstance(layer, nn.Conv2d) or layer.groups == 1:
            continue
        if _is_dilated(layer) or max(layer.stride) > 1:
            layer.register_forward_pre_hook(begin)
            layer.register_forward_hook(end)


def _is_dilated(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and max(layer.dilation) > 1


def graphs(recipe: Recipe, full: bool) -> AbstractContextManager[None]:
    """Let a compiled network make a graph for a full batch, and run the rest of an epoch without.

    One graph serves any number of pictures only if it is made for that, which takes far longer.
    """
    if recipe.training.compile and not full:
        stance: AbstractContextManager[None] = torch.compiler.set_stance("eager_on_recompile")
        return stance
    return nullcontext()


def rounding(recipe: Recipe, network: nn.Module) -> AbstractContextManager[None]:
    """Let a network compute as int8 does, where a recipe has it learn that."""
    if recipe.training.int8:
        return SimulatedInt8("follow").rounding(find_blocks(network))
    return nullcontext()


def _evaluate(
    fabric: Fabric,
    network: nn.Module,
    loader: DataLoader[Any],
    samples: Sequence[Sample[Any]],
    metric: Metric,
) -> Metric:
    """Run the deployed form over the pictures of all processes; each process has its own.

    Raises:
        UserError: when none of the pictures can be read.
    """
    seen = 0
    for pictures, positions in loader:
        if len(positions):
            outputs = network(fabric.to_device(pictures))
            metric.update(outputs.cpu().numpy(), [samples[i].label for i in positions.tolist()])
            seen += len(positions)
    if fabric.world_size > 1:
        parts: list[Any] = [None] * fabric.world_size
        torch.distributed.all_gather_object(parts, (metric, seen))
        (metric, seen), *others = parts
        for other, more in others:
            metric.merge(other)
            seen += more
    if not seen:
        raise UserError("none of the pictures to validate on can be read; is the disk gone?")
    return metric


def _seed(seed: int, update: int, rank: int) -> int:
    return hash((seed, update, rank)) & (2**63 - 1)


def _finite(fabric: Fabric, network: Network, sums: Tensor, progress: Progress) -> list[float]:
    """Return the epoch's sums over all processes as numbers, if they and the weights are some.

    Raises:
        DivergedError: when one of them is not.
    """
    sums = cast(Tensor, fabric.all_reduce(sums.clone(), reduce_op="sum"))
    weights = ((f"the weight {name}", weight) for name, weight in network.named_parameters())
    for what, numbers in (("the loss", sums), *weights):
        if numbers.isfinite().all():
            continue
        raise DivergedError(
            f"{what} is not finite in epoch {progress.epoch + 1} (step {progress.updates}). "
            "Try a lower lr, clip_norm=1, or precision=fp32; the last saved state is kept."
        )
    values: list[float] = sums.tolist()
    return values
