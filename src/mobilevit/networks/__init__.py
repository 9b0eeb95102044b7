"""The networks, and the functions that make one by its name."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Literal, overload

from mobilevit.errors import UserError, unknown
from mobilevit.networks import mobilevit, mobilevitv2
from mobilevit.networks.backbone import Backbone, BackboneConfig, FeatureExtractor
from mobilevit.networks.deeplabv3 import DeepLabV3, DeepLabV3Config
from mobilevit.networks.mobilevit import MobileViT, MobileViTConfig
from mobilevit.networks.mobilevitv2 import MobileViTV2, MobileViTV2Config
from mobilevit.networks.ssdlite import SSDLite, SSDLiteConfig
from mobilevit.networks.timm import PREFIX, TimmFeatures, TimmNetwork, check_timm
from mobilevit.networks.torchvision_lraspp import NAME as TORCHVISION_LRASPP
from mobilevit.networks.torchvision_lraspp import TorchvisionLRASPP
from mobilevit.networks.torchvision_ssdlite import NAME as TORCHVISION_SSDLITE
from mobilevit.networks.torchvision_ssdlite import TorchvisionSSDLite

__all__ = [
    "VARIANTS",
    "Backbone",
    "BackboneConfig",
    "DeepLabV3",
    "DeepLabV3Config",
    "FeatureExtractor",
    "MobileViT",
    "MobileViTConfig",
    "MobileViTV2",
    "MobileViTV2Config",
    "SSDLite",
    "SSDLiteConfig",
    "TimmFeatures",
    "TimmNetwork",
    "TorchvisionLRASPP",
    "TorchvisionSSDLite",
    "check_model",
    "create_model",
    "list_models",
]

VARIANTS: dict[str, MobileViTConfig | MobileViTV2Config] = {
    **mobilevit.VARIANTS,
    **mobilevitv2.VARIANTS,
}


@overload
def create_model(
    name: str,
    *,
    num_classes: int = ...,
    in_chans: int = ...,
    features_only: Literal[False] = ...,
    **numbers: Any,
) -> Backbone: ...
@overload
def create_model(
    name: str,
    *,
    num_classes: int = ...,
    in_chans: int = ...,
    features_only: Literal[True],
    out_indices: Sequence[int] = ...,
    **numbers: Any,
) -> FeatureExtractor: ...
def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    features_only: bool = False,
    out_indices: Sequence[int] = (0, 1, 2, 3, 4),
    **numbers: Any,
) -> Backbone | FeatureExtractor:
    """Make a network with random weights.

    Args:
        name: one of ``list_models()``.
        num_classes: outputs of the classifier; 0 for none.
        in_chans: channels of the input.
        features_only: return the stages' feature maps instead of logits.
        out_indices: which stages, with ``features_only``.
        **numbers: any other field of the network's config, ``MobileViTConfig`` or
            ``MobileViTV2Config``, for example ``patch_sizes=(8, 4, 2)``.

    Raises:
        UserError: for an unknown name or number, with the nearest right one.
        TypeError, ValueError, ArithmeticError, RuntimeError: for numbers that make no network.
    """
    if name not in VARIANTS:
        raise unknown("model", name, VARIANTS)
    variant = VARIANTS[name]
    known = [field.name for field in fields(variant)]
    for number in numbers:
        if number not in known:
            raise unknown(f"number of {name}", number, known)
    config = replace(variant, num_classes=num_classes, in_chans=in_chans, **numbers)
    network: Backbone = (
        MobileViT(config) if isinstance(config, MobileViTConfig) else MobileViTV2(config)
    )
    return FeatureExtractor(network, out_indices) if features_only else network


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that ``create_model`` knows, those that match a shell pattern."""
    return sorted(fnmatch.filter(VARIANTS, pattern))


def check_model(name: str) -> None:
    """Do nothing if a network has this name: of ``list_models()``, of timm or of torchvision.

    Raises:
        MissingExtraError: for one of timm's, when timm is not installed.
        UserError: for an unknown name, with the nearest right one.
    """
    if name.startswith(PREFIX):
        check_timm(name)
    elif name not in (*VARIANTS, TORCHVISION_SSDLITE, TORCHVISION_LRASPP):
        known = unknown("model", name, VARIANTS)
        others = f"{TORCHVISION_SSDLITE} or {TORCHVISION_LRASPP}"
        raise UserError(f"{known} Or one of timm's: {PREFIX}NAME. Or {others}.")
