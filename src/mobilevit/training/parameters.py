"""Which parameters are trained, and how fast each of them."""

from __future__ import annotations

from typing import Any

from torch import nn

from mobilevit.errors import UserError
from mobilevit.networks import (
    Backbone,
    DeepLabV3,
    FeatureExtractor,
    SSDLite,
    TimmNetwork,
    TorchvisionLRASPP,
    TorchvisionSSDLite,
)
from mobilevit.training.recipe import OptimizerConfig


def blocks(network: nn.Module) -> list[nn.Module]:
    """Return what stands before the classifier, in order: stem, the stages' blocks, final.

    Of a detector or a segmenter these are its backbone's; all that stands behind them counts as
    classifier. What has no parameters is no block. Where the blocks of a network of timm or
    torchvision begin is not known here, so all that stands before its classifier is a single one.
    """
    if isinstance(network, (DeepLabV3, SSDLite, TorchvisionLRASPP, TorchvisionSSDLite)):
        backbone = network.backbone
        if not isinstance(backbone, FeatureExtractor):
            return [backbone]
        return _filled(backbone.stem, backbone.stages)
    if isinstance(network, TimmNetwork):
        inner, head = network.network, set(network.get_classifier().modules())
        parts = [part for part in inner.children() if part not in head]
        return [nn.ModuleList([*parts, nn.ParameterList(inner.parameters(recurse=False))])]
    assert isinstance(network, Backbone)
    return _filled(network.stem, network.stages, network.final)


def _filled(stem: nn.Module, stages: nn.ModuleList, *others: nn.Module) -> list[nn.Module]:
    known = (stem, *(block for stage in stages for block in stage.children()), *others)
    return [block for block in known if next(block.parameters(), None) is not None]


def freeze(network: nn.Module, count: int) -> nn.ModuleList:
    """Let the first blocks of a network need no gradient, and return them.

    To freeze their batch-norm statistics and dropout as well, put them back into evaluation mode
    after every ``network.train()``.

    Raises:
        UserError: when the network has fewer blocks than ``count``.
    """
    known = blocks(network)
    if count > len(known):
        raise UserError(
            f"freeze is {count}, but the network has {len(known)} blocks before its classifier, "
            f"which is never frozen: give at most {len(known)}."
        )
    return nn.ModuleList(known[:count]).requires_grad_(False)


def parameter_groups(network: nn.Module, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
    """Return the groups of the optimiser: trained parameters of one decay and one learning rate.

    Each group has an ``lr_scale``, which its learning rate is multiplied with: ``head_lr`` for
    what is in no block, ``layer_lr`` to the number of blocks that follow for what is in one.
    Where norms and biases are not decayed, these are the one-dimensional parameters. What timm
    says of a network of its own is not decayed either, for example positions.
    """
    known = blocks(network)
    spared = network.no_weight_decay if isinstance(network, TimmNetwork) else frozenset()
    scales = {
        parameter: optimizer.layer_lr ** (len(known) - index)
        for index, block in enumerate(known, start=1)
        for parameter in block.parameters()
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decayed = name not in spared and (parameter.ndim > 1 or optimizer.decay_norms)
            decay = optimizer.weight_decay if decayed else 0.0
            scale = scales.get(parameter, float(optimizer.head_lr))
            groups.setdefault((decay, scale), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (decay, scale), parameters in groups.items()
    ]
