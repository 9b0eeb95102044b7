"""One picture, or sixteen, through MobileViT: this package beside timm and transformers.

Eager, one thread, the same weights in all. First the outputs are compared, then the times.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
import transformers
from torch import Tensor, nn

from common import Bar, agree, milliseconds, parser, report, take_turns
from mobilevit import Contract, create_model, list_models, optimize
from mobilevit.checkpoints import ADAPTERS
from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.exporters import write
from mobilevit.deployment.formats import FORMATS
from mobilevit.deployment.runtimes.onnx import OnnxPredictor
from mobilevit.errors import MissingExtraError
from mobilevit.networks import Backbone, MobileViT

Run = Callable[[], np.ndarray]


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--model", choices=list_models(), default="mobilevit_s")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size, batches, rounds = (64, (1,), 2) if chosen.quick else (256, (1, 16), 30)

    ours = create_model(chosen.model)
    with torch.no_grad():
        ours(torch.rand(16, 3, size, size))  # in training, so that batch-norm has statistics
    ours.eval()
    rows, bars = [], []
    for batch in batches:
        x = torch.rand(batch, 3, size, size)
        contestants = networks(chosen.model, ours, x) | onnx(ours, x)
        expected = contestants["timm fp32"]()
        for name, run in contestants.items():
            # random weights amplify bf16's rounding, timm's as much as ours
            agree(name, run(), expected, tolerance=0.2 if "bf16" in name else 1e-4)
        seconds = take_turns(contestants, rounds if batch == 1 else max(rounds // 3, 2))
        medians = {name: float(np.median(s)) for name, s in seconds.items()}
        for name, taken in seconds.items():
            rows.append(
                {
                    "contestant": name,
                    "batch": batch,
                    **milliseconds(taken),
                    "images/s": batch / medians[name],
                    "x timm": medians["timm fp32"] / medians[name],
                    "x transformers": medians["transformers fp32"] / medians[name],
                }
            )
        if chosen.model != "mobilevit_s":
            continue  # the promises are about S
        bar = 1.7 if batch == 1 else 1.9
        for peer in ("timm", "transformers"):
            ratio = medians[f"{peer} fp32"] / medians["ours optimize() fp32"]
            bars.append(Bar(f"batch {batch}, ours fp32 over {peer} fp32", ratio, bar))
        ratio = medians["timm fp32"] / medians["ours optimize() bf16"]
        bars.append(Bar(f"batch {batch}, ours bf16 over timm fp32", ratio, 2.5))
    report(
        chosen,
        rows,
        bars,
        ("timm", "transformers", "onnxruntime"),
        f"{chosen.model}, {size} x {size}, one thread, tensor in, tensor out.",
    )


def networks(name: str, ours: Backbone, x: Tensor) -> dict[str, Run]:
    """Return the PyTorch contestants, all with the weights of ``ours``."""
    theirs = timm.create_model(name)
    hugging = in_transformers(name, ours)
    family = name.split("_")[0]
    for library, network in (("timm", theirs), ("transformers", hugging)):
        network.load_state_dict(ADAPTERS[library, family].to_theirs(ours.state_dict()))

    def runner(network: nn.Module) -> Run:
        network.eval()

        @torch.inference_mode()
        def run() -> np.ndarray:
            y = network(x)
            return getattr(y, "logits", y).numpy()

        return run

    return {
        "timm fp32": runner(theirs),
        "transformers fp32": runner(hugging),
        "ours plain fp32": runner(ours),
        "ours optimize() fp32": runner(optimize(ours)),
        "ours optimize() bf16": runner(optimize(ours, "bf16")),
    }


def in_transformers(name: str, ours: Backbone) -> nn.Module:
    """Return the same network of transformers, with weights of its own."""
    if isinstance(ours, MobileViT):
        config = ours.config
        return transformers.MobileViTForImageClassification(
            transformers.MobileViTConfig(
                hidden_sizes=list(config.token_widths),
                neck_hidden_sizes=[config.stem_width, *config.widths, config.head_width],
                expand_ratio=float(config.expansion),
                num_labels=config.num_classes,
            )
        )
    return transformers.MobileViTV2ForImageClassification(
        transformers.MobileViTV2Config(
            width_multiplier=int(name[-3:]) / 100, num_labels=ours.num_classes
        )
    )


def onnx(ours: Backbone, x: Tensor) -> dict[str, Run]:
    """Return our export in ONNX Runtime, if that is installed."""
    side = x.shape[-1]
    contract = Contract("classification", tuple(map(str, range(1000))), (side, side), side)
    try:
        FORMATS["onnx"].check(FORMATS["onnx"].builds)
    except MissingExtraError:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write(FORMATS["onnx"], ours, contract, path, ExportConfig(dynamic_batch=len(x) > 1))
        predictor = OnnxPredictor(path, threads=1)
    images = x.numpy()
    return {"ours in ONNX Runtime": lambda: predictor.run(images)}


if __name__ == "__main__":
    main()
