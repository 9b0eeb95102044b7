"""One picture through MobileViT-S in every runtime: this package's files beside the peers'.

The peers' networks go through the same converters and quantisers with their defaults. All have the
same trained weights; each file's first answers are compared with PyTorch's on real photos. Weights
that were not trained at this size answer many photos by a hair, which rounding changes.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from common import DATA, Bar, milliseconds, parser, report, take_turns
from inference import in_transformers
from mobilevit import Contract, load_pretrained
from mobilevit.checkpoints import ADAPTERS
from mobilevit.deployment.calibration import load_calibration
from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.exporters import write
from mobilevit.deployment.formats import FORMATS
from mobilevit.deployment.preprocess import load_batch
from mobilevit.deployment.quiet import quiet
from mobilevit.deployment.runtimes.openvino import import_openvino

RUNTIMES = ("onnx", "openvino", "litert", "executorch")
PRECISIONS = {
    "openvino": ("fp32", "bf16", "int8", "mixed"),
    "litert": ("fp32", "int8", "mixed"),
}
FLOAT_BLOCKS = {
    "openvino": ("stem", "stages.0"),  # computed in bf16
    "litert": ("stem", "stages.0", "stages.1.0"),
}
"""What stays in float in mixed files: the first blocks, which lose most by rounding."""
OURS_ALONE = ("bf16", "mixed")
Run = Callable[[np.ndarray], np.ndarray]
Key = tuple[str, str, str]


def main() -> None:
    """Run the benchmark."""
    with_files(__doc__, compare_files)


def with_files(description: str | None, work: Callable[[argparse.Namespace, Path], None]) -> None:
    """Hand the options and the folder of the files to ``work``, on one thread, without chatter."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    options = parser(description)
    options.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    options.add_argument("--weights", default="imagenette_s", help="a run, or shipped weights")
    options.add_argument("--files", type=Path, help="folder to keep the files in, and to reuse")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = chosen.files or Path(folder)
        files.mkdir(parents=True, exist_ok=True)
        work(chosen, files)


def compare_files(chosen: argparse.Namespace, files: Path) -> None:
    """Convert, run and report."""
    size, judged, rounds = (64, 8, 2) if chosen.quick else (256, 1000, 120)
    paths, expected, pictures = write_files(chosen, files, size, judged)
    runs = {
        key: _ours(path) if key[2] == "ours" else RUNNERS[key[0]](path)
        for key, path in paths.items()
    }

    same = {}
    for key, run in runs.items():
        step = 10 if key[1] == "fp32" else 1
        same[key] = float((answers(run, pictures[::step]) == expected[::step]).mean())
    x = pictures[:1]
    seconds = take_turns({str(key): lambda run=run: run(x) for key, run in runs.items()}, rounds, 5)
    medians = {key: float(np.median(seconds[str(key)])) for key in runs}
    rows = []
    for key in runs:
        runtime, precision, owner = key
        best = min(
            medians[runtime, p, o]
            for r, p, o in runs
            if r == runtime and p == precision and (o != "ours" or precision in OURS_ALONE)
        )
        rows.append(
            {
                "runtime": runtime,
                "precision": precision,
                "network": owner,
                **milliseconds(seconds[str(key)]),
                "MB": FORMATS[runtime].bytes(paths[key]) / 1e6,
                "same answer": same[key],
                "x best peer": best / medians[key],
            }
        )
    report(
        chosen,
        rows,
        bars(medians, same),
        ("timm", "transformers", "onnxruntime", "openvino", "nncf", "ai-edge-litert", "executorch"),
        f"MobileViT-S, {size} x {size}, one picture, one thread, array in, array out. same answer: "
        f"share of {len(pictures)} photos of Imagenette (in fp32 of a tenth of them) with PyTorch"
        "'s first answer. mixed: int8 with the first blocks in float. x best peer: "
        "the faster peer's median in that runtime and precision over this one's.",
    )


def write_files(
    chosen: argparse.Namespace, folder: Path, size: int, judged: int
) -> tuple[dict[Key, Path], np.ndarray, np.ndarray]:
    """Convert our network and the peers', of the same weights, as far as it is not done.

    Returns:
        The files by runtime, precision and whose network it is; PyTorch's first answers for
        ``judged`` photos; these photos, (N, 3, H, W).
    """
    checkpoint = load_pretrained(chosen.weights).checkpoint
    contract = Contract("classification", checkpoint.contract.class_names, (size, size), size)
    photos = {split: sorted((DATA / "imagenette" / split).glob("*/*.jpg")) for split in SPLITS}
    calibration = load_calibration(photos["train"], contract)
    pictures = load_batch(photos["val"][:: max(len(photos["val"]) // judged, 1)], contract)
    ours = checkpoint.network.eval()
    networks = {"ours": ours, **peers(ours)}
    expected = answers(lambda x: ours(torch.from_numpy(x)).detach().numpy(), pictures)
    paths: dict[Key, Path] = {}
    for runtime in chosen.runtimes:
        for precision in PRECISIONS.get(runtime, ("fp32", "int8")):
            for owner, network in networks.items():
                if owner != "ours" and precision in OURS_ALONE:
                    continue
                path = folder / f"{owner}-{size}-{precision}{FORMATS[runtime].suffix}"
                paths[runtime, precision, owner] = path
                if path.exists():
                    continue
                if owner != "ours":
                    with quiet():
                        CONVERTERS[runtime](network, path, precision, calibration)
                    continue
                config = ExportConfig(precision)
                if precision == "mixed":
                    config = ExportConfig("int8", float_blocks=FLOAT_BLOCKS[runtime])
                given = calibration if config.precision == "int8" else None
                write(FORMATS[runtime], network, contract, path, config, calibration=given)
    return paths, expected, pictures


def bars(medians: dict[Key, float], same: dict[Any, float]) -> list[Bar]:
    """Return what was promised."""
    made = []
    theirs = {key: value for key, value in medians.items() if key[2] != "ours"}
    for runtime in dict.fromkeys(key[0] for key in medians):
        for precision, bar in (("fp32", 1.0), ("int8", 1.25)):
            best = min(v for (r, p, _), v in theirs.items() if (r, p) == (runtime, precision))
            ratio = best / medians[runtime, precision, "ours"]
            made.append(Bar(f"{runtime} {precision} over the faster peer's", ratio, bar))
    good = [v for k, v in medians.items() if k[2] == "ours" and same[k] >= 0.99]
    best = min(value for key, value in theirs.items() if key[1] == "fp32")
    made.append(
        Bar("best of ours at 99 % agreement over the best peer in fp32", best / min(good), 2)
    )
    return made


def answers(run: Run, pictures: np.ndarray) -> np.ndarray:
    """Return the first answer for each picture."""
    return np.array([run(picture[None]).argmax() for picture in pictures])


class Logits(nn.Module):
    """A network of transformers that gives its logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).logits


def peers(ours: nn.Module) -> dict[str, nn.Module]:
    """Return the same network of timm and of transformers, with the same weights."""
    classes = ours.num_classes
    theirs = timm.create_model("mobilevit_s", num_classes=classes)
    hugging = in_transformers("mobilevit_s", ours)
    for library, network in (("timm", theirs), ("transformers", hugging)):
        network.load_state_dict(ADAPTERS[library, "mobilevit"].to_theirs(ours.state_dict()))
    return {"timm": theirs.eval(), "transformers": Logits(hugging).eval()}


def _to_onnx(network: nn.Module, path: Path, precision: str, calibration: np.ndarray) -> None:
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    x = torch.from_numpy(calibration[:1])
    if precision == "fp32":
        torch.onnx.export(network, (x,), dynamo=True, input_names=["image"]).save(path)
        return

    class Reader(q.CalibrationDataReader):
        rest = iter([{"image": picture[None]} for picture in calibration])

        def get_next(self) -> Any:
            return next(self.rest, None)

    with tempfile.TemporaryDirectory() as folder:
        floats, ready = Path(folder) / "floats.onnx", Path(folder) / "ready.onnx"
        torch.onnx.export(network, (x,), dynamo=True, input_names=["image"]).save(floats)
        quant_pre_process(floats, ready)
        q.quantize_static(
            ready,
            path,
            Reader(),
            per_channel=True,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
        )


def _to_openvino(network: nn.Module, path: Path, precision: str, calibration: np.ndarray) -> None:
    openvino = import_openvino()
    import nncf  # after OpenVINO, see there

    x = torch.from_numpy(calibration[:1])
    model = openvino.convert_model(network, example_input=x, input=[1, *x.shape[1:]])
    if precision == "int8":
        pictures = nncf.Dataset([picture[None] for picture in calibration])
        model = nncf.quantize(model, pictures, subset_size=len(calibration))
    openvino.save_model(model, path, compress_to_fp16=False)


def _to_litert(network: nn.Module, path: Path, precision: str, calibration: np.ndarray) -> None:
    import litert_torch
    from litert_torch.quantize.pt2e_quantizer import (
        PT2EQuantizer,
        get_symmetric_quantization_config,
    )
    from litert_torch.quantize.quant_config import QuantConfig
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    pictures = torch.from_numpy(calibration)
    config = None
    if precision == "int8":
        quantiser = PT2EQuantizer().set_global(
            get_symmetric_quantization_config(is_per_channel=True)
        )
        network = prepare_pt2e(torch.export.export(network, (pictures[:1],)).module(), quantiser)
        with torch.no_grad():
            for picture in pictures:
                network(picture[None])
        network = convert_pt2e(network, fold_quantize=False)
        config = QuantConfig(pt2e_quantizer=quantiser)
    litert_torch.convert(network, (pictures[:1],), quant_config=config).export(str(path))


def _to_executorch(network: nn.Module, path: Path, precision: str, calibration: np.ndarray) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    pictures = torch.from_numpy(calibration)
    if precision == "int8":
        quantiser = XNNPACKQuantizer().set_global(
            get_symmetric_quantization_config(is_per_channel=True)
        )
        network = prepare_pt2e(torch.export.export(network, (pictures[:1],)).module(), quantiser)
        with torch.no_grad():
            for picture in pictures:
                network(picture[None])
        network = convert_pt2e(network)
    program = torch.export.export(network, (pictures[:1],))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


def _in_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def _in_openvino(path: Path) -> Run:
    openvino = import_openvino()
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.compile_model(path, "CPU", settings | {"PERFORMANCE_HINT": "LATENCY"})
    return lambda x: model(x)[0]


def _in_litert(path: Path) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(x: np.ndarray) -> np.ndarray:
        if given["dtype"] == np.int8:
            scale, zero = given["quantization"]
            x = np.clip(np.round(x / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(made["index"])

    return run


def _in_executorch(path: Path) -> Run:
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(1)
    program = Runtime.get().load_program(path)  # which its methods do not keep alive
    return lambda x: program.load_method("forward").execute((torch.from_numpy(x),))[0].numpy()


def _ours(path: Path) -> Run:
    """Return what this package runs one of its files with."""
    from mobilevit import load_predictor

    return load_predictor(path, threads=1).run


SPLITS = ("train", "val")
CONVERTERS = {
    "onnx": _to_onnx,
    "openvino": _to_openvino,
    "litert": _to_litert,
    "executorch": _to_executorch,
}
RUNNERS = {
    "onnx": _in_onnx,
    "openvino": _in_openvino,
    "litert": _in_litert,
    "executorch": _in_executorch,
}


if __name__ == "__main__":
    main()
