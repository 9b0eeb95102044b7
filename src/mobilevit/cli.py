"""The verbs as commands: a thin skin over the functions of the same names."""

from __future__ import annotations

import inspect
import io
import json as json_
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from mobilevit.errors import UserError, unknown
from mobilevit.studies.study import DEFAULT_STUDY, load_study
from mobilevit.training.recipe import (
    BOXES_RECIPE,
    DEFAULT_RECIPE,
    MASKS_RECIPE,
    Multiple,
    Numbers,
    Recipe,
    load_recipe,
)

Flag = FlagCreatePairsOff[bool]
Json = Annotated[Flag, arg(help="Print the result as JSON.")]
Source = (
    "A run folder, a checkpoint, weights of timm, transformers or ml-cvnets, a name on the "
    "Hugging Face hub, or imagenette, which comes with the package."
)
Model = Annotated[Positional[str], arg(metavar="MODEL", help=f"An exported file, or: {Source}")]
FormatName = Literal["onnx", "coreml", "executorch", "litert", "openvino"]
Library = Literal["mobilevit", "timm", "transformers", "cvnets"]
Threads = Annotated[int | None, arg(help="Threads that compute; none given: the runtime's.")]
Data = (
    "A folder of class folders, with train/ and val/ or without; for a detector, boxes as COCO, "
    "YOLO or Pascal VOC have them; for segmentation, pictures and masks."
)

constructors = ConstructorRegistry()


@constructors.primitive_rule
def _multiple(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Multiple] | None:
    """Tell the parser how a ``Multiple`` is written."""
    if info.type is not Multiple:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT[x]",
        instance_from_str=lambda words: Multiple(words[0]),
        is_instance=lambda value: isinstance(value, Multiple),
        str_from_instance=lambda value: [str(value)],
    )


@constructors.primitive_rule
def _numbers(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Numbers] | None:
    """Tell the parser how ``Numbers`` are written."""
    if info.type is not Numbers:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME=VALUE ...]",
        instance_from_str=Numbers.read,
        is_instance=lambda value: isinstance(value, Numbers),
        str_from_instance=Numbers.words,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 for no, 2 for an error.

    No is what a check says that fails, and `predict` where no picture can be read.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may be in any encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        if "" in arguments:
            raise UserError("one of the words is empty. Is a variable of the shell not set?")
        commands = _commands(arguments)
        verb = arguments[0]
        if verb not in commands and not verb.startswith("-"):
            raise unknown("command", verb, commands)
        if verb in ("predict", "benchmark"):
            arguments[1:] = _words_first(arguments[1:], commands[verb])
        with constructors:
            code: int = tyro.extras.subcommand_cli_from_dict(
                commands,
                prog="mobilevit",
                description="Train, evaluate, export and ship light-weight vision networks.",
                args=arguments,
            )
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except OSError as error:  # a disk that is full, a folder that may not be written to
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 2


def _commands(arguments: Sequence[str]) -> dict[str, Callable[..., int]]:
    return {
        "train": _train(arguments),
        "evaluate": _evaluate,
        "predict": _predict,
        "export": _export,
        "convert": _convert,
        "benchmark": _benchmark,
        "sensitivity": _sensitivity,
        "starter": _starter,
        "compare": _compare(arguments),
        "doctor": _doctor,
        "models": _models,
        "demo": _demo,
    }


def _words_first(arguments: Sequence[str], command: Callable[..., int]) -> list[str]:
    """Put the words that no option takes first, as argparse takes them in one piece."""
    if "--" in arguments:  # whoever writes it says where the words stand
        return list(arguments)
    words, options, taken = [], [], 0.0
    parameters = inspect.signature(command, eval_str=True).parameters
    for word in arguments:
        name, _, value = word.removeprefix("--").replace("-", "_").partition("=")
        if taken and not (taken == math.inf and word.startswith("-")):
            options.append(word)
            taken -= 1
        elif word.startswith("-"):
            options.append(word)
            taken = 0 if value or name not in parameters else _takes(parameters[name])
        else:
            words.append(word)
    return words + options


def _takes(option: inspect.Parameter) -> float:
    """Return how many words an option takes."""
    if option.default is False:
        return 0
    return math.inf if "tuple" in str(option.annotation) else 1


def _train(arguments: Sequence[str]) -> Callable[..., int]:
    """Make the command whose defaults are those of the recipe that is asked for."""
    usual = DEFAULT_RECIPE
    if "train" in arguments[:1]:
        from mobilevit.verbs.train import usual_recipe

        weights = _given(arguments, "--weights") or None
        words = [word for word in arguments[1:] if not word.startswith("-")]
        head = _given(arguments, "--head") or None
        recipes = {usual_recipe(word, weights, head) for word in words}
        usual = usual_recipe(None, weights, head)
        usual = next((name for name in (BOXES_RECIPE, MASKS_RECIPE) if name in recipes), usual)
    chosen = _given(arguments, "--recipe") or usual
    defaults = load_recipe(chosen) if "train" in arguments[:1] else Recipe()

    def train(
        data: Annotated[Positional[Path | None], arg(metavar="DATA", help=Data)] = None,
        *,
        recipe: str = usual,
        output: Path | None = None,
        resume: Path | None = None,
        weights: str | None = None,
        channel_order: Literal["RGB", "BGR"] | None = None,
        check: bool = True,
        progress: bool = True,
        settings: OmitArgPrefixes[Recipe] = defaults,
        json: Json = False,
    ) -> int:
        """Train a network on a folder of pictures.

        Args:
            recipe: Name of a recipe or a YAML file; the defaults below are this recipe's. If none
                is given, it is boxes or masks for data with those, else finetune with --weights.
            output: Run folder to make; none given: the next free one under runs/.
            resume: Run folder whose interrupted training goes on.
            weights: Run folder, checkpoint, weights of another library, name on the Hugging Face
                hub, or imagenette, which comes with the package, to start from; the network is
                the one in it.
            channel_order: What those weights take; none given: what is known of their origin.
            check: Read every picture once before training.
            progress: Show progress bars.
        """
        from mobilevit.verbs.train import train as verb

        if resume is None:
            begin = {"recipe": defaults, "output": output}
            begin |= _given_settings(arguments, defaults, settings)
        elif settings != defaults or recipe != usual or output or weights or channel_order:
            raise UserError("--resume goes on with the run's own recipe: leave the other settings.")
        else:
            begin = {"resume": resume}
        start: dict[str, Any] = {"weights": weights, "channel_order": channel_order, **begin}
        run = verb(data, **start, check=check, progress=progress)
        return _show(run, json) if os.environ.get("RANK", "0") == "0" else 0

    return train


def _given(arguments: Sequence[str], option: str) -> str:
    """Return the word that an option is given, empty if it is not."""
    given = ""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word.partition("=")[0] == option:
            given = word.partition("=")[2] or following
    return given


def _given_settings(arguments: Sequence[str], defaults: Recipe, settings: Recipe) -> dict[str, Any]:
    """Return what was given: what differs from the recipe, and what follows a size even if not."""
    followers = {
        name: getattr(settings.data, name)
        for name in ("sizes", "resize")
        if _given(arguments, f"--{name}")
    }
    return defaults.changes(settings) | followers


def _evaluate(
    model: Model,
    data: Annotated[Positional[Path], arg(metavar="DATA", help=Data)],
    *,
    split: Literal["val", "train", "test", "all"] = "val",
    batch_size: int = 32,
    threads: Threads = None,
    output: Path | None = None,
    robustness: Flag = False,
    json: Json = False,
) -> int:
    """Evaluate a network on labelled pictures.

    Args:
        split: Which pictures of a data set that has a split.
        batch_size: Pictures run at a time.
        output: File to write the result to, as JSON.
        robustness: Evaluate on 500 of the pictures, corrupted and resized, too.
    """
    from mobilevit.verbs.evaluate import evaluate

    result = evaluate(model, data, split, batch_size, threads, output, robustness)
    return _show(result, json)


def _predict(
    words: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="[MODEL] PICTURES",
            help=f"MODEL: an exported file, or: {Source} Without it, the smallest network that "
            "comes with the package answers. PICTURES: files, folders and patterns like "
            "'photos/*.jpg'.",
        ),
    ],
    *,
    top: int | None = None,
    threshold: float | None = None,
    draw: Path | None = None,
    coco: Path | None = None,
    masks: Path | None = None,
    tile: Flag = False,
    threads: Threads = None,
    batch_size: int = 16,
    json: Json = False,
) -> int:
    """Predict what is on pictures.

    Args:
        top: Answers for each picture; none given: five labels, all boxes; of a mask, the classes
            that its line names.
        threshold: How sure an answer is at least, 0 to 1; none given: 0.3 for boxes, else 0.
        draw: New folder to write the pictures into with the answers drawn on them.
        coco: File to write boxes to, in COCO's format of results; image_id is the number that a
            picture is named with, or its name.
        masks: New folder to write masks into, as PNGs of the numbers of the classes.
        tile: Segment pictures in overlapping tiles at their own size instead of shrinking them.
        batch_size: Pictures run at a time.
    """
    from mobilevit.verbs.predict import predict, split_words

    model, pictures = split_words(words)
    found = predict(model, pictures, top, threads, batch_size, threshold, draw, coco, masks, tile)
    return _show(found, json) or int(not found)


def _export(
    model: Annotated[Positional[str], arg(metavar="MODEL", help=Source)],
    *,
    format: FormatName | Literal["all"] = "onnx",
    precision: Literal["fp32", "fp16", "bf16", "int8", "int8-weights"] | None = None,
    output: Path | None = None,
    data: Path | None = None,
    calibrate: Path | None = None,
    float_blocks: tuple[str, ...] | None = None,
    dynamic_batch: Flag = False,
    backend: Literal["xnnpack", "coreml"] | None = None,
    tolerance: float | None = None,
    raw: Flag = False,
    json: Json = False,
) -> int:
    """Export a checkpoint, and run the result beside PyTorch on real pictures.

    Args:
        format: What to write; all: whatever this machine can, and why not the others.
        precision: Of the numbers; none given: fp16 for Core ML, else fp32. int8 takes pictures to
            calibrate on, int8-weights computes in float.
        output: File to write, with all: folder; none given: beside the checkpoint.
        data: Folder or picture to compare on; none given: what the run was validated on.
        calibrate: Folder of pictures that int8 learns its ranges from; none given: what the run
            was trained on.
        float_blocks: Of int8, names of the network's modules that stay in float; none given: none.
        dynamic_batch: Take any number of pictures at once instead of one.
        backend: Of ExecuTorch, who computes; none given: xnnpack.
        tolerance: Largest difference allowed, as a share of the outputs' range; none given: 0.001
            for fp32, more for the other precisions.
        raw: Of a detector, leave out the choice among boxes (non-maximum suppression); of a
            segmenter, the upsampling to the picture's size.
    """
    from mobilevit.verbs.export import export, export_all

    if float_blocks == ():
        raise UserError("--float-blocks needs names of the network's modules, or leave it out.")
    options: dict[str, Any] = {
        "precision": precision,
        "data": data,
        "calibrate": calibrate,
        "float_blocks": float_blocks or (),
        "dynamic_batch": dynamic_batch,
        "backend": backend,
        "tolerance": tolerance,
        "raw": raw,
    }
    if format == "all":
        return _show(export_all(model, output, **options), json)
    return _show(export(model, format, output, **options), json)


def _convert(
    source: Annotated[
        Positional[str],
        arg(metavar="SOURCE", help=f"{Source} Or pictures with boxes as COCO, YOLO or VOC."),
    ],
    target: Annotated[
        Positional[Path],
        arg(metavar="TARGET", help="A file (.safetensors, .pt, .bin), or a new folder."),
    ],
    *,
    to: Library | Literal["coco", "yolo", "voc"] = "mobilevit",
    library: Annotated[Library | None, arg(name="from")] = None,
    channel_order: Literal["RGB", "BGR"] | None = None,
    json: Json = False,
) -> int:
    """Turn weights of one library, or boxes of one format, into those of another.

    The result is read back to prove that it is the same.

    Args:
        to: Library that is to read the target; cvnets is ml-cvnets and corenet. For boxes, their
            format: coco, yolo or voc.
        library: Library that wrote the source; none given: it is recognised.
        channel_order: What the source's weights take; none given: what is known of their origin.
    """
    from mobilevit.verbs.convert import convert

    return _show(convert(source, target, to, library, channel_order), json)


def _benchmark(
    models: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="MODELS", help="Run folders, checkpoints, exported files or names of networks."
        ),
    ],
    *,
    formats: tuple[FormatName | Literal["all"], ...] | None = None,
    data: Path | None = None,
    size: int | None = None,
    threads: tuple[int, ...] | None = None,
    batch_sizes: tuple[int, ...] = (1,),
    repeats: int = 30,
    warmup: int = 5,
    precision: Literal["fp32", "bf16"] = "fp32",
    json: Json = False,
) -> int:
    """Measure latency, throughput and cost of several models in turn.

    Args:
        formats: Measure one run beside what was exported from it in these formats, its metric and
            its memory too, and write formats.json and formats.png into its folder; none
            given: the models as they are.
        data: With --formats, labelled pictures; none given: those the run was validated on.
        size: Side of the input in pixels; none given: what each model expects.
        threads: Numbers of threads to measure with; none given: 1, and with --formats 1 and 2.
        batch_sizes: Numbers of pictures in a batch to measure with.
        repeats: Calls to measure.
        warmup: Calls before, which are not measured.
        precision: Precision of checkpoints and names.
    """
    from mobilevit.verbs.benchmark import benchmark

    if formats is not None or data:
        from mobilevit.verbs.benchmark_formats import benchmark_formats

        if len(models) != 1 or size or batch_sizes != (1,) or precision != "fp32" or not formats:
            raise UserError(
                "--formats names formats, or all, and measures one run and its files as they are: "
                "leave --size, --batch-sizes and --precision out, and take --data with it alone."
            )
        wanted = () if "all" in formats else formats
        table = benchmark_formats(
            models[0],
            wanted,
            data,
            threads=(1, 2) if threads is None else threads,
            repeats=repeats,
            warmup=warmup,
        )
        return _show(table, json)
    counts = (1,) if threads is None else threads
    return _show(benchmark(models, size, counts, batch_sizes, repeats, warmup, precision), json)


def _sensitivity(
    model: Annotated[Positional[str], arg(metavar="MODEL", help=Source)],
    *,
    data: Path | None = None,
    calibrate: Path | None = None,
    json: Json = False,
) -> int:
    """Find out which blocks of a network lose what in int8.

    Args:
        data: Folder of pictures to measure on; none given: what the run was validated on.
        calibrate: Folder of pictures to learn ranges from; none given: what it was trained on.
    """
    from mobilevit.verbs.sensitivity import sensitivity

    return _show(sensitivity(model, data, calibrate), json)


def _starter(
    artefact: Annotated[Positional[str], arg(metavar="ARTEFACT", help="An exported file.")],
    folder: Annotated[Positional[Path], arg(metavar="FOLDER", help="New folder to write.")],
    *,
    picture: Path,
    json: Json = False,
) -> int:
    """Write a small app around an exported file, and a picture to check it with.

    Args:
        picture: Golden picture: what the file says of it is written beside it.
    """
    from mobilevit.verbs.starter import starter

    return _show(starter(artefact, folder, picture), json)


def _compare(arguments: Sequence[str]) -> Callable[..., int]:
    """Make the command whose defaults are those of the study, or recipe, that is asked for."""
    defaults = Recipe()
    if "compare" in arguments[:1]:
        if _given(arguments, "--models"):
            defaults = load_recipe(_given(arguments, "--recipe") or DEFAULT_RECIPE)
        else:
            defaults = load_study(_given(arguments, "--study") or DEFAULT_STUDY).recipe

    def compare(
        data: Annotated[Positional[Path], arg(metavar="DATA", help=Data)],
        *,
        study: str = DEFAULT_STUDY,
        models: tuple[str, ...] | None = None,
        recipe: str | None = None,
        output: Path | None = None,
        only: tuple[str, ...] | None = None,
        seeds: int | None = None,
        measure: bool = True,
        progress: bool = True,
        settings: OmitArgPrefixes[Recipe] = defaults,
        json: Json = False,
    ) -> int:
        """Train several networks alike, and measure them side by side.

        Args:
            study: Name of a study or a YAML file: what is compared.
            models: Networks to compare instead, names of `mobilevit models` or timm:NAME; none
                given: those of the study.
            recipe: What --models are trained with; none given: photos. The settings below are
                this recipe's, or the study's.
            output: Folder of the study, which may be begun; none given: runs/compare-STUDY-DATA.
            only: Entries or groups of the study to work on now; none given: all.
            seeds: Trainings of each; none given: as the study says.
            measure: Measure cost, latency and robustness when the trainings are done.
            progress: Show progress bars.
        """
        from mobilevit.verbs.compare import compare as verb

        for option, names in (("--models", models), ("--only", only)):
            if names == ():
                raise UserError(f"{option} needs names, or leave it out.")
        changed = _given_settings(arguments, defaults, settings)
        if model := _given(arguments, "--model"):  # refused there, the recipe's own too
            changed["model"] = model
        done = verb(
            data,
            study,
            models=models or (),
            recipe=recipe,
            output=output,
            only=only or (),
            seeds=seeds,
            measure=measure,
            progress=progress,
            **changed,
        )
        return _show(done, json)

    return compare


def _doctor(
    data: Annotated[Positional[Path | None], arg(metavar="DATA", help=Data)] = None,
    *,
    strict: Flag = False,
    size: int = 320,
    draw: Path | None = None,
    task: Literal["classification", "detection", "segmentation"] | None = None,
    json: Json = False,
) -> int:
    """Examine this machine and, if one is given, a data set.

    Args:
        strict: Fail on warnings too.
        size: Side of the pictures to train on, in pixels, which boxes are measured at.
        draw: PNG to make, of some of the pictures with their labels.
        task: What the data are for, where they have boxes and masks; none given: what is found
            first of boxes, masks, class folders.
    """
    from mobilevit.verbs.doctor import doctor

    report = doctor(data, size=size, draw=draw, task=task)
    _show(report, json)
    strictly = [finding for finding in report.findings if finding.severity != "info"]
    return int(not report.ok or (strict and bool(strictly)))


def _models(
    pattern: Annotated[
        Positional[str], arg(metavar="PATTERN", help="Shell pattern of names.")
    ] = "*",
    *,
    size: int = 256,
    json: Json = False,
) -> int:
    """List the networks and what they cost.

    Args:
        size: Side of the input that the multiply-adds are counted at, in pixels.
    """
    from mobilevit.verbs.models import models

    return _show(models(pattern, size), json)


def _demo(*, output: Path | None = None, json: Json = False) -> int:
    """Train, evaluate, export and measure a network on handwritten digits, in minutes.

    Args:
        output: Folder to make; none given: the next free one under runs/.
    """
    from mobilevit.verbs.demo import demo

    return _show(demo(output), json)


def _show(result: Any, json: bool) -> int:
    if json:
        utf8 = (getattr(sys.stdout, "encoding", None) or "utf-8").lower() in ("utf-8", "utf8")
        print(json_.dumps(result.to_dict(), indent=2, ensure_ascii=not utf8))
    else:
        from rich.console import Console

        result.print(Console(highlight=False))
    return 0
