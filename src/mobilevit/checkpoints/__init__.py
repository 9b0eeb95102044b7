"""Saving and loading networks, and the names other libraries give their weights."""

from mobilevit.checkpoints.adapters import TIMM, TRANSFORMERS, Adapter
from mobilevit.checkpoints.files import (
    Checkpoint,
    architecture,
    load_checkpoint,
    save_checkpoint,
)

__all__ = [
    "TIMM",
    "TRANSFORMERS",
    "Adapter",
    "Checkpoint",
    "architecture",
    "load_checkpoint",
    "save_checkpoint",
]
