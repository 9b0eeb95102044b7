"""Put a trained network among those that come with the package, with its card.

``python -m mobilevit.weights.ship RUN IMAGENETTE imagenette_xxs``
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import yaml

from mobilevit.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from mobilevit.deployment.cost import count_multiply_adds, count_parameters
from mobilevit.errors import UserError
from mobilevit.files import publishing, write_text
from mobilevit.verbs.evaluate import evaluate
from mobilevit.weights import FOLDER, network_of

_CARD = """---
library_name: mobilevit
license: apache-2.0
pipeline_tag: image-classification
tags:
- mobilevit
- image-classification
- vision
---

# {name}

`{model}` ([MobileViT](https://arxiv.org/abs/2110.02178)) for {classes} classes of photos:
{names}.

It comes with the package, so that every command can be tried before there is anything of your own,
and as a start for training on your own photos:

```bash
mobilevit predict {name} photo.jpg
mobilevit train PHOTOS --weights {name}
```

## Measured

| on Imagenette's {samples:,} validation photos | |
|---|---:|
| top-1 | {top1:.1%} |
| top-5 | {top5:.1%} |
| parameters | {parameters:,} |
| multiply-adds of a photo | {multiply_adds:.0f} M |
| this file | {megabytes:.1f} MB |

It is one run, and the accuracy is that of this very file. Its best epoch was chosen on the same
photos, which flatters it a little. The share that is found of each class, the worst first:
{recalls}.

## Data

[Imagenette](https://github.com/fastai/imagenette) v2 of fast.ai: ten classes of ImageNet (ILSVRC
2012) that are easy to tell apart, 9,469 photos to train on and 3,925 to validate on, in its edition
of 160 pixels, encoded once more as JPEG of 160 × 160. It was trained from random weights, on crops
of {sizes} pixels, and expects {height} × {width}: the shorter side resized to {resize}, the centre
cropped, RGB divided by 255. No photo comes with the package.

## Licence

These weights were trained by the authors of the package and are under its licence, Apache-2.0. The
photos are not theirs: they belong to the people who took them, and
[ImageNet](https://www.image-net.org/download) gives access to them for research and education that
is not commercial. Whether such terms reach a network that has learnt from the photos is judged
differently from country to country. Who has to be sure, for a product say, trains on photos of
their own, from random weights.

## Limits

- It knows these {classes} classes and nothing else. Any other picture is answered with one of them
  too, and a high probability does not mean that it is there.
- It sees {height} × {width} pixels: what is small in the photo is lost.
- The photos are a few thousand from the web, one thing in the middle of most. On others it was not
  measured, and they may be harder.
- It is for trying, teaching and as a start: not for people or faces, and for nothing on which
  safety, health or rights depend.

## How it was made

```console
$ mobilevit train IMAGENETTE --recipe recipe.yaml --output RUN
$ python -m mobilevit.weights.ship RUN IMAGENETTE {name}
```

with this `recipe.yaml`:

```yaml
{recipe}
```
"""


def ship(run: str | Path, data: str | Path, name: str, folder: Path = FOLDER) -> Path:
    """Write a network in half precision, measure what was written, and write its card.

    Args:
        run: a run folder or a checkpoint.
        data: the folder of Imagenette.
        name: under which it is to be found, ``imagenette_xxs`` for a ``mobilevit_xxs``. What has
            this name already is replaced.
        folder: where to write ``name.safetensors`` and ``name.md``.

    Returns:
        The file of weights.

    Raises:
        UserError: when the run or the data cannot be read, the name is of another network, or the
            training did not begin with random weights.
    """
    checkpoint = load_checkpoint(run)
    model = checkpoint.architecture["model"]
    if model != network_of(name):
        raise UserError(f"{run}: it is a {model}, but {name} is a {network_of(name)}.")
    if checkpoint.provenance:
        raise UserError(f"{run}: it began with weights of {checkpoint.provenance['source']}.")
    path = folder / f"{name}.safetensors"
    with publishing(path) as hidden:
        save_checkpoint(hidden, replace(checkpoint, progress={}), half=True)
        measured = checkpoint.metrics | evaluate(hidden, data).metrics
        checkpoint = replace(load_checkpoint(hidden), metrics=measured)
        save_checkpoint(hidden, checkpoint, half=True)
        write_text(hidden.with_suffix(".md"), card(checkpoint, hidden))
    return path


def card(checkpoint: Checkpoint, path: Path) -> str:
    """Describe a network that was trained on Imagenette, in Markdown.

    Args:
        checkpoint: what is in the file.
        path: the file, named as the network is to be found.
    """
    contract, metrics, recipe = checkpoint.contract, checkpoint.metrics, checkpoint.recipe
    height, width = contract.size
    recalls = {name: row["recall"] for name, row in metrics["per_class"].items()}
    worst_first = sorted(recalls, key=recalls.__getitem__)
    sizes = recipe["data"]["sizes"] or [recipe["data"]["size"]]
    return _CARD.format(
        name=path.stem,
        model=checkpoint.architecture["model"],
        classes=len(contract.class_names),
        names=", ".join(name.replace("_", " ") for name in contract.class_names),
        **{key: metrics[key] for key in ("samples", "top1", "top5")},
        parameters=count_parameters(checkpoint.network),
        multiply_adds=count_multiply_adds(checkpoint.network, contract.size) / 1e6,
        megabytes=path.stat().st_size / 1e6,
        recalls=", ".join(f"{name.replace('_', ' ')} {recalls[name]:.0%}" for name in worst_first),
        sizes=" to ".join(str(size) for size in (min(sizes), max(sizes))),
        height=height,
        width=width,
        resize=contract.resize,
        recipe=yaml.safe_dump(recipe, sort_keys=False).strip(),
    )


if __name__ == "__main__":
    run, data, name = sys.argv[1:]
    print(ship(run, data, name))
