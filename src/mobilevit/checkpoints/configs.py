"""What other libraries write beside their weights: how to feed a network and read it.

Facts: the paper's code resizes to 288 and crops 256, bilinear, without mean and deviation. Its
first weights were trained on pictures in OpenCV's order, blue first, and transformers kept them so;
timm's copies take red first, as does every MobileViTv2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilevit.checkpoints.files import family
from mobilevit.deployment.contract import INTERPOLATIONS, Contract
from mobilevit.errors import UserError
from mobilevit.files import read_json

if TYPE_CHECKING:
    from mobilevit.checkpoints.recognition import Recognised

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
BLUE_FIRST = (("cvnets", "mobilevit"), ("transformers", "mobilevit"))
"""Library and family of the weights that take BGR."""
_MARKS = {"transformers": "model_type", "timm": "architecture"}
"""What tells a library's ``config.json`` from any other."""
_TASKS = {"": "classification", "deeplabv3": "segmentation", "ssdlite": "detection"}
_USUAL: dict[str, tuple[tuple[int, int], int | None]] = {
    "": ((256, 256), 288),
    "deeplabv3": ((512, 512), None),
    "ssdlite": ((320, 320), None),
}
"""Task, and sizes in pixels that the authors evaluate at, by what stands on the backbone."""
_OUTPUTS = {"ssdlite": "detections", "deeplabv3": "pixel_logits"}
_AS_HERE: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "layer_norm_eps": (1e-5,),
    "do_resize": (True,),
    "do_rescale": (True,),
    "rescale_factor": (1 / 255,),
    "global_pool": ("avg",),
}
"""Settings of transformers and timm that the weights do not tell, and what they are here."""
_KERNELS = {2: "bilinear", 3: "bicubic"}
"""Kernels by Pillow's numbers."""


@dataclass(frozen=True)
class Facts:
    """What is known of a checkpoint besides its weights.

    Attributes:
        contract: how to feed and read it, with RGB in [0, 1].
        channel_order: ``"RGB"`` or ``"BGR"``, what the weights in the file take.
        rule: why that order.
        notes: what a user should know.
    """

    contract: Contract
    channel_order: str
    rule: str
    notes: tuple[str, ...] = ()


def read_configs(folder: Path, library: str) -> dict[str, Any]:
    """Return the JSON files that a library wrote into a checkpoint's folder, by their names.

    Raises:
        UserError: when one of them is no JSON object.
    """
    found = {}
    for name in (CONFIG, PROCESSOR):
        path = folder / name
        if library in _MARKS and path.is_file():
            found[name] = read_json(path)
    return found if _MARKS.get(library) in found.get(CONFIG, {}) else {}


def read_facts(
    known: Recognised, classes: int, configs: Mapping[str, Any], names: Sequence[str], source: str
) -> Facts:
    """Return the facts of a foreign checkpoint.

    Args:
        known: whose weights these are.
        classes: outputs of its classifier.
        configs: of ``read_configs``.
        names: of the tensors in the file.
        source: where it comes from, for the errors.

    Raises:
        UserError: when the configuration asks for what cannot be done, or makes no sense.
    """
    order, rule = _channel_order(known.library, known.family, names)
    kernel: Any
    try:
        if known.library == "transformers" and configs:
            size, resize, kernel, labels = _transformers(configs, source)
        elif known.library == "timm" and configs:
            size, resize, kernel, labels = _timm(configs[CONFIG], source)
        else:
            size, resize, kernel, labels = *_USUAL[known.head], "bilinear", None
        resize = None if known.head else resize  # a crop would leave pixels without an answer
        class_names, notes = _class_names(labels, classes)
        flips = configs.get(PROCESSOR, {}).get("do_flip_channel_order")
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError) as error:
        raise UserError(f"{source}: its configuration makes no sense ({error!r}).") from error
    if isinstance(flips, bool) and known.family == "mobilevit":
        order, rule = ("BGR" if flips else "RGB"), f"do_flip_channel_order in {PROCESSOR}"
    elif flips:
        notes.append(
            f"{PROCESSOR} flips the channels, but MobileViTv2 was trained on RGB pictures; where "
            "it was fine-tuned with the flip, convert it with --channel-order BGR"
        )
    if kernel not in INTERPOLATIONS:
        notes.append(f"pictures are resized bilinearly, for there is no '{kernel}' here")
        kernel = "bilinear"
    output = _OUTPUTS.get(known.head, "logits")
    contract = Contract(_TASKS[known.head], class_names, size, resize, kernel, output=output)
    return Facts(contract.validated(source), order, rule, tuple(notes))


def write_configs(
    library: str, architecture: Mapping[str, Any], contract: Contract
) -> dict[str, dict[str, Any]]:
    """Return the JSON files that a library wants beside the weights, by their names."""
    names = contract.class_names
    if library == "timm":
        height, width = contract.size
        if contract.resize and height != width:
            raise UserError(
                f"timm cannot be told to resize the shorter side to {contract.resize} pixels and "
                f"to cut out {height} x {width}. Write a file of weights instead of a folder."
            )
        share = height / (contract.resize or height)
        config = {
            "architecture": architecture["model"],
            "num_classes": len(names),
            "label_names": list(names),
            "pretrained_cfg": {
                "custom_load": False,
                "input_size": [architecture["in_chans"], *contract.size],
                "fixed_input_size": False,
                "interpolation": contract.interpolation,
                "crop_pct": math.floor(share * 1e6) / 1e6,  # timm divides by it and rounds down
                "crop_mode": "center" if contract.resize else "squash",
                "mean": [0.0, 0.0, 0.0],
                "std": [1.0, 1.0, 1.0],
                "num_classes": len(names),
                "first_conv": "stem.conv",
                "classifier": "head.fc",
            },
        }
        return {CONFIG: config}
    if library == "transformers":
        v1 = family(architecture) == "mobilevit"
        head = architecture.get("head")
        height, width = contract.size
        shorter = {"shortest_edge": contract.resize}
        sides = {"height": height, "width": width}
        config = {
            "num_channels": architecture["in_chans"],
            "image_size": height,
            "patch_size": architecture["patch_sizes"][0],
            "expand_ratio": float(architecture["expansion"]),
            "classifier_dropout_prob": architecture["head_dropout"],
            "output_stride": architecture["output_stride"],
            "id2label": {str(i): name for i, name in enumerate(names)},
            "label2id": {name: i for i, name in enumerate(names)},
            "torch_dtype": "float32",
        }
        processor = {
            "image_processor_type": "MobileViTImageProcessor",
            "do_resize": True,
            "size": shorter if contract.resize else sides,
            "resample": {kernel: n for n, kernel in _KERNELS.items()}[contract.interpolation],
            "do_center_crop": contract.resize is not None,
            "crop_size": sides,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_flip_channel_order": (library, family(architecture)) in BLUE_FIRST,
        }
        if head:
            config |= {
                "aspp_out_channels": head["aspp_width"],
                "atrous_rates": list(head["aspp_rates"]),
                "aspp_dropout_prob": head["aspp_dropout"],
            }
        kind = "ForSemanticSegmentation" if head else "ForImageClassification"
        config["architectures"] = [f"{'MobileViT' if v1 else 'MobileViTV2'}{kind}"]
        return {
            CONFIG: config | (_v1_config if v1 else _v2_config)(architecture),
            PROCESSOR: processor,
        }
    return {}


def _v1_config(architecture: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("stem_width", "widths", "head_width")
    stem, widths, head = (architecture[key] for key in keys)
    return {
        "model_type": "mobilevit",
        "hidden_sizes": list(architecture["token_widths"]),
        "neck_hidden_sizes": [stem, *widths, head],
        "num_attention_heads": architecture["heads"],
        "mlp_ratio": float(architecture["ffn_expansion"]),
        "hidden_dropout_prob": architecture["dropout"],
        "attention_probs_dropout_prob": architecture["attention_dropout"],
    }


def _v2_config(architecture: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model_type": "mobilevitv2",
        "width_multiplier": int(architecture["model"][-3:]) / 100,
        "n_attn_blocks": list(architecture["layers"]),
        "ffn_multiplier": architecture["ffn_expansion"],
        "attn_dropout": architecture["attention_dropout"],
        "ffn_dropout": architecture["ffn_dropout"],
    }


def _transformers(
    configs: Mapping[str, Any], source: str
) -> tuple[tuple[int, int], int | None, str, Sequence[str] | None]:
    processor = configs.get(PROCESSOR, {})
    _check_settings(configs.get(CONFIG, {}), CONFIG, source)
    _check_settings(processor, PROCESSOR, source)
    if processor.get("do_normalize"):
        raise _normalised(source, processor.get("image_mean"), processor.get("image_std"))
    crop, short = processor.get("crop_size", 256), processor.get("size", 288)
    size = (crop["height"], crop["width"]) if isinstance(crop, dict) else (crop, crop)
    if isinstance(short, dict) and "height" in short:
        whole = (short["height"], short["width"])
        if processor.get("do_center_crop", True) and whole != tuple(size):
            raise UserError(
                f"{source}: its {PROCESSOR} stretches pictures to {whole} and then cuts out "
                f"{tuple(size)}, which no contract here says. Without that file its weights load."
            )
        size = whole
    else:
        short = short["shortest_edge"] if isinstance(short, dict) else short
        if not processor.get("do_center_crop", True) or short < max(size):
            raise UserError(
                f"{source}: its {PROCESSOR} makes the shorter side {short} pixels and does not cut "
                f"{tuple(size)} out of that, which no contract here says. Without that file its "
                "weights load."
            )
    labels = configs.get(CONFIG, {}).get("id2label")
    if labels is not None:
        labels = [labels[str(i)] for i in range(len(labels))]
    number = int(processor.get("resample", 2))
    resize = None if isinstance(short, dict) else int(short)
    return (int(size[0]), int(size[1])), resize, _KERNELS.get(number, str(number)), labels


def _timm(
    config: Mapping[str, Any], source: str
) -> tuple[tuple[int, int], int | None, str, Sequence[str] | None]:
    settings = config.get("pretrained_cfg", config)
    _check_settings(config, CONFIG, source)
    mean, deviation = settings.get("mean", (0, 0, 0)), settings.get("std", (1, 1, 1))
    if any(mean) or any(value != 1 for value in deviation):
        raise _normalised(source, mean, deviation)
    if "input_size" not in settings:
        return *_USUAL[""], "bilinear", None
    _, height, width = settings["input_size"]
    share, mode = settings.get("crop_pct", 0.875), settings.get("crop_mode") or "center"
    short: int | None = math.floor(min(height, width) / share)
    if mode == "squash" and share == 1:
        short = None
    elif mode != "center" or height != width or share > 1:
        raise UserError(
            f"{source}: its {CONFIG} asks for crop_mode {mode!r} and crop_pct {share} at "
            f"{height} x {width} pixels, which no contract here says. Without that file its "
            "weights load."
        )
    labels = settings.get("label_names") or config.get("label_names")
    if isinstance(labels, Mapping):
        labels = [labels[str(i)] for i in range(len(labels))]
    return (height, width), short, settings.get("interpolation", "bilinear"), labels


def _check_settings(config: Mapping[str, Any], name: str, source: str) -> None:
    """Refuse a network, or pictures, other than those here.

    Raises:
        UserError: naming the setting.
    """
    for key, usual in _AS_HERE.items():
        if config.get(key, usual[0]) not in usual:
            raise UserError(
                f"{source}: {key} is {config[key]!r} in its {name}, and {usual[0]!r} here."
            )


def _normalised(source: str, mean: Any, deviation: Any) -> UserError:
    return UserError(
        f"{source}: its configuration subtracts a mean {mean} and divides by {deviation}. Networks "
        "here take pixels in [0, 1] as they are, as the published weights do, and a mean cannot be "
        "moved into a convolution that pads with zeros."
    )


def _channel_order(library: str, family: str, names: Sequence[str]) -> tuple[str, str]:
    """Return the order that weights take by what is known of their origin, and why."""
    if any("neural_augmentor." in name for name in names):
        return "RGB", "weights trained with RangeAugment come from RGB pictures"
    if (library, family) in BLUE_FIRST:
        return "BGR", "the first MobileViT weights were trained on BGR pictures"
    if family == "mobilevitv2":
        return "RGB", "MobileViTv2 was trained on RGB pictures"
    return "RGB", f"weights of {library} take RGB"


def _class_names(labels: Sequence[str] | None, classes: int) -> tuple[tuple[str, ...], list[str]]:
    """Return a name for each output; transformers' LABEL_3 says nothing and counts as none."""
    if labels is not None and len(labels) == classes and not _is_placeholder(labels):
        return tuple(map(str, labels)), []
    if classes == 1000:
        from torchvision.models import MobileNet_V3_Small_Weights

        names = MobileNet_V3_Small_Weights.DEFAULT.meta["categories"]
        return tuple(names), ["no class names in the file: 1,000 classes are taken as ImageNet's"]
    notes = ["no class names in the file: they are numbered"] if classes else []
    return tuple(str(i) for i in range(classes)), notes


def _is_placeholder(labels: Sequence[str]) -> bool:
    return all(label == f"LABEL_{i}" for i, label in enumerate(labels))
