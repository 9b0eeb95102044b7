"""What segmenting a picture of 50 megapixels in tiles takes: memory and time, in a fresh process.

The memory is what the process holds at its peak beyond the decoded picture and the loaded network.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from common import parser, report
from mobilevit import Contract, create_model
from mobilevit.deployment.exporters import write
from mobilevit.deployment.formats import FORMATS
from mobilevit.networks import DeepLabV3, DeepLabV3Config
from mobilevit.tasks.segmentation.segmenter import Segmenter

CLASSES = 11
CHILD = """
import json, sys, time
import numpy as np
from PIL import Image
from mobilevit.deployment.memory import peak_memory
from mobilevit.deployment.runtimes import load_predictor
from mobilevit.tasks.segmentation.tiling import segment

model, width, height = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
predictor = load_predictor(model, threads=1)
small = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
picture = Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)
before, wall, cpu = peak_memory(), time.perf_counter(), time.process_time()
mask = segment(predictor, picture)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
assert mask.shape == (height, width)
print(json.dumps({"MB beyond": (peak_memory() - before) / 2**20, "s": wall, "s of processor": cpu}))
"""


def main() -> None:
    """Run the benchmark."""
    chosen = parser(__doc__).parse_args()
    torch.manual_seed(0)
    tile, width, height = (360, 480), 8660, 5774
    if chosen.quick:
        tile, width, height = (64, 64), 200, 150
    backbone = create_model("mobilevit_xxs", num_classes=0, output_stride=16)
    network = DeepLabV3(backbone, DeepLabV3Config(num_classes=CLASSES)).eval()
    rows = []
    for output in ("pixel_logits", "coarse_logits"):
        names = tuple(f"class {i}" for i in range(CLASSES))
        contract = Contract("segmentation", names, tile, None, output=output)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "xxs.onnx"
            write(FORMATS["onnx"], Segmenter(network, tile, output), contract, file)
            command = [sys.executable, "-c", CHILD, str(file), str(width), str(height)]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append({"contestant": output, "megapixels": width * height / 1e6, **json.loads(told)})
    report(
        chosen,
        rows,
        (),
        ("onnxruntime", "pillow"),
        f"""DeepLabv3 on mobilevit_xxs, {CLASSES} classes, random weights, in ONNX Runtime on one
        thread; {width} x {height} pixels in tiles of {tile[1]} x {tile[0]} that overlap by a
        quarter. MB beyond: peak of the process after that with the picture decoded and the network
        loaded; the mask of a byte a pixel is among them.""",
    )


if __name__ == "__main__":
    main()
