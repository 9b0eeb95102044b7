"""What an adapter is: an ordered table of renames, and which fused tensors stand apart elsewhere.

The same table serves both directions, and there and back again is the identity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Adapter:
    """How another library names the weights of a network.

    Attributes:
        library: whose names these are.
        renames: pairs of (ours, theirs), parts of a name between dots; ``#`` stands for any
            number. They are applied in order from ours to theirs, backwards the other way.
        qkv: their names for the three thirds of our fused ``qkv``, or nothing if they fuse too.
        older: pairs of (theirs, theirs in older versions), which are read and not written.
        begins: beginnings of the names in their files that the table is for; by default of all.
    """

    library: str
    renames: tuple[tuple[str, str], ...]
    qkv: tuple[str, ...] = ()
    older: tuple[tuple[str, str], ...] = ()
    begins: tuple[str, ...] = ("",)

    def part(self, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a whole state dict that the table is for, under their names."""
        return {name: tensor for name, tensor in theirs.items() if name.startswith(self.begins)}

    def to_ours(self, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of the other library for one of our networks."""
        renames = (*self.older, *reversed(self.renames))
        rules = [(re.compile(_pattern(b)), _template(a)) for a, b in renames]
        renamed = {_apply(rules, name): tensor for name, tensor in theirs.items()}
        if not self.qkv:
            return renamed
        fused: dict[str, Tensor] = {}
        for name, tensor in renamed.items():
            stem, _, kind = name.rpartition(".")
            owner, _, part = stem.rpartition(".")
            if part not in self.qkv:
                fused[name] = tensor
            elif part == self.qkv[0]:
                thirds = [renamed[f"{owner}.{third}.{kind}"] for third in self.qkv]
                fused[f"{owner}.qkv.{kind}"] = torch.cat(thirds)
        return fused

    def to_theirs(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a state dict of one of our networks for the other library."""
        split: dict[str, Tensor] = {}
        for name, tensor in ours.items():
            if self.qkv and ".qkv." in name:
                for third, part in zip(self.qkv, tensor.chunk(3), strict=True):
                    split[name.replace(".qkv.", f".{third}.")] = part
            else:
                split[name] = tensor
        rules = [(re.compile(_pattern(a)), _template(b)) for a, b in self.renames]
        return {_apply(rules, name): tensor for name, tensor in split.items()}


def _pattern(name: str) -> str:
    """Match ``name`` as whole parts of a dotted name."""
    return r"(?<![^.])" + re.escape(name).replace(r"\#", r"(\d+)") + r"(?![^.])"


def _template(name: str) -> str:
    numbers = iter(range(1, 10))
    return re.sub("#", lambda _: rf"\g<{next(numbers)}>", name)


def _apply(rules: list[tuple[re.Pattern[str], str]], name: str) -> str:
    for pattern, replacement in rules:
        name = pattern.sub(replacement, name)
    return name
