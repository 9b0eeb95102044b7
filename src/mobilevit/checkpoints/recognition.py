"""Whose weights these are, and of which network, told by the tensors' names and shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from mobilevit.checkpoints.adapters import ADAPTERS, HEAD_ADAPTERS
from mobilevit.checkpoints.adapters.cvnets import BESIDE, ENCODER
from mobilevit.checkpoints.configs import CONFIG
from mobilevit.errors import UserError, unknown
from mobilevit.networks import VARIANTS, DeepLabV3Config, SSDLiteConfig
from mobilevit.networks.ssdlite import BOX

OURS = "mobilevit"
LIBRARIES = (OURS, "timm", "transformers", "cvnets")
FAMILIES = ("mobilevit", "mobilevitv2")
_OTHERS = (*BESIDE, "segmentation_head.")  # the last is transformers'
_LANDMARKS: tuple[str, ...] = (
    "stem.conv.weight",
    "stages.2.0.expand.conv.weight",
    "stages.2.1.local.conv.weight",
    "stages.2.1.transformer.0.norm1.weight",
    "stages.2.1.norm.weight",
)
"""Tensors that every network here has, and no other."""
_HEAD_MARKS = {
    "deeplabv3": "aspp.project.conv.weight",
    "ssdlite": "heads.0.predict.weight",
}
"""A tensor that a head has, and no other; its first side tells a number of the head."""


@dataclass(frozen=True)
class Recognised:
    """Foreign weights under our names.

    Attributes:
        library: whose names they had.
        family: ``"mobilevit"`` or ``"mobilevitv2"``.
        tensors: the backbone's state dict, under our names.
        others: names of the tensors that belong to no network here.
        head: what stands on the backbone, ``"deeplabv3"`` or ``"ssdlite"``; empty for a classifier.
        head_tensors: that head's state dict, under our names.
    """

    library: str
    family: str
    tensors: Mapping[str, Tensor]
    others: tuple[str, ...]
    head: str = ""
    head_tensors: Mapping[str, Tensor] = field(default_factory=dict)


def recognise(tensors: Mapping[str, Tensor], source: str, library: str | None = None) -> Recognised:
    """Find out whose names tensors have, and give them ours.

    Args:
        tensors: a flat state dict of any library, of a whole network or of its backbone.
        source: where it comes from, for the errors.
        library: one of ``LIBRARIES``; none: the one whose names they are.

    Raises:
        UserError: when these are the weights of no network known here, or not of ``library``.
    """
    if library not in (None, *LIBRARIES):
        raise unknown("library", str(library), LIBRARIES)
    others = tuple(name for name in tensors if name.startswith(_OTHERS))
    backbone = {name: tensor for name, tensor in tensors.items() if not name.startswith(_OTHERS)}
    for candidate in LIBRARIES if library is None else (library,):
        for family in FAMILIES:
            ours = _translate(backbone, candidate, family)
            if ours is not None:
                head, found = _head(tensors, candidate)
                left = tuple(name for name in others if name not in found)
                return Recognised(candidate, family, ours, left, head, dict(found.values()))
    first = ", ".join(f"'{name}'" for name in list(tensors)[:3])
    whose = f"a MobileViT with the names of {library}" if library else "a MobileViT known here"
    raise UserError(
        f"{source}: these are not the weights of {whose}; its {len(tensors)} tensors begin with "
        f"{first}. Known are the names of {', '.join(LIBRARIES)}."
    )


def _head(tensors: Mapping[str, Tensor], library: str) -> tuple[str, dict[str, tuple[str, Tensor]]]:
    """Return the head in a file, and its tensors: for each name in the file ours and the tensor."""
    for (whose, head), adapter in HEAD_ADAPTERS.items():
        part = adapter.part(tensors) if whose == library else {}
        named = {name: next(iter(adapter.to_ours({name: part[name]}).items())) for name in part}
        if _HEAD_MARKS[head] in dict(named.values()):
            return head, named
    return "", {}


def architecture_of(known: Recognised, configs: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return what ``build`` needs to make the network that tensors are of.

    Args:
        known: the tensors.
        configs: of ``read_configs``; transformers' tells what no shape does.
        source: where it comes from, for the errors.

    Raises:
        UserError: when the shapes are those of no network.
    """
    config = configs.get(CONFIG, {}) if known.library == "transformers" else {}
    try:
        told = _backbone_numbers(known, config)
        if known.head:
            stride = told["output_stride"] = _output_stride(known, config)
            told["head"] = {"type": known.head, **_head_numbers(known, config, stride)}
    except (LookupError, ValueError, TypeError, ArithmeticError) as error:
        raise UserError(f"{source}: it is no whole MobileViT backbone ({error!r}).") from error
    return told


def _backbone_numbers(known: Recognised, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the name of a backbone and its numbers."""
    shape = {name: tuple(tensor.shape) for name, tensor in known.tensors.items()}
    blocks = range(2, 5)
    found: dict[str, Any] = {
        "num_classes": shape["head.weight"][0] if "head.weight" in shape else 0,
        "in_chans": shape["stem.conv.weight"][1],
        "stem_width": shape["stem.conv.weight"][0],
        "widths": tuple(shape[f"stages.{i}.0.project.conv.weight"][0] for i in range(5)),
        "token_widths": tuple(shape[f"stages.{i}.1.norm.weight"][0] for i in blocks),
        "layers": tuple(_layers(shape, f"stages.{i}.1.transformer") for i in blocks),
        "expansion": _ratio(shape["stages.1.0.expand.conv.weight"]),
        "ffn_expansion": _ratio(shape["stages.2.1.transformer.0.ffn_in.weight"]),
    }
    if known.family == "mobilevit":
        if "final.conv.weight" in shape:
            found["head_width"] = shape["final.conv.weight"][0]
        found["heads"] = int(config.get("num_attention_heads", 4))
    found["output_stride"] = int(config.get("output_stride", 32))
    patch = config.get("patch_size", 2)
    side = int(patch[0] if isinstance(patch, list) else patch)
    if side < 1:
        raise ValueError(f"patches of {side}")
    found["patch_sizes"] = (side, side, side)
    variants = [name for name in VARIANTS if name.startswith(f"{known.family}_")]
    keys = ("stem_width", "widths", "token_widths")
    same = (n for n in variants if all(getattr(VARIANTS[n], key) == found[key] for key in keys))
    name = next(same, variants[0])  # widths of one's own are a change to any of the family
    return {"model": name, **asdict(VARIANTS[name]), **found}


def _head_numbers(known: Recognised, config: Mapping[str, Any], stride: int) -> dict[str, Any]:
    """Return the numbers of a head; what no weight tells are those that the authors trained with.

    DeepLabv3's rates are 12, 24 and 36 where it was trained at output stride 8, and 6, 12 and 18 at
    16 (the released configurations).
    """
    tensors = known.head_tensors
    if known.head == "ssdlite":
        outputs = tensors[_HEAD_MARKS["ssdlite"]].shape[0]
        return asdict(SSDLiteConfig(num_classes=outputs // SSDLiteConfig().anchors[0] - BOX))
    usual = (6, 12, 18) if stride == 16 else (12, 24, 36)
    head = DeepLabV3Config(
        num_classes=tensors["head.weight"].shape[0],
        aspp_width=tensors[_HEAD_MARKS["deeplabv3"]].shape[0],
        aspp_rates=tuple(config.get("atrous_rates", usual)),
    )
    return asdict(head)


def _output_stride(known: Recognised, config: Mapping[str, Any]) -> int:
    """Return the stride of the last map: of the configuration, or as the authors trained."""
    if known.head != "deeplabv3":
        return 32
    wide = known.head_tensors[_HEAD_MARKS["deeplabv3"]].shape[0] > DeepLabV3Config().aspp_width
    usual = 8 if wide and known.family == "mobilevit" else 16
    return int(config.get("output_stride", usual))


def _translate(
    tensors: Mapping[str, Tensor], library: str, family: str
) -> Mapping[str, Tensor] | None:
    """Return tensors under our names, if they are of this library and family."""
    named = dict(tensors)
    if library == "cvnets":
        named = {name.removeprefix(ENCODER): tensor for name, tensor in named.items()}
    elif library == "transformers" and "conv_stem.convolution.weight" in named:  # a bare backbone
        named = {f"{family}.{name}": tensor for name, tensor in named.items()}
    ours: Mapping[str, Tensor] = named
    marks = _LANDMARKS
    if library != OURS:
        adapter = ADAPTERS[library, family]
        try:
            ours = adapter.to_ours(named)
        except (KeyError, RuntimeError):  # what we fuse is not whole, or does not go together
            return None
        marks = tuple(adapter.to_theirs(dict.fromkeys(marks, torch.empty(0))))
    if not all(name in ours for name in _LANDMARKS) or not all(mark in named for mark in marks):
        return None
    depthwise = ours["stages.2.1.local.conv.weight"].shape[1:2] == (1,)
    return ours if depthwise == (family == "mobilevitv2") else None


def _layers(shape: Mapping[str, Any], prefix: str) -> int:
    return len({name.split(".")[4] for name in shape if name.startswith(f"{prefix}.")})


def _ratio(shape: tuple[int, ...]) -> int:
    return round(shape[0] / shape[1])
