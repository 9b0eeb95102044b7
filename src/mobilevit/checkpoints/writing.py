"""Networks of ours saved as another library saves them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from mobilevit.checkpoints.adapters import ADAPTERS, HEAD_ADAPTERS
from mobilevit.checkpoints.adapters.cvnets import ENCODER
from mobilevit.checkpoints.configs import BLUE_FIRST, write_configs
from mobilevit.checkpoints.files import (
    Checkpoint,
    build,
    family,
    save_checkpoint,
    write_safetensors,
)
from mobilevit.checkpoints.hub import save_folder
from mobilevit.checkpoints.pretrained import load_pretrained, split_tensors
from mobilevit.checkpoints.recognition import LIBRARIES, OURS
from mobilevit.checkpoints.transfer import STEM
from mobilevit.errors import UserError, unknown
from mobilevit.files import PICKLES, make_folder, making, publishing
from mobilevit.networks import VARIANTS
from mobilevit.networks.timm import PREFIX

_OTHERS = (".onnx", ".h5", ".tflite")
_STRUCTURE = (
    *("stem_width", "widths", "head_width", "token_widths", "expansion", "ffn_expansion"),
    *("heads", "patch_sizes", "output_stride", "skip"),
)
"""Numbers that make a network compute something else, besides ``layers``."""


def save_for(checkpoint: Checkpoint, target: Path, library: str) -> None:
    """Save a network so that a library reads it, whole or not at all, and read it back.

    Args:
        checkpoint: the network.
        target: a new file for the weights alone (``.safetensors``, or a pickle: ``.pt``, ``.pth``,
            ``.bin``, ``.ckpt``), or a new folder for all that the library wants, ``config.json``
            included. Our own format is a ``.safetensors`` file; a folder gets a model card too.
        library: ``"mobilevit"``, ``"timm"``, ``"transformers"`` or ``"cvnets"``.

    Raises:
        UserError: when the library cannot hold the network, there is something at the target
            already, or what was written does not come back as it was.
    """
    if library not in LIBRARIES:
        raise unknown("library", library, LIBRARIES)
    bare = target.suffix in (".safetensors", *PICKLES)
    if target.suffix in _OTHERS or (library == OURS and bare and target.suffix in PICKLES):
        raise UserError(f"{target}: weights of {library} do not end in '{target.suffix}'.")
    if bare and target.exists():
        raise UserError(f"{target}: it exists. Choose another name, or remove it.")
    _check_holds(checkpoint.architecture, library, bare)
    if library != OURS:
        checkpoint = _without_aux(checkpoint)
    if bare:
        make_folder(target.parent)
        with publishing(target) as hidden:  # in a folder of its own: what is beside says nothing
            _save_weights(checkpoint, hidden, library, target)
            _read_back(checkpoint, hidden, library)
    elif library == OURS:
        save_folder(checkpoint, target)
        _read_back(checkpoint, target, library)
    else:
        configs = write_configs(library, checkpoint.architecture, checkpoint.contract)
        ending = ".pt" if library == "cvnets" else ".safetensors"
        with making(target) as folder:
            _save_weights(checkpoint, folder / f"model{ending}", library, target)
            for name, values in configs.items():
                text = json.dumps(values, indent=2, ensure_ascii=False)
                (folder / name).write_text(text, encoding="utf-8")
            _read_back(checkpoint, folder, library)


def _check_holds(architecture: Mapping[str, Any], library: str, bare: bool) -> None:
    """Refuse a network that a library has no way to describe.

    Raises:
        UserError: naming the number that it does not know.
    """
    if library == OURS:
        return
    name, head = architecture["model"], architecture.get("head")
    if name.startswith(PREFIX):
        raise UserError(
            f"{name}: its tensors have timm's names already, after 'network.'; it is not turned "
            f"into files for {library}."
        )
    if name not in VARIANTS:
        raise UserError(f"{name}: it is torchvision's, and not turned into files for {library}.")
    usual = {**asdict(VARIANTS[name]), "output_stride": 32}
    if head and (library, head["type"]) not in HEAD_ADAPTERS:
        raise UserError(f"{library} has no {head['type']} on {name}.")
    keys = ["layers"]
    if library == "transformers" and not bare and family(architecture) == "mobilevit":
        if len(set(architecture["patch_sizes"])) > 1:
            keys.append("patch_sizes")  # it has one for all stages
    else:
        keys += [key for key in _STRUCTURE if key in architecture]
        if head or (library == "transformers" and not bare):
            keys.remove("output_stride")  # the head's width tells it, or config.json
    for key in keys:
        if _plain(architecture[key]) != _plain(usual[key]):
            raise UserError(
                f"{library} knows {name} with {key} {usual[key]}, this network has "
                f"{architecture[key]}; it cannot be described to it"
                f"{' by a file without config.json' if bare else ''}."
            )


def _without_aux(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint without an auxiliary head, which no evaluation needs."""
    head = checkpoint.architecture.get("head", {})
    if not head.get("aux"):
        return checkpoint
    told = {**checkpoint.architecture, "head": {**head, "aux": False}}
    network = build(told).eval()
    tensors = checkpoint.network.state_dict()
    network.load_state_dict({name: tensors[name] for name in network.state_dict()})
    return replace(checkpoint, network=network, architecture=told)


def _read_back(checkpoint: Checkpoint, path: Path, library: str) -> None:
    """Load what was written, and compare.

    Raises:
        UserError: when it is not the network that it was.
    """
    again = load_pretrained(path, library).checkpoint
    told, asked = _structure(again.architecture), _structure(checkpoint.architecture)
    if wrong := [key for key, value in asked.items() if told.get(key) != value]:
        raise UserError(f"{library}: its {', '.join(wrong)} cannot be described to it.")
    described = path.is_dir() and library != "cvnets"
    for key in ("size", "resize", "interpolation", "class_names") if described else ():
        if getattr(again.contract, key) != getattr(checkpoint.contract, key):
            raise UserError(f"{library}: the contract's {key} cannot be described to it.")
    tensors = again.network.state_dict()
    for name, tensor in checkpoint.network.state_dict().items():
        if name not in tensors or not tensor.equal(tensors[name]):
            raise UserError(f"{library}: '{name}' does not come back as it was.")


def _structure(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers that two networks share if they compute the same."""
    numbers = {key: _plain(architecture.get(key)) for key in (*_STRUCTURE, "layers")}
    head = architecture.get("head", {})
    return numbers | {f"head {k}": _plain(v) for k, v in head.items() if "dropout" not in k}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _save_weights(checkpoint: Checkpoint, path: Path, library: str, target: Path) -> None:
    """Write the weights to a place that is to become the target, or to lie in it."""
    try:
        if library == OURS:
            save_checkpoint(path, replace(checkpoint, training={}, progress={}))
        elif path.suffix in PICKLES:
            torch.save(_tensors(checkpoint, library), path)
        else:
            write_safetensors(path, _tensors(checkpoint, library), {"format": "pt"})
    except (SafetensorError, RuntimeError) as error:  # the latter is PyTorch's, of a full disk
        raise UserError(f"{target}: it cannot be written ({error}).") from error


def _tensors(checkpoint: Checkpoint, library: str) -> dict[str, Tensor]:
    """Return a network's tensors under the names and in the channel order of a library."""
    kind = family(checkpoint.architecture)
    tensors, head = split_tensors(checkpoint)
    if (library, kind) in BLUE_FIRST and tensors[STEM].shape[1] == 3:
        tensors[STEM] = tensors[STEM].flip(1)
    theirs = ADAPTERS[library, kind].to_theirs(tensors)
    if head:
        prefix = ENCODER if library == "cvnets" else ""
        theirs = {f"{prefix}{name}": tensor for name, tensor in theirs.items()}
        adapter = HEAD_ADAPTERS[library, checkpoint.architecture["head"]["type"]]
        theirs |= adapter.to_theirs(head)
    return {name: tensor.contiguous() for name, tensor in theirs.items()}
