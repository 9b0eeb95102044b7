"""The model card: what a hub shows of a network. It says what the checkpoint holds, no more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mobilevit.checkpoints.files import Checkpoint
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.cost import count_parameters
from mobilevit.training.recipe import OF_TASK

PAPERS = {
    "mobilevit": "[MobileViT](https://arxiv.org/abs/2110.02178)",
    "mobilevitv2": "[MobileViTv2](https://arxiv.org/abs/2206.02680)",
}
PIPELINES = {"detection": "object-detection"}
"""What the hub calls a task, where it is not ``image-`` and its name."""
SETTINGS = (
    *("epochs", "batch_size", "size", "sizes", "lr", "head_lr", "layer_lr", "freeze"),
    *("weight_decay", "label_smoothing", "ema_decay", "flip", "distort", "seed"),
)
"""Settings of a recipe that a card names; one that is off is left out."""
SHARES = (
    *("top1", "top5", "map", "ap50", "ap75", "recall"),
    *("miou", "pixel_accuracy", "mean_accuracy"),
)
"""Metrics that a card names, in percent."""
OUTPUTS = {
    "logits": "logits, one for each\nclass",
    "detections": "detections,\n(batch, 200, 6): left, top, right, bottom as shares of the sides, "
    "score, index of the class",
    "candidates": "candidates,\na box and the probability of each class for every anchor",
    "pixel_logits": "pixel_logits,\n(batch, classes, height, width): one for each class and pixel",
    "coarse_logits": "coarse_logits,\n(batch, classes, h, w), to be resized bilinearly: one for "
    "each class",
}
NAMES_SHOWN = 20

_CARD = """---
library_name: mobilevit
pipeline_tag: {pipeline}
tags:
- mobilevit
- {pipeline}
- vision
---

# {name}

A {paper} network (`{model}`) for image {task}: {parameters:,} parameters,
{classes}.

## Measured

{metrics}

## What it expects of a picture

Turn it upright (EXIF), make it RGB, {resize}, divide by 255. No
mean is subtracted. The input is float32, (batch, 3, {height}, {width}); the output is {output}.
All of this stands in `config.json` and in `model.safetensors` too, and the
code below does it.

## How it was trained

{training}

## Use

```python
# pip install "mobilevit[{extras}]"
from mobilevit import predict

for answer in predict("{source}", ["photo.jpg"]):
    print(answer.path, answer.summary())
```

## Limits

- It knows the classes above and no others{limit}.
- The numbers above hold for the pictures they were measured on; on others they may differ.
- The checkpoint does not record which pictures it was trained on, nor a licence for its weights.
"""


def model_card(checkpoint: Checkpoint, name: str) -> str:
    """Describe a checkpoint in Markdown, with the header that the Hugging Face hub reads.

    Args:
        checkpoint: what to describe.
        name: title of the card; ``owner/name`` is also where the example loads it from, with any
            other it is this folder.
    """
    contract = checkpoint.contract
    model = checkpoint.architecture["model"]
    height, width = contract.size
    owner, _, _ = model.partition(":")
    return _CARD.format(
        name=_plain(name),
        model=model,
        paper=PAPERS.get(owner.partition("_")[0], owner),
        extras="hub,timm" if owner == "timm" else "hub",
        parameters=count_parameters(checkpoint.network),
        task=contract.task,
        pipeline=PIPELINES.get(contract.task, f"image-{contract.task}"),
        classes=_classes(contract.class_names),
        metrics=_metrics(checkpoint.metrics),
        resize=_resize(contract),
        height=height,
        width=width,
        output=OUTPUTS[contract.output],
        limit=": every picture gets one of them" if contract.task == "classification" else "",
        training=_training(checkpoint.recipe, checkpoint.provenance, contract.task),
        source=name if "/" in name else ".",
    )


def _resize(contract: Contract) -> str:
    height, width = contract.size
    kernel = f"({contract.interpolation},\nantialiased)"
    if contract.resize is None:
        return f"stretch it to {height} × {width} pixels (height × width) {kernel}"
    return (
        f"resize its shorter side to {contract.resize} pixels {kernel}, crop {height} × {width} "
        "pixels (height × width) from the centre"
    )


def _classes(names: tuple[str, ...]) -> str:
    if not names:
        return "no classifier"
    shown = ", ".join(f"`{_plain(name)}`" for name in names[:NAMES_SHOWN])
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return f"{len(names):,} classes: {shown}{more}"


def _metrics(metrics: Mapping[str, Any]) -> str:
    rows = [(key, f"{metrics[key]:.2%}") for key in SHARES if metrics.get(key) is not None]
    rows += [(key, f"{metrics[key]:.4f}") for key in ("loss",) if key in metrics]
    rows += [(key, f"{metrics[key]:,}") for key in ("samples", "epoch") if key in metrics]
    if not rows:
        return "No numbers are stored in the checkpoint."
    return _table("measured on the validation pictures", "", rows)


def _training(
    recipe: Mapping[str, Mapping[str, Any]], provenance: Mapping[str, Any], task: str
) -> str:
    known = {key: value for section in recipe.values() for key, value in section.items()}
    named = (*SETTINGS, *OF_TASK.get(task, ()))
    rows = [(f"`{key}`", f"{known[key]}") for key in named if known.get(key)]
    parts = []
    if provenance:
        source, library = (_plain(str(provenance.get(key, ""))) for key in ("source", "library"))
        parts.append(
            f"The weights came from `{source}`, as {library} saves them "
            f"(SHA-256 `{provenance.get('sha256', '')}`)."
        )
    if rows:
        parts.append("Trained with `mobilevit train`: AdamW, a warm-up and a cosine.")
        parts.append(_table("setting", "", rows))
    return "\n\n".join(parts) or "The checkpoint does not say."


def _table(left: str, right: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [(left, right), ("---", "---:"), *rows]
    return "\n".join(f"| {one} | {other} |" for one, other in lines)


def _plain(text: str) -> str:
    """Keep a name from ending its line or its code span."""
    return " ".join(text.replace("`", "'").split())
