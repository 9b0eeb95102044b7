"""Networks of the other libraries with random weights, saved by their own code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

CLASSES = ("cat", "dog", "a fish")


@dataclass(frozen=True)
class Saved:
    """A folder that a library wrote, and what its network says of pictures in RGB."""

    folder: Path
    run: Callable[[Tensor], Tensor]


@torch.no_grad()
def enliven(network: nn.Module) -> nn.Module:
    """Fill in weights and statistics that keep signals of order 1, so that a comparison says much.

    Random networks as they are made give almost the same for every picture.
    """
    torch.manual_seed(3)
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.random_(1, 100)
        elif name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            tensor.uniform_(0.6, 1.4)
        elif tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
        else:
            tensor.normal_(0, 0.1)
    return network.eval()


@torch.no_grad()
def stir_norms(network: nn.Module) -> None:
    """Make batch-norms do something: as they are made, in evaluation they do nothing."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)


def timm_saved(folder: Path, name: str, **arguments: Any) -> Saved:
    timm = pytest.importorskip("timm")
    network = enliven(timm.create_model(name, num_classes=len(CLASSES), **arguments))
    config = {"label_names": list(CLASSES)}
    timm.models.save_for_hf(network, folder, model_config=config, safe_serialization=True)
    return Saved(folder, network)


def transformers_network(name: str, kind: str = "ForImageClassification", **numbers: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(CLASSES)),
        "label2id": {label: i for i, label in enumerate(CLASSES)},
    }
    torch.manual_seed(4)
    if name.startswith("mobilevitv2"):
        width = int(name[-3:]) / 100
        config = transformers.MobileViTV2Config(width_multiplier=width, **labels, **numbers)
        return enliven(getattr(transformers, f"MobileViTV2{kind}")(config))
    config = transformers.MobileViTConfig(
        hidden_sizes=[64, 80, 96],
        neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320],
        expand_ratio=2.0,
        **labels,
        **numbers,
    )
    return enliven(getattr(transformers, f"MobileViT{kind}")(config))


def transformers_saved(folder: Path, name: str, flips: bool = True) -> Saved:
    network = transformers_network(name)
    network.save_pretrained(folder)
    processor = pytest.importorskip("transformers").MobileViTImageProcessor(
        size={"shortest_edge": 288}, resample=2, do_flip_channel_order=flips
    )
    processor.save_pretrained(folder)
    blue_first = flips and name == "mobilevit_xxs"
    return Saved(folder, lambda x: network(x.flip(1) if blue_first else x).logits)


SAVERS = {"timm": timm_saved, "transformers": transformers_saved}
