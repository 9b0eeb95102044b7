"""What the files that formats.py times consist of, and where the time goes: operators by kind.

ONNX Runtime and OpenVINO tell the operators that are left after their own fusion, and what each
takes. XNNPACK, to which LiteRT and ExecuTorch hand the graph, tells its Python packages no times:
there the operators of the file are counted, for ExecuTorch those inside its delegates too.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from common import report
from formats import with_files, write_files
from mobilevit.deployment.exporters import executorch_counts, litert_file
from mobilevit.deployment.runtimes.openvino import import_openvino

Kinds = dict[str, tuple[int, float | None]]
"""For each kind of operator how many there are, and the milliseconds of all, where it is told."""
MOVES = re.compile("reshape|transpos|permut|reorder|copy|squeeze|expand|slice|split|concat", re.I)
"""What only moves numbers."""
ROUNDS = re.compile("quantize(?!d)|convert", re.I)
"""What only changes how numbers are stored."""


def main() -> None:
    """Run the benchmark."""
    with_files(__doc__, count_operators)


def count_operators(chosen: argparse.Namespace, files: Path) -> None:
    """Convert, count and report."""
    size, rounds = (64, 2) if chosen.quick else (256, 30)
    paths, _, pictures = write_files(chosen, files, size, judged=1)
    rows = []
    for (runtime, precision, owner), path in paths.items():
        kinds = COUNT[runtime](path, pictures, rounds)
        told = sorted(kinds.items(), key=lambda item: (item[1][1] or 0, item[1][0]))[::-1]
        rows.append(
            {
                "runtime": runtime,
                "precision": precision,
                "network": owner,
                "operators": _sum(kinds, ""),
                "that move": _sum(kinds, MOVES),
                "that round": _sum(kinds, ROUNDS),
                "kinds": ", ".join(_words(*item) for item in told),
            }
        )
    report(
        chosen,
        rows,
        libraries=("timm", "transformers", "onnxruntime", "openvino", "ai-edge-litert"),
        notes=f"MobileViT-S, {size} x {size}, one picture, one thread. kinds: how many operators "
        "there are of each, and the milliseconds of all of them in one run, where that is told.",
    )


def _sum(kinds: Kinds, pattern: str | re.Pattern[str]) -> int:
    return sum(count for kind, (count, _) in kinds.items() if re.search(pattern, kind))


def _words(kind: str, counted: tuple[int, float | None]) -> str:
    count, taken = counted
    return f"{kind} {count}" + ("" if taken is None else f" ({taken:.1f} ms)")


def in_onnx(path: Path, x: np.ndarray, rounds: int) -> Kinds:
    """Count and time what ONNX Runtime runs, by its own profile."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        settings.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for _ in range(rounds):
            session.run(None, {name: x})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs = [event for event in events if event["name"].endswith("_kernel_time")]
    taken: dict[str, list[float]] = {}
    for run in runs:
        taken.setdefault(run["args"]["op_name"], []).append(run["dur"] / 1e3)
    return {kind: (len(each) // rounds, sum(each) / rounds) for kind, each in taken.items()}


def in_openvino(path: Path, x: np.ndarray, rounds: int) -> Kinds:
    """Count and time what OpenVINO runs, by its own counters, in fp32 and int8."""
    openvino = import_openvino()
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
    request = openvino.compile_model(path, "CPU", settings).create_infer_request()
    counts: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for _ in range(rounds):
        request.infer([x])
        for node in request.profiling_info:
            if node.status == node.Status.EXECUTED:
                counts[node.node_type] += 1
                taken[node.node_type] += node.real_time.total_seconds() * 1e3
    return {kind: (count // rounds, taken[kind] / rounds) for kind, count in counts.items()}


def in_litert(path: Path, x: np.ndarray, rounds: int) -> Kinds:
    """Count the operators of a file."""
    return {kind: (count, None) for kind, count in litert_file.count_operators(path).items()}


def in_executorch(path: Path, x: np.ndarray, rounds: int) -> Kinds:
    """Count ExecuTorch's own operators, and those in its delegates."""
    counted = executorch_counts.operations(path)
    del counted["XnnpackBackend"]
    return {kind: (count, None) for kind, count in counted.items()}


COUNT = {
    "onnx": in_onnx,
    "openvino": in_openvino,
    "litert": in_litert,
    "executorch": in_executorch,
}


if __name__ == "__main__":
    main()
