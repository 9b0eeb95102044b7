"""Weights put into a network that may differ from the one they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mobilevit.errors import UserError

STEM = "stem.conv.weight"
OPTIONAL = ("head.", "final.")
"""Parts that a source may lack: a classifier, and what a backbone for other tasks goes without."""


@dataclass(frozen=True)
class Transfer:
    """What became of the tensors.

    Attributes:
        loaded: names taken as they are.
        adapted: names that were changed on the way, with how.
        new: names that the network keeps as they were made, because nothing was there for them.
        ignored: names of the source that have no place in the network.
    """

    loaded: tuple[str, ...]
    adapted: Mapping[str, str]
    new: tuple[str, ...]
    ignored: tuple[str, ...]

    def then(self, other: Transfer) -> Transfer:
        """Return what became of this transfer's source after a second one, of its result."""
        return Transfer(
            tuple(name for name in other.loaded if name not in self.new),
            {**self.adapted, **other.adapted},
            tuple(dict.fromkeys((*self.new, *other.new))),
            (*self.ignored, *(name for name in other.ignored if name not in self.new)),
        )


def transfer(
    tensors: Mapping[str, Tensor], network: nn.Module, source: str, new_head: bool = False
) -> Transfer:
    """Load tensors into a network, in place; see ``match``."""
    chosen, done = match(tensors, network, source, new_head)
    network.load_state_dict(network.state_dict() | chosen)
    return done


def match(
    tensors: Mapping[str, Tensor], network: nn.Module, source: str, new_head: bool = False
) -> tuple[dict[str, Tensor], Transfer]:
    """Find out which tensors go into a network, and how.

    The classifier stays new where its shape differs, and a stem for another number of input
    channels is adapted: its weights are summed for a single channel, so that a grey picture gives
    what it gave as RGB, and repeated and rescaled for any other number.

    Args:
        tensors: a state dict under our names.
        network: one of this package's networks.
        source: where the tensors come from, for the errors.
        new_head: leave the classifier new though it would fit.

    Returns:
        The tensors to load, as the network wants them, and what becomes of all of them.

    Raises:
        UserError: when a shape does not fit, or a tensor of the backbone is missing.
    """
    own = network.state_dict()
    chosen: dict[str, Tensor] = {}
    adapted, new = {}, []
    for name, mine in own.items():
        theirs = tensors.get(name)
        head = name.startswith("head.")
        if theirs is None or (head and new_head):
            if not name.startswith(OPTIONAL) and not name.endswith("num_batches_tracked"):
                raise UserError(f"{source}: it has no '{name}', which the network needs.")
            new.append(name)
        elif theirs.shape == mine.shape:
            chosen[name] = theirs
        elif head:
            new.append(name)
        elif name == STEM and theirs.shape[0] == mine.shape[0]:
            chosen[name] = _for_channels(theirs, mine.shape[1])
            adapted[name] = f"from {theirs.shape[1]} to {mine.shape[1]} input channels"
        else:
            raise UserError(
                f"{source}: '{name}' has the shape {tuple(theirs.shape)}, the network wants "
                f"{tuple(mine.shape)}; it is another architecture."
            )
    loaded = tuple(name for name in chosen if name not in adapted)
    ignored = tuple(name for name in tensors if name not in own)
    return chosen, Transfer(loaded, adapted, tuple(new), ignored)


def _for_channels(weight: Tensor, channels: int) -> Tensor:
    """Make a stem's weight (C, I, 3, 3) take another number of input channels."""
    if channels == 1:
        return weight.sum(1, keepdim=True)
    before = weight.shape[1]
    copies = -(-channels // before)
    return torch.cat([weight] * copies, dim=1)[:, :channels] * (before / channels)
