"""Saving and loading networks: our own checkpoints, those of other libraries, and the hub."""

from mobilevit.checkpoints.adapters import ADAPTERS, Adapter
from mobilevit.checkpoints.files import (
    Checkpoint,
    architecture,
    load_checkpoint,
    save_checkpoint,
)
from mobilevit.checkpoints.hub import push_to_hub, save_pretrained
from mobilevit.checkpoints.pretrained import Pretrained, create_model, load_pretrained

__all__ = [
    "ADAPTERS",
    "Adapter",
    "Checkpoint",
    "Pretrained",
    "architecture",
    "create_model",
    "load_checkpoint",
    "load_pretrained",
    "push_to_hub",
    "save_checkpoint",
    "save_pretrained",
]
