"""Say what is on a picture.

    python predict.py MODEL PICTURE

It needs NumPy, Pillow and the runtime of the model, and reads contract.json beside it. What it
prints is what golden.json holds for the golden picture.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Floats = NDArray[np.float32]
Network = Callable[[Floats], Any]

TOP = 5
"""Labels that are told of a picture."""
SURE = 0.3
"""Score from which on a box is told."""
OVERLAP = 0.5
"""Intersection over union with a better box of its class above which a box is dropped."""
CANDIDATES, BOXES = 1000, 200
"""Pairs of anchor and class that are chosen among, and boxes of a picture at most."""


def load_onnx(path: Path) -> Network:
    """Open a model with ONNX Runtime: pip install onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image})[0]


def load_litert(path: Path) -> Network:
    """Open a model with LiteRT: pip install ai-edge-litert."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def run(image: Floats) -> Any:
        interpreter.set_tensor(source["index"], image)
        interpreter.invoke()
        return interpreter.get_tensor(target["index"])

    return run


def load_executorch(path: Path) -> Network:
    """Open a model with ExecuTorch, whose Python runtime needs torch: pip install executorch."""
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    return lambda image: method.execute((torch.from_numpy(image),))[0].numpy()


def load_openvino(path: Path) -> Network:
    """Open a model with OpenVINO: pip install openvino."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it would report home
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32"}  # bf16 is faster, where the processor has it
    compiled = openvino.Core().compile_model(path, "CPU", options)
    return lambda image: compiled(image)[0]


LOADERS = {
    ".onnx": load_onnx,
    ".tflite": load_litert,
    ".pte": load_executorch,
    ".xml": load_openvino,
}


def read_picture(path: Path) -> Image.Image:
    """Return an upright picture in RGB, over white where it is transparent."""
    picture = ImageOps.exif_transpose(Image.open(path))
    if picture.mode.startswith("I"):  # grey of 16 bit
        grey = np.asarray(picture, np.float64) * (255 / 65535)
        picture = Image.fromarray(np.rint(grey).clip(0, 255).astype(np.uint8))
    if picture.mode == "F":
        sys.exit(f"{path}: its grey is of floating point; save it with 8 or 16 bit.")
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("RGB")


def preprocess(picture: Image.Image, contract: dict[str, Any]) -> Floats:
    """Return the network's input: (1, 3, H, W), or (1, H, W, 3) where the layout is NHWC."""
    height, width = contract["size"]
    box = None
    if contract["resize"] is not None:
        shorter = contract["resize"] / min(picture.size)
        scale = max(shorter, width / picture.width, height / picture.height)
        left = max((picture.width - width / scale) / 2, 0.0)
        top = max((picture.height - height / scale) / 2, 0.0)
        right, bottom = left + width / scale, top + height / scale
        box = (left, top, min(right, picture.width), min(bottom, picture.height))
    kernel = Image.Resampling[contract["interpolation"].upper()]
    crop = np.asarray(picture.resize((width, height), kernel, box), np.float32) / 255
    return np.ascontiguousarray(
        crop[None] if contract["layout"] == "NHWC" else crop[None].transpose(0, 3, 1, 2)
    )


def read_logits(logits: Floats, contract: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the most probable classes, best first, of logits (K,)."""
    exponents = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = exponents / exponents.sum()
    best = np.argsort(-probabilities, kind="stable")[:TOP]
    names = contract["class_names"]
    return [{"name": names[i], "probability": float(probabilities[i])} for i in best]


def choose(candidates: Floats) -> Floats:
    """Return detections (D, 6) of candidates (A, 4 + K), by class-wise non-maximum suppression."""
    anchors, classes = np.nonzero(candidates[:, 4:] >= SURE)
    scores = candidates[anchors, 4 + classes]
    kept: list[Floats] = []
    for i in np.argsort(-scores, kind="stable")[:CANDIDATES]:
        row = np.array([*candidates[anchors[i], :4], scores[i], classes[i]], np.float32)
        if all(row[5] != better[5] or overlap(row, better) <= OVERLAP for better in kept):
            kept.append(row)
    return np.array(kept[:BOXES], np.float32).reshape(-1, 6)


def overlap(one: Floats, other: Floats) -> float:
    """Return the intersection over union of two boxes."""
    width, height = np.minimum(one[2:4], other[2:4]) - np.maximum(one[:2], other[:2])
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(both / max(sum(areas) - both, 1e-12))


def read_boxes(
    detections: Floats, contract: dict[str, Any], size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Return the boxes that are sure enough, in pixels, of detections (D, 6)."""
    names = contract["class_names"]
    ids = contract["class_ids"] or range(len(names))
    return [
        {
            "name": names[int(row[5])],
            "class_id": ids[int(row[5])],
            "score": float(row[4]),
            "box": (row[:4] * np.array([*size, *size])).tolist(),
        }
        for row in detections
        if row[4] >= SURE
    ]


def read_pixels(
    logits: Floats, contract: dict[str, Any], size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Return the classes of the pixels, the largest first, of logits (K, h, w)."""
    best = np.full(size[::-1], -np.inf, np.float32)
    mask = np.zeros(size[::-1], np.intp)  # the class of every pixel
    for index, one in enumerate(logits):
        resized = np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BILINEAR))
        mask[resized > best] = index
        best = np.maximum(best, resized)
    names = contract["class_names"]
    ids = contract["class_ids"] or range(len(names))
    pixels = np.bincount(mask.ravel(), minlength=len(names))
    return [
        {
            "name": names[i],
            "class_id": ids[i],
            "pixels": int(pixels[i]),
            "share": float(pixels[i] / mask.size),
        }
        for i in np.argsort(-pixels, kind="stable")
        if pixels[i]
    ]


def predict(model: Path, path: Path) -> dict[str, Any]:
    """Return what is on a picture."""
    contract = json.loads(model.with_name("contract.json").read_text(encoding="utf-8"))
    picture = read_picture(path)
    output = LOADERS[model.suffix](model)(preprocess(picture, contract))[0]
    if contract["output"] == "logits":
        return {"path": path.name, "labels": read_logits(output, contract)}
    whole = {"path": path.name, "width": picture.width, "height": picture.height}
    if contract["output"] in ("pixel_logits", "coarse_logits"):
        return {**whole, "classes": read_pixels(output, contract, picture.size)}
    detections = choose(output) if contract["output"] == "candidates" else output
    return {**whole, "boxes": read_boxes(detections, contract, picture.size)}


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python predict.py MODEL PICTURE")
    print(json.dumps(predict(Path(sys.argv[1]), Path(sys.argv[2])), indent=2))
