"""Networks of ours saved as another library saves them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mobilevit.checkpoints.adapters import ADAPTERS
from mobilevit.checkpoints.configs import BLUE_FIRST, write_configs
from mobilevit.checkpoints.files import Checkpoint, save_checkpoint
from mobilevit.checkpoints.hub import save_folder
from mobilevit.checkpoints.recognition import LIBRARIES, OURS
from mobilevit.checkpoints.transfer import STEM
from mobilevit.errors import UserError, unknown
from mobilevit.files import PICKLES, making, replacing


def save_for(checkpoint: Checkpoint, target: Path, library: str) -> Path:
    """Save a network so that a library reads it, whole or not at all.

    Args:
        checkpoint: the network.
        target: a file for the weights alone (``.safetensors``, or a pickle: ``.pt``, ``.pth``,
            ``.bin``), or a new folder for all that the library wants, ``config.json`` included.
            Our own format is a ``.safetensors`` file; a folder gets a model card too.
        library: ``"mobilevit"``, ``"timm"``, ``"transformers"`` or ``"cvnets"``.

    Returns:
        The target.

    Raises:
        UserError: when the library cannot hold the network, the target's ending is unknown, or
            there is something in the folder already.
    """
    if library not in LIBRARIES:
        raise unknown("library", library, LIBRARIES)
    if target.suffix and target.suffix not in (".safetensors", *PICKLES):
        raise UserError(
            f"{target}: weights end in .safetensors or {', '.join(PICKLES)}, not in "
            f"'{target.suffix}'; a name without an ending makes a folder."
        )
    if target.suffix:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as beside:
            _save_weights(checkpoint, beside, library, target.suffix)
    elif library == OURS:
        save_folder(checkpoint, target)
    else:
        configs = write_configs(library, checkpoint.architecture, checkpoint.contract)
        ending = ".pt" if library == "cvnets" else ".safetensors"
        with making(target) as folder:
            _save_weights(checkpoint, folder / f"model{ending}", library, ending)
            for name, values in configs.items():
                text = json.dumps(values, indent=2, ensure_ascii=False)
                (folder / name).write_text(text, encoding="utf-8")
    return target


def _save_weights(checkpoint: Checkpoint, path: Path, library: str, ending: str) -> None:
    if library == OURS:
        if ending in PICKLES:
            raise UserError(f"{ending}: our own checkpoints end in .safetensors.")
        save_checkpoint(path, replace(checkpoint, training={}, progress={}))
    elif ending in PICKLES:
        torch.save(_tensors(checkpoint, library), path)
    else:
        save_file(_tensors(checkpoint, library), path, {"format": "pt"})


def _tensors(checkpoint: Checkpoint, library: str) -> dict[str, Tensor]:
    """Return a network's tensors under the names and in the channel order of a library."""
    family = checkpoint.architecture["model"].partition("_")[0]
    tensors = dict(checkpoint.network.state_dict())
    if (library, family) in BLUE_FIRST and tensors[STEM].shape[1] == 3:
        tensors[STEM] = tensors[STEM].flip(1)
    layers = tuple(checkpoint.architecture["layers"])
    if library == "cvnets" and layers != (2, 4, 3):  # its names count them
        raise UserError(f"cvnets has no names for a network of {layers} layers, only (2, 4, 3).")
    theirs = ADAPTERS[library, family].to_theirs(tensors)
    return {name: tensor.contiguous() for name, tensor in theirs.items()}
