"""How long a command takes from nothing: `mobilevit --help`, and `mobilevit predict` with an ONNX
file beside a bare ONNX Runtime script that does the same. Every time is a fresh process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common import Bar, milliseconds, parser, report, take_turns
from mobilevit import Contract, create_model
from mobilevit.deployment.exporters import write
from mobilevit.deployment.formats import FORMATS

BARE = """
import sys
import numpy as np
import onnxruntime
from PIL import Image

model, picture = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
image = Image.open(picture).convert("RGB")
scale = 288 / min(image.size)
image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BILINEAR)
left, top = (image.width - 256) // 2, (image.height - 256) // 2
image = image.crop((left, top, left + 256, top + 256))
x = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)[None] / 255
logits = session.run(None, {"image": x})[0][0]
probabilities = np.exp(logits - logits.max())
probabilities /= probabilities.sum()
for index in probabilities.argsort()[:-6:-1]:
    print(index, probabilities[index])
"""


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--model", default="mobilevit_s", help="network in the ONNX file")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, picture = str(Path(folder) / "model.onnx"), str(Path(folder) / "picture.jpg")
        make(chosen.model, Path(model), Path(picture))
        mobilevit = [sys.executable, "-m", "mobilevit"]
        predict = [*mobilevit, "predict", model, picture, "--json"]
        bare = [sys.executable, "-c", BARE, model, picture]
        answer = json.loads(run(predict))["predictions"][0]["labels"][0]["name"]
        if answer != run(bare).split()[0]:
            sys.exit("the two say different things of the picture")
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "mobilevit --help": [*mobilevit, "--help"],
            "bare ONNX Runtime script": bare,
            "mobilevit predict": predict,
        }
        seconds = take_turns(
            {name: partial(run, command) for name, command in commands.items()},
            1 if chosen.quick else 7,
            0 if chosen.quick else 1,
        )
    medians = {name: float(np.median(taken)) for name, taken in seconds.items()}
    bars = [
        Bar("mobilevit --help, seconds", medians["mobilevit --help"], 0.5, at_most=True),
        Bar(
            "mobilevit predict after the bare script, seconds",
            medians["mobilevit predict"] - medians["bare ONNX Runtime script"],
            1.0,
            at_most=True,
        ),
    ]
    rows = [{"contestant": name, **milliseconds(taken)} for name, taken in seconds.items()]
    notes = f"{chosen.model}, 256 x 256, a photo-sized JPEG; files are in the disk cache."
    report(chosen, rows, bars, ("onnxruntime", "pillow", "numpy"), notes)


def make(name: str, model: Path, picture: Path) -> None:
    """Write a network with random weights and a picture for it."""
    torch.manual_seed(0)
    network = create_model(name).eval()
    torch.nn.init.normal_(network.head.weight, std=1.0)
    classes = tuple(map(str, range(1000)))
    contract = Contract("classification", classes, size=(256, 256), resize=288)
    write(FORMATS["onnx"], network, contract, model)
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((1200, 900), Image.Resampling.BICUBIC).save(picture, quality=90)


def run(command: list[str]) -> str:
    """Run a command to its end and return what it printed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
