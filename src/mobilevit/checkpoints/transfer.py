"""Weights put into a network that may differ from the one they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mobilevit.errors import UserError
from mobilevit.networks import DeepLabV3, SSDLite, TimmNetwork

STEM = "stem.conv.weight"
_COUNT = "num_batches_tracked"


@dataclass(frozen=True)
class Transfer:
    """What became of the tensors.

    Attributes:
        loaded: names taken as they are, each with how many numbers it holds.
        adapted: names that were changed on the way, with how.
        new: names that the network keeps as they were made, because nothing was there for them.
        ignored: names of the source that have no place in the network.
    """

    loaded: Mapping[str, int]
    adapted: Mapping[str, str]
    new: tuple[str, ...]
    ignored: tuple[str, ...]

    def then(self, other: Transfer) -> Transfer:
        """Return what became of this transfer's source after a second one, of its result."""
        return Transfer(
            {name: count for name, count in other.loaded.items() if name not in self.new},
            {**self.adapted, **other.adapted},
            tuple(dict.fromkeys((*self.new, *other.new))),
            (*self.ignored, *(name for name in other.ignored if name not in self.new)),
        )


def transfer(
    tensors: Mapping[str, Tensor],
    network: nn.Module,
    source: str,
    new_head: bool = False,
) -> Transfer:
    """Load tensors into a network that is to be trained, in place; see ``match``.

    What stands behind its stages may stay new.
    """
    optional = ("final.", *_classifiers(network))
    if isinstance(network, SSDLite):
        optional = ("extras.", "heads.")
    elif isinstance(network, DeepLabV3):
        optional = ("aspp.", "aux.", "head.")
    chosen, done = match(tensors, network, source, optional, new_head)
    network.load_state_dict(chosen, strict=False)
    return done


def match(
    tensors: Mapping[str, Tensor],
    network: nn.Module,
    source: str,
    optional: tuple[str, ...] = (),
    new_head: bool = False,
) -> tuple[dict[str, Tensor], Transfer]:
    """Find out which tensors go into a network, and how.

    An optional part stays new where it is missing or of another shape. A stem for another number
    of input channels is adapted: its weights are summed for a single channel, so that a grey
    picture gives what it gave as RGB, and repeated and rescaled for any other number.

    Args:
        tensors: a state dict under our names.
        network: one of this package's networks, or one of timm's.
        source: where the tensors come from, for the errors.
        optional: beginnings of the names that may stay new.
        new_head: leave the classifier new though it would fit.

    Returns:
        The tensors to load, as the network wants them, and what becomes of all of them.

    Raises:
        UserError: when a shape does not fit, or a tensor that is not optional is missing.
    """
    own = network.state_dict()
    heads = _classifiers(network)
    chosen: dict[str, Tensor] = {}
    adapted, new = {}, []
    for name, mine in own.items():
        theirs = tensors.get(name)
        free = name.startswith(optional)
        if theirs is None or (new_head and name.startswith(heads)):
            if name.endswith(_COUNT) and name.replace(_COUNT, "running_mean") in tensors:
                continue  # older PyTorch did not count, and nothing reads it
            if not free and not name.endswith(_COUNT):
                raise UserError(f"{source}: it has no '{name}', which the network needs.")
            new.append(name)
        elif theirs.shape == mine.shape:
            chosen[name] = theirs
        elif free:
            new.append(name)
        elif name == STEM and theirs.shape[0] == mine.shape[0]:
            chosen[name] = _for_channels(theirs, mine.shape[1])
            adapted[name] = f"from {theirs.shape[1]} to {mine.shape[1]} input channels"
        else:
            raise UserError(
                f"{source}: '{name}' has the shape {tuple(theirs.shape)}, the network wants "
                f"{tuple(mine.shape)}; it is another architecture."
            )
    loaded = {name: tensor.numel() for name, tensor in chosen.items() if name not in adapted}
    ignored = tuple(name for name in tensors if name not in own)
    return chosen, Transfer(loaded, adapted, tuple(new), ignored)


def _classifiers(network: nn.Module) -> tuple[str, ...]:
    """Return the beginnings of the names of what tells classes apart."""
    if isinstance(network, TimmNetwork):
        return network.classifiers
    if isinstance(network, SSDLite):
        return tuple(f"heads.{i}.predict." for i in range(len(network.heads)))
    return ("head.", "aux.predict.") if isinstance(network, DeepLabV3) else ("head.",)


def _for_channels(weight: Tensor, channels: int) -> Tensor:
    """Make a stem's weight (C, I, 3, 3) take another number of input channels."""
    if channels == 1:
        return weight.sum(1, keepdim=True)
    before = weight.shape[1]
    copies = -(-channels // before)
    return torch.cat([weight] * copies, dim=1)[:, :channels] * (before / channels)
