"""Checkpoints: safetensors with the architecture, the contract and the recipe inside.

Layout of a file: the network's tensors under their own names; what training needs to go on, if it
is there, under names that begin with ``training.``; in the header, each as JSON: ``architecture``,
``contract``, ``recipe``, ``metrics``, ``progress`` and ``provenance``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mobilevit.checkpoints.reading import check_tensors, read_safetensors
from mobilevit.deployment.contract import Contract
from mobilevit.errors import UserError
from mobilevit.files import BEST, find_model, make_folder, replacing
from mobilevit.networks import (
    VARIANTS,
    Backbone,
    DeepLabV3,
    DeepLabV3Config,
    SSDLite,
    SSDLiteConfig,
    TimmFeatures,
    TimmNetwork,
    TorchvisionLRASPP,
    TorchvisionSSDLite,
    create_model,
)
from mobilevit.networks.timm import PREFIX
from mobilevit.networks.torchvision_lraspp import NAME as TORCHVISION_LRASPP
from mobilevit.networks.torchvision_ssdlite import NAME as TORCHVISION_SSDLITE

FORMAT = "mobilevit-1"
TRAINING = "training."
HEADS: dict[str, tuple[type[Any], type[Any]]] = {
    "deeplabv3": (DeepLabV3, DeepLabV3Config),
    "ssdlite": (SSDLite, SSDLiteConfig),
}
"""What stands on a backbone, by name: network and configuration."""
_WHOLE: dict[str, tuple[type[Any], str]] = {
    TORCHVISION_LRASPP: (TorchvisionLRASPP, "deeplabv3"),
    TORCHVISION_SSDLITE: (TorchvisionSSDLite, "ssdlite"),
}
"""Networks of torchvision, by name: the class, and the head in whose stead it is trained."""
_WIDTHS = ("num_classes", "img_size", "embed_dim")
"""Numbers of timm's networks that make them wide; any other one may make them deep."""
_WIDEST = 4096
"""Width that a tensor's side is proof of; what is deeper takes minutes to make."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        network: a backbone, or a head on one (``HEADS``), in evaluation mode; RGB in [0, 1]
            (B, 3, H, W) to its outputs.
        contract: how to feed and read it.
        architecture: what ``build`` makes it from: ``{"model": name, **numbers}``, and for a head
            on a backbone ``"head": {"type": name, **numbers}``.
        recipe: the recipe it was trained with, as nested plain Python.
        metrics: what it reached, for example ``{"top1": 0.63}``.
        progress: where training stood, empty in a file that cannot be resumed.
        training: tensors of the training state, without their prefix.
        provenance: where its weights came from, if not from training here alone: ``source``,
            ``library``, ``channel_order``, ``rule``, ``sha256``.
    """

    network: nn.Module
    contract: Contract
    architecture: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Tensor] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


def architecture(name: str, network: nn.Module) -> dict[str, Any]:
    """Return what ``build`` needs to make an equal network.

    Args:
        name: of the backbone, one of ``list_models()``.
        network: the backbone, or a head on it.
    """
    if isinstance(network, TimmNetwork):
        return {"model": name, **network.numbers}
    if isinstance(network, (TorchvisionLRASPP, TorchvisionSSDLite)):
        return {"model": name, "head": {"type": _WHOLE[name][1], **network.numbers}}
    if isinstance(network, Backbone):
        numbers = asdict(network.config)
        return {"model": name, **numbers, "num_classes": network.num_classes}
    for kind, (head, _) in HEADS.items():
        if isinstance(network, head):
            backbone = network.backbone
            numbers = (
                backbone.numbers
                if isinstance(backbone, TimmFeatures)
                else asdict(replace(backbone.config, num_classes=0))
            )
            return {"model": name, **numbers, "head": {"type": kind, **asdict(network.config)}}
    raise TypeError(f"{type(network).__name__} is no network of this package")


def build(told: Mapping[str, Any]) -> nn.Module:
    """Make the network that an architecture tells, with random weights.

    Raises:
        KeyError, TypeError, ValueError, UserError: when it tells no network.
    """
    model, numbers = told["model"], _numbers(told, "model", "head")
    if model in _WHOLE:
        whole, instead = _WHOLE[model]
        if told.get("head", {}).get("type") != instead:
            raise UserError(f"{model} is trained with --head {instead}, and with nothing else.")
        made: nn.Module = whole(told["head"]["num_classes"])
        return made
    timm = model.removeprefix(PREFIX) if model.startswith(PREFIX) else ""
    if "head" not in told:
        return TimmNetwork(timm, **numbers) if timm else create_model(model, **numbers)
    head, config = HEADS[told["head"]["type"]]
    backbone = TimmFeatures(timm, **numbers) if timm else create_model(model, **numbers)
    network: nn.Module = head(backbone, config(**_numbers(told["head"], "type")))
    return network


def title(told: Mapping[str, Any]) -> str:
    """Return how people call a network: ``mobilevit_s``, or ``deeplabv3 on mobilevit_s``."""
    model: str = told["model"]
    return model if "head" not in told or model in _WHOLE else f"{told['head']['type']} on {model}"


def family(told: Mapping[str, Any]) -> str:
    """Return ``"mobilevit"`` or ``"mobilevitv2"``."""
    model: str = told["model"]
    return model.partition("_")[0]


def outputs(told: Mapping[str, Any]) -> int:
    """Return how many classes a network tells apart; the background of SSD is none of them."""
    if "head" not in told:
        return int(told["num_classes"])
    background = told["head"]["type"] == "ssdlite"
    return int(told["head"]["num_classes"]) - int(background)


def save_checkpoint(path: str | Path, checkpoint: Checkpoint, half: bool = False) -> None:
    """Write a checkpoint whole or not at all: beside its place, then renamed.

    Args:
        path: the file; its folder is made where there is none.
        checkpoint: what to write.
        half: round the weights to float16, which makes the file half as large. The statistics of
            batch-norm stay as they are, for they have the range of the data. ``load_checkpoint``
            gives float32 again.

    Raises:
        UserError: when a weight is too large for float16, the path is a folder, or the file cannot
            be written.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: it is a folder. Name a file: {path / BEST}")
    make_folder(path.parent)
    tensors = {k: v.contiguous() for k, v in checkpoint.network.state_dict().items()}
    if half:
        for name, weight in checkpoint.network.named_parameters():
            tensors[name] = _halved(weight.detach().contiguous(), f"{path}: '{name}'")
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
        try:
            write_safetensors(beside, tensors, header)
        except SafetensorError as error:
            raise UserError(f"{path}: it cannot be written ({error}).") from error


def write_safetensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a file of tensors that whoever may read the user's other files can read."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, header)
    path.chmod(mode)  # safetensors lets nobody but the owner read


def _halved(weight: Tensor, what: str) -> Tensor:
    half = weight.half()
    if not half.isfinite().all():
        largest = torch.finfo(torch.float16).max
        raise UserError(
            f"{what} reaches {weight.abs().max():.3g}, and float16 only {largest:g}: it cannot be "
            "saved in half precision."
        )
    return half


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
        if made_from["model"] in VARIANTS:  # a number that is newer than the file has its default
            made_from = {**asdict(VARIANTS[made_from["model"]]), **made_from}
        _check_depth(made_from, tensors)
        with torch.device("meta"):  # whatever sizes it claims, they take no memory until they fit
            network = build(made_from)
        weights = {k: v for k, v in tensors.items() if not k.startswith(TRAINING)}
        network.load_state_dict(check_tensors(path, weights), assign=True)
        if any(buffer.is_meta for buffer in network.buffers()):  # one that is not saved
            network = build(made_from)
            network.load_state_dict(weights)
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
    if len(contract.class_names) != outputs(made_from):
        raise UserError(
            f"{path}: it has {outputs(made_from)} classes, and names for "
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


def _check_depth(told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse what would take long to make and cannot be what a file of these tensors holds."""
    timm = told["model"].startswith(PREFIX)
    sides = {side for tensor in tensors.values() if tensor.numel() for side in tensor.shape}
    widths = {side for side in sides if side <= _WIDEST} if timm else set()
    for key, values in told.items():
        counted = key not in _WIDTHS if timm else key in ("layers", "patch_sizes")
        for value in values if isinstance(values, list) else [values]:
            number = counted and isinstance(value, (int, float)) and value not in widths
            if number and not 0 <= value <= len(tensors):
                raise ValueError(f"{key} {values}")


def _numbers(told: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return what is told except for some names, with tuples where JSON has lists."""
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in told.items()
        if key not in names
    }
