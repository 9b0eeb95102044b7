"""Checkpoints: safetensors with the architecture, the contract and the recipe inside.

Layout of a file: the network's tensors under their own names; what training needs to go on, if it
is there, under names that begin with ``training.``; in the header, each as JSON: ``architecture``,
``contract``, ``recipe``, ``metrics``, ``progress`` and ``provenance``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mobilevit.checkpoints.reading import check_tensors, read_safetensors
from mobilevit.deployment.contract import Contract
from mobilevit.errors import UserError
from mobilevit.files import find_model, replacing
from mobilevit.networks import Backbone, create_model

FORMAT = "mobilevit-1"
TRAINING = "training."


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        network: the network, in evaluation mode; RGB in [0, 1] (B, 3, H, W) to its outputs.
        contract: how to feed and read it.
        architecture: what ``create_model`` made it from, ``{"model": name, **numbers}``.
        recipe: the recipe it was trained with, as nested plain Python.
        metrics: what it reached, for example ``{"top1": 0.63}``.
        progress: where training stood, empty in a file that cannot be resumed.
        training: tensors of the training state, without their prefix.
        provenance: where its weights came from, if not from training here alone: ``source``,
            ``library``, ``channel_order``, ``rule``, ``sha256``.
    """

    network: Backbone
    contract: Contract
    architecture: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Tensor] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


def architecture(name: str, network: Backbone) -> dict[str, Any]:
    """Return what ``create_model`` needs to make an equal network."""
    return {"model": name, **asdict(network.config), "num_classes": network.num_classes}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all: beside its place, then renamed."""
    tensors = {k: v.contiguous() for k, v in checkpoint.network.state_dict().items()}
    for name, tensor in checkpoint.training.items():  # they may be the network's own, copied here
        tensors[TRAINING + name] = tensor.clone(memory_format=torch.contiguous_format)
    header = {
        "format": FORMAT,
        "architecture": json.dumps(checkpoint.architecture),
        "contract": checkpoint.contract.to_json(),
        "recipe": json.dumps(checkpoint.recipe),
        "metrics": json.dumps(checkpoint.metrics),
        "progress": json.dumps(checkpoint.progress),
        "provenance": json.dumps(checkpoint.provenance),
    }
    with replacing(path) as beside:
        beside.touch()
        mode = beside.stat().st_mode
        save_file(tensors, beside, header)
        beside.chmod(mode)  # safetensors lets nobody but the owner read


def is_checkpoint(path: Path) -> bool:
    """Tell whether a file is a checkpoint of this package."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def load_checkpoint(path: str | Path, training: bool = False) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: a ``.safetensors`` file, or a run folder (then its ``best.safetensors``).
        training: read the training state too.

    Raises:
        UserError: when the file is missing, damaged, of another origin or does not fit its own
            description.
    """
    path = find_model(path)
    tensors, header = read_safetensors(path, skip="" if training else TRAINING)
    if header.get("format") != FORMAT:
        raise UserError(f"{path}: it is a safetensors file, but no checkpoint of this package.")
    try:
        made_from = json.loads(header["architecture"])
        recipe, metrics, progress, provenance = (
            json.loads(header.get(key, "{}"))
            for key in ("recipe", "metrics", "progress", "provenance")
        )
        if not all(isinstance(told, dict) for told in (recipe, metrics, progress, provenance)):
            raise TypeError("its header is no set of descriptions")
        numbers = _numbers(made_from, len(tensors))
        with torch.device("meta"):  # whatever sizes it claims, they take no memory until they fit
            network = create_model(made_from["model"], **numbers)
        weights = {k: v for k, v in tensors.items() if not k.startswith(TRAINING)}
        network.load_state_dict(check_tensors(path, weights), assign=True)
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
    ) as error:
        reason = f"{error} "[:300].strip()
        raise UserError(f"{path}: its weights do not fit its description ({reason}).") from error
    contract = Contract.from_json(header.get("contract", "{}"), str(path))
    if len(contract.class_names) != made_from["num_classes"]:
        raise UserError(
            f"{path}: it has {made_from['num_classes']} outputs, and names for "
            f"{len(contract.class_names)}."
        )
    return Checkpoint(
        network.eval(),
        contract,
        made_from,
        recipe,
        metrics,
        progress,
        {k.removeprefix(TRAINING): v for k, v in tensors.items() if k.startswith(TRAINING)},
        provenance,
    )


def _numbers(made_from: Mapping[str, Any], tensors: int) -> dict[str, Any]:
    """Return the numbers of an architecture, if they are those of a file of so many tensors."""
    for key in ("layers", "patch_sizes"):
        if min(made_from[key]) < 1 or max(made_from[key]) > tensors:
            raise ValueError(f"{key} {made_from[key]}")
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in made_from.items()
        if key != "model"
    }
