"""Whose weights these are, and of which network, told by the tensors' names and shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mobilevit.checkpoints.adapters import ADAPTERS
from mobilevit.checkpoints.adapters.cvnets import ENCODER, HEADS
from mobilevit.checkpoints.configs import CONFIG
from mobilevit.errors import UserError, unknown
from mobilevit.networks import VARIANTS

OURS = "mobilevit"
LIBRARIES = (OURS, "timm", "transformers", "cvnets")
FAMILIES = ("mobilevit", "mobilevitv2")
_OTHERS = (*HEADS, "segmentation_head.")  # the last is transformers'
_LANDMARKS: tuple[str, ...] = (
    "stem.conv.weight",
    "stages.2.0.expand.conv.weight",
    "stages.2.1.local.conv.weight",
    "stages.2.1.transformer.0.norm1.weight",
    "stages.2.1.norm.weight",
)
"""Tensors that every network here has, and no other."""


@dataclass(frozen=True)
class Recognised:
    """Foreign weights under our names.

    Attributes:
        library: whose names they had.
        family: ``"mobilevit"`` or ``"mobilevitv2"``.
        tensors: the state dict, under our names.
        others: names of tensors that belong to no backbone: heads of other tasks.
    """

    library: str
    family: str
    tensors: Mapping[str, Tensor]
    others: tuple[str, ...]


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
                return Recognised(candidate, family, ours, others)
    first = ", ".join(f"'{name}'" for name in list(tensors)[:3])
    whose = f"a MobileViT with the names of {library}" if library else "a MobileViT known here"
    raise UserError(
        f"{source}: these are not the weights of {whose}; its {len(tensors)} tensors begin with "
        f"{first}. Known are the names of {', '.join(LIBRARIES)}."
    )


def architecture_of(known: Recognised, configs: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return what ``create_model`` needs to make the network that tensors are of.

    Args:
        known: the tensors.
        configs: of ``read_configs``; transformers' tells what no shape does.
        source: where it comes from, for the errors.

    Raises:
        UserError: when the shapes are those of no network.
    """
    family, config = known.family, {}
    if known.library == "transformers":
        config = configs.get(CONFIG, {})
    try:
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
        if family == "mobilevit":
            if "final.conv.weight" in shape:
                found["head_width"] = shape["final.conv.weight"][0]
            found["heads"] = int(config.get("num_attention_heads", 4))
        patch = config.get("patch_size", 2)
        side = int(patch[0] if isinstance(patch, list) else patch)
        if side < 1:
            raise ValueError(f"patches of {side}")
        found["patch_sizes"] = (side, side, side)
    except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"{source}: it is no whole MobileViT backbone ({error!r}).") from error
    variants = [name for name in VARIANTS if name.startswith(f"{family}_")]
    keys = ("stem_width", "widths", "token_widths")
    same = (n for n in variants if all(getattr(VARIANTS[n], key) == found[key] for key in keys))
    name = next(same, variants[0])  # widths of one's own are a change to any of the family
    return {"model": name, **asdict(VARIANTS[name]), **found}


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
