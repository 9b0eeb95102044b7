"""A training step of MobileViT-S at 256 pixels, batch 8: this package beside timm.

Forward, loss, backward, AdamW (fused). The same weights in all, and no dropout, as timm has it;
that the losses agree is checked first. The last contestant has the paper's dropout too, so it is
the very step of `mobilevit train`, which computes in bf16 where the processor does, else in fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import timm
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from common import Bar, agree, milliseconds, parser, report, take_turns
from mobilevit import create_model
from mobilevit.checkpoints import ADAPTERS
from mobilevit.data.scan import usable_cores
from mobilevit.training.fit import attention_kernel
from mobilevit.verbs.train import fabric_precision


@dataclass(frozen=True)
class Setting:
    """How a contestant trains; ``like_fit`` takes the attention that ``mobilevit train`` does."""

    library: str
    bf16: bool = False
    channels_last: bool = False
    like_fit: bool = False
    dropout: bool = False


FAST: Literal["bf16", "fp32"] = (
    "bf16" if fabric_precision("auto", "cpu") == "bf16-mixed" else "fp32"
)
"""What `mobilevit train` computes in on this processor."""
BF16 = FAST == "bf16"
CONTESTANTS = {
    "timm fp32, its default": Setting("timm"),
    f"timm {FAST}, channels-last": Setting("timm", bf16=BF16, channels_last=True),
    "ours fp32": Setting("ours"),
    f"ours {FAST}, channels-last": Setting("ours", bf16=BF16, channels_last=True),
    f"ours {FAST}, channels-last, fit's attention": Setting(
        "ours", bf16=BF16, channels_last=True, like_fit=True
    ),
    "the same with dropout": Setting(
        "ours", bf16=BF16, channels_last=True, like_fit=True, dropout=True
    ),
}


def main() -> None:
    """Run the benchmark."""
    chosen = parser(__doc__).parse_args()
    model, size, batch = ("mobilevit_xxs", 64, 2) if chosen.quick else ("mobilevit_s", 256, 8)
    torch.manual_seed(0)
    x, labels = torch.rand(batch, 3, size, size), torch.randint(1000, (batch,))
    weights = create_model(model).state_dict()
    steps = {
        name: training_step(setting, model, weights, x, labels)
        for name, setting in CONTESTANTS.items()
    }
    first = {name: np.array(step()) for name, step in steps.items()}
    for name, loss in first.items():
        if not CONTESTANTS[name].dropout:
            tolerance = 1e-2 if CONTESTANTS[name].bf16 else 1e-5
            agree(name, loss, first["timm fp32, its default"], tolerance)

    rows, bars = [], []
    for threads in (1,) if chosen.quick else sorted({1, usable_cores()}):
        torch.set_num_threads(threads)
        seconds = take_turns(steps, *((2, 0) if chosen.quick else (10, 1)))
        medians = {name: float(np.median(taken)) for name, taken in seconds.items()}
        default, same = (medians[name] for name in list(CONTESTANTS)[:2])
        for name, taken in seconds.items():
            rows.append(
                {
                    "contestant": name,
                    "threads": threads,
                    **milliseconds(taken),
                    "pictures/s": batch / medians[name],
                    "x timm fp32": default / medians[name],
                    f"x timm {FAST}, channels-last": same / medians[name],
                }
            )
        mine, best = (
            medians[f"ours {FAST}, channels-last{kernel}"] for kernel in ("", ", fit's attention")
        )
        promises = [
            (f"ours {FAST} over timm's {FAST}, channels-last", same / mine, 1.0),
            ("ours fp32 over timm's fp32", default / medians["ours fp32"], 1.0),
        ]
        if BF16:
            promises.insert(0, ("ours bf16 over timm's default fp32", default / best, 1.8))
        for words, ratio, bar in promises:
            bars.append(Bar(f"{words}, {threads} threads", ratio, bar))
    notes = f"{model}, {size} x {size}, batch {batch}."
    report(chosen, rows, bars, ("timm", "lightning-fabric"), notes)


def training_step(
    setting: Setting, model: str, weights: dict[str, Tensor], x: Tensor, labels: Tensor
) -> Callable[[], float]:
    """Return a function that does a step of training and returns the loss."""
    if setting.library == "timm":
        network = timm.create_model(model)
        network.load_state_dict(ADAPTERS["timm", "mobilevit"].to_theirs(weights))
    else:
        rates = {} if setting.dropout else {"dropout": 0.0, "head_dropout": 0.0}
        network = create_model(model, **rates)
        network.load_state_dict(weights)
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    network = network.to(memory_format=layout).train()
    inputs = x.to(memory_format=layout)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    fabric = Fabric(accelerator="cpu", devices=1)

    def step() -> float:
        with attention_kernel(fabric) if setting.like_fit else nullcontext():
            with torch.autocast("cpu", torch.bfloat16, enabled=setting.bf16):
                loss = F.cross_entropy(network(inputs), labels, label_smoothing=0.1)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


if __name__ == "__main__":
    main()
