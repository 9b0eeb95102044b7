"""What training must remember to go on as if it had never stopped."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Progress:
    """Where training stands.

    Attributes:
        epoch: the epoch under way, or the next one.
        step: steps done in it.
        updates: steps done in all.
        samples: samples seen in all.
        seconds: time spent on training, without evaluation.
        sums: of the epoch under way: loss, right answers, samples.
        best: the best value of the task's primary metric so far.
        data: a hash of the training samples' names and labels.
        processes: how many train together.
        scaler: state of the precision's gradient scaler, with fp16.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    samples: int = 0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    best: float = -1.0
    data: str = ""
    processes: int = 1
    scaler: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain Python."""
        return asdict(self)


def training_tensors(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the weights under training and the optimiser's state, by the parameters' names."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{slot}"] = value
    return tensors


def restore_tensors(
    tensors: dict[str, Tensor], network: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put back what ``training_tensors`` returned."""
    prefix = "network."
    network.load_state_dict(
        {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    )
    parameters = dict(network.named_parameters())
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            name, _, slot = key.removeprefix("optimizer.").rpartition(".")
            parameter = parameters[name]
            like = parameter if tensor.shape == parameter.shape else None
            optimizer.state[parameter][slot] = (
                torch.empty_like(like).copy_(tensor)
                if like is not None
                else tensor.to(parameter.device)
            )
