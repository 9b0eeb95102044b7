"""Networks of timm behind this package's interface, to be trained and measured beside our own.

Nothing of them is written again: timm makes the network, this module feeds it RGB in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mobilevit.errors import UserError, nearest, require

if TYPE_CHECKING:
    from types import ModuleType

PREFIX = "timm:"
"""What the names of timm's networks begin with here, as in ``timm:mobilenetv3_small_100``."""
_RESERVED = (
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict"),
    *("checkpoint_path", "cache_dir", "scriptable", "exportable", "features_only", "in_chans"),
)
_REFUSALS = (
    *(TypeError, ValueError, AssertionError, RuntimeError, ArithmeticError),
    *(LookupError, AttributeError),
)


class TimmNetwork(nn.Module):
    """A network of timm with a classifier: (B, 3, H, W) RGB in [0, 1] to (B, num_classes) logits.

    Args:
        name: one of timm's, without ``PREFIX``; it starts with random weights.
        num_classes: outputs of the classifier.
        img_size: side of the pictures, in pixels, for networks that must know it. Those like ViT
            then take other sizes too, by resampling their positions; some take no other.
        head_dropout: rate before the classifier, timm's ``drop_rate``.
        **numbers: numbers and switches of timm's own for this network, for example ``embed_dim``.

    Attributes:
        numbers: what makes an equal network, by name.
        num_features: channels before the classifier.
        classifiers: what the names of the classifier's tensors begin with.

    Raises:
        MissingExtraError: when timm is not installed.
        UserError: for an unknown name, or numbers that this network of timm does not take.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        img_size: int | None = None,
        head_dropout: float = 0.0,
        **numbers: Any,
    ) -> None:
        super().__init__()
        timm = _known(name)
        _plain(name, numbers)
        self.numbers = {
            "num_classes": num_classes,
            "img_size": img_size,
            "head_dropout": head_dropout,
            **numbers,
        }
        given = {"num_classes": num_classes, "drop_rate": head_dropout, **numbers}
        told = timm.get_pretrained_cfg(name)
        sized = {}
        if told is not None and told.fixed_input_size and img_size:
            sized = {"img_size": img_size, "dynamic_img_size": True}
        try:
            self.network = _make(timm, name, given, sized)
        except _REFUSALS as error:
            raise _refused(name, self.numbers, error) from error
        heads = self.network.pretrained_cfg.get("classifier")
        if heads is None:
            raise UserError(f"{PREFIX}{name} has no classifier, so it cannot tell classes apart.")
        heads = (heads,) if isinstance(heads, str) else heads
        self.classifiers = tuple(f"network.{head}." for head in heads)
        self.num_classes = num_classes
        self.num_features: int = self.network.num_features
        _register_statistics(self, self.network.pretrained_cfg)

    mean: Tensor
    std: Tensor

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the features before pooling, in the shape that timm gives them."""
        features: Tensor = self.network.forward_features((x - self.mean) / self.std)
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool the features and classify them, or only pool them."""
        outputs: Tensor = self.network.forward_head(x, pre_logits=pre_logits)
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new, untrained classifier in."""
        self.num_classes = num_classes
        self.numbers["num_classes"] = num_classes
        self.network.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        """Return the last layer, or layers."""
        head = self.network.get_classifier()
        return head if isinstance(head, nn.Module) else nn.ModuleList(head)

    @property
    def no_weight_decay(self) -> frozenset[str]:
        """Names of the parameters that timm would have without weight decay."""
        told: set[str] = getattr(self.network, "no_weight_decay", set)()
        return frozenset(f"network.{name}" for name in told)

    def fold_norms(self) -> None:
        """Fold every batch-norm that alone reads a convolution into it; only for evaluation.

        A network that cannot be traced, because it looks at its input's size, is left as it is.
        """
        _fold_norms(self.network)


class TimmFeatures(nn.Module):
    """A network of timm without its head: (B, 3, H, W) RGB in [0, 1] to its last two maps.

    These are at strides 16 and 32, or both at ``output_stride`` where that is 16 or 8.

    Args:
        name: one of timm's that gives maps (B, C, H, W), without ``PREFIX``; it starts with random
            weights.
        **numbers: numbers and switches of timm's own for this network, for example
            ``output_stride``, if it takes that.

    Attributes:
        numbers: what makes an equal network, by name.
        widths: channels of the maps.

    Raises:
        MissingExtraError: when timm is not installed.
        UserError: for an unknown name, numbers that this network of timm does not take, or a
            network without such maps.
    """

    def __init__(self, name: str, **numbers: Any) -> None:
        super().__init__()
        timm = _known(name)
        _plain(name, numbers)
        self.numbers = dict(numbers)
        try:
            self.network = timm.create_model(name, pretrained=False, features_only=True, **numbers)
        except _REFUSALS as error:
            raise _refused(name, numbers, error) from error
        told = self.network.feature_info
        strides = told.reduction()
        order = str(getattr(self.network, "output_fmt", "NCHW")).removeprefix("Format.")
        last = numbers.get("output_stride", 32)
        wanted = [min(16, last), last]
        if strides[-2:] != wanted or order != "NCHW":
            raise UserError(
                f"{PREFIX}{name}: a head needs maps (B, C, H, W), the last two at strides "
                f"{wanted[0]} and {wanted[1]}; its are {order} at "
                f"{', '.join(map(str, strides))}. Take a convolutional network."
            )
        self.widths: tuple[int, ...] = tuple(told.channels()[-2:])
        _register_statistics(self, self.network.pretrained_cfg)

    mean: Tensor
    std: Tensor

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.network((x - self.mean) / self.std)
        return maps[-2:]

    def fold_norms(self) -> None:
        """Do what ``TimmNetwork.fold_norms`` does."""
        _fold_norms(self.network)


def _fold_norms(network: nn.Module) -> None:
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return
    try:
        graph = _Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError, RuntimeError):
        return
    modules = dict(network.named_modules())
    for node in list(graph.nodes):
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        source = node.args[0]
        conv = modules.get(str(source.target)) if source.op == "call_module" else None
        if type(conv) is nn.Conv2d and len(source.users) == 1:
            _replace(network, str(source.target), fuse_conv_bn_eval(conv, norm))
            _replace(network, str(node.target), getattr(norm, "act", nn.Identity()))


class _Tracer(fx.Tracer):
    """Sees timm's batch-norms, which have an activation inside, as one module each."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def check_timm(name: str) -> None:
    """Do nothing.

    Raises:
        MissingExtraError: when timm is not installed.
        UserError: when timm has no network of this name (with ``PREFIX``), with the nearest one.
    """
    _known(name.removeprefix(PREFIX))


def _known(name: str) -> ModuleType:
    timm = require("timm", "timm")
    known = timm.list_models()
    if name not in known:
        raise UserError(
            f"unknown model '{PREFIX}{name}': timm {timm.__version__} has {len(known)} networks, "
            f"none of this name.{nearest(name, known)} Their names come without the part after a "
            "dot, which is that of their weights."
        )
    return timm


def _make(timm: ModuleType, name: str, given: dict[str, Any], sized: dict[str, Any]) -> Any:
    """Make a network; of one that cannot take several sizes, make it for its one."""
    try:
        return timm.create_model(name, pretrained=False, **given, **sized)
    except TypeError as error:
        if "dynamic_img_size" not in str(error):
            raise
    return timm.create_model(name, pretrained=False, **given, img_size=sized["img_size"])


def _refused(name: str, numbers: Mapping[str, Any], error: Exception) -> UserError:
    given = ", ".join(f"{key}={value}" for key, value in numbers.items()) or "its own numbers"
    return UserError(f"{PREFIX}{name}: timm cannot make it with {given} ({error}).")


def _register_statistics(module: nn.Module, config: Mapping[str, Any]) -> None:
    """Register the ``mean`` and ``std`` (1, 3, 1, 1) that a network of timm is fed with."""
    for key in ("mean", "std"):
        value = torch.tensor(config[key]).reshape(1, 3, 1, 1)
        module.register_buffer(key, value, persistent=False)


def _plain(name: str, numbers: Mapping[str, Any]) -> None:
    """Refuse what would make timm read files or fetch weights: a checkpoint may hold such words."""
    for key, value in numbers.items():
        values = value if isinstance(value, tuple) else (value,)
        if key in _RESERVED or not all(isinstance(v, (int, float)) for v in values):
            raise UserError(
                f"{PREFIX}{name}: {key}={value!r} cannot be given; numbers and switches can."
            )


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
