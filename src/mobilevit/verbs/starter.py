"""Write an app developer's start: an artefact, what it expects, and code that uses it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilevit.deployment.formats import FORMATS, Format, format_of
from mobilevit.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mobilevit.deployment.contract import Contract
    from mobilevit.deployment.runtimes import Predictor

FIRST = 16
"""Numbers of the output that are told."""

_PYTHON = {"predict.py": "says in Python what is on a picture"}
_KOTLIN = {
    "kotlin/Predict.kt": "the same in Kotlin, with the contract written in; **not run yet**",
    "kotlin/{format}/Network.kt": "the runtime for `Predict.kt`; **not run yet**",
}
CONSUMERS: Mapping[str, Mapping[str, str]] = {
    "onnx": {
        "web/index.html": "a page that says in the browser what is on a picture",
        "web/predict.js": "what the page does",
        "web/contract.js": "from a picture to the network's input, from its output to answers",
        "web/package.json": "what `npm install` fetches: onnxruntime-web",
        **_PYTHON,
    },
    "coreml": {
        "swift/Predict.swift": "says in Swift what is on a picture, with the contract written in; "
        "**not run yet**"
    },
    "executorch": {**_PYTHON, **_KOTLIN},
    "litert": {**_PYTHON, **_KOTLIN},
    "openvino": _PYTHON,
}
"""What uses an artefact of each format, as it lies in ``deployment/starters``, and what that is."""


@dataclass(frozen=True)
class Starter:
    """A folder to start an app from.

    Attributes:
        folder: the folder.
        model: the artefact's name in it.
        files: all names in it.
        prediction: of the golden picture, in one line.
    """

    folder: Path
    model: str
    files: tuple[str, ...]
    prediction: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {
            "folder": str(self.folder),
            "model": self.model,
            "files": list(self.files),
            "prediction": self.prediction,
        }

    def print(self, console: Console) -> None:
        """Print it for people."""
        for line in (
            f"{self.folder}: {', '.join(self.files)}",
            f"the golden picture: {self.prediction}",
            f"Next: read {self.folder / 'README.md'}",
        ):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def starter(artefact: str | Path, folder: str | Path, picture: str | Path) -> Starter:
    """Write a folder with an artefact and all that an app needs to use it.

    Beside the artefact it has its contract, a golden picture with what the artefact says of it
    here, in its own runtime, and small programs that come to the same: a page for browsers (ONNX),
    Python, Kotlin (LiteRT, ExecuTorch) and Swift (Core ML).

    Args:
        artefact: a file, or a folder of Core ML, that ``export`` made.
        folder: to write; it must be new or empty.
        picture: the golden picture.

    Raises:
        MissingExtraError: when the artefact's runtime is not installed.
        UserError: when the artefact or the picture cannot be read, or the folder is not empty.
    """
    from mobilevit.deployment.runtimes import load_predictor
    from mobilevit.files import making

    format = format_of(artefact)
    if format is None:
        suffixes = ", ".join(known.suffix for known in FORMATS.values())
        raise UserError(
            f"{artefact}: a start is made from an artefact ({suffixes}). Make one with: mobilevit "
            "export MODEL"
        )
    with making(Path(folder)) as made:
        predictor = load_predictor(artefact)
        model = _copy_model(predictor.path, made, format)
        picture = _copy_picture(Path(picture), made)
        _write_json(made / "contract.json", json.loads(predictor.contract.to_json()))
        golden, summary = _write_golden(predictor, picture, made)
        values = _values(predictor, format, model, golden)
        for source in CONSUMERS[format.name]:
            text = _fill(_read(source.format(format=format.name)), values)
            (made / Path(source).name).write_text(text, encoding="utf-8")
        values["HOW"] = _fill(_read(f"readme/{format.name}.md"), values).strip()
        (made / "README.md").write_text(_fill(_read("readme/README.md"), values), encoding="utf-8")
        files = sorted(entry.name for entry in made.iterdir())
    return Starter(Path(folder), model, tuple(files), summary)


def _copy_model(path: Path, folder: Path, format: Format) -> str:
    """Copy an artefact, with all its files."""
    target = folder / f"model{format.suffix}"
    if path.is_dir():
        shutil.copytree(path, target)
    else:
        for file in format.files(path):
            shutil.copyfile(file, target.with_suffix(file.suffix))
    return target.name


def _copy_picture(path: Path, folder: Path) -> Path:
    """Copy a picture as it is, or as PNG where not every decoder would read it alike."""
    from mobilevit.data.decoding import Picture

    with Picture(path) as picture:
        suffix = {"JPEG": ".jpg", "PNG": ".png"}.get(picture.format)
        if suffix and picture.mode in ("L", "RGB"):
            return Path(shutil.copyfile(path, folder / f"golden{suffix}"))
        picture.decode().save(folder / "golden.png")
        return folder / "golden.png"


def _write_golden(predictor: Predictor, picture: Path, folder: Path) -> tuple[dict[str, Any], str]:
    """Write what an artefact says of the golden picture; return that, whole and as one line."""
    from PIL import Image

    from mobilevit.deployment.preprocess import load_batch
    from mobilevit.tasks import get_task
    from mobilevit.tasks.segmentation import Prediction as Mask

    contract = predictor.contract
    outputs = predictor.run(load_batch([picture], contract))
    (prediction,) = get_task(contract.task).decode(outputs, contract, [picture])
    golden: dict[str, Any] = {
        "picture": picture.name,
        "precision": predictor.describe()["precision"],
        "output": {"shape": list(outputs.shape), "first": outputs.ravel()[:FIRST].tolist()},
        "prediction": {**prediction.to_dict(), "path": picture.name},
    }
    if isinstance(prediction, Mask):
        golden["mask"] = "golden-mask.png"
        Image.fromarray(prediction.mask).save(folder / "golden-mask.png")
    _write_json(folder / "golden.json", golden)
    return golden, prediction.summary()


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _values(
    predictor: Predictor, format: Format, model: str, golden: Mapping[str, Any]
) -> dict[str, str]:
    """Return what is written into the texts where its name stands in double braces."""
    from mobilevit.machine import versions

    contract = predictor.contract
    height, width = contract.size
    names = contract.class_names
    libraries = [f"{name} {version}" for name, version in versions(format.runs).items() if version]
    ran = predictor.describe().get("runs_as")
    files = [f"| `{Path(name).name}` | {what} |" for name, what in CONSUMERS[format.name].items()]
    if "mask" in golden:
        files.insert(0, f"| `{golden['mask']}` | its answer: the index of every pixel's class |")
    return {
        "MODEL": model,
        "PICTURE": golden["picture"],
        "TASK": contract.task,
        "HEIGHT": str(height),
        "WIDTH": str(width),
        "RESIZE": str(contract.resize or 0),
        "KERNEL": contract.interpolation,
        "BICUBIC": str(contract.interpolation == "bicubic").lower(),
        "NHWC": str(contract.layout == "NHWC").lower(),
        "OUTPUT": contract.output,
        "SHAPE": ", ".join(map(str, golden["output"]["shape"])),
        "KOTLIN_NAMES": ", ".join(quote(name, "kotlin") for name in names),
        "SWIFT_NAMES": ", ".join(quote(name, "swift") for name in names),
        "IDS": ", ".join(map(str, contract.class_ids or range(len(names)))),
        "INPUT": _rule(contract),
        "RANGE": "The network divides by 255 itself."
        if contract.layout == "image"
        else "Its values are divided by 255, and that is all: no mean, no standard deviation.",
        "FILES": "\n".join(files),
        "RAN": " and ".join(libraries) + (f" ({ran})" if ran else ""),
        "TESTED": "What is marked as not run was neither compiled nor run by those who wrote it. "
        * any("not run" in what for what in CONSUMERS[format.name].values())
        + "The tests of the package run the other programs, on other networks."
        * (format.name != "coreml"),
    }


def _rule(contract: Contract) -> str:
    """Return in words how a picture becomes an input."""
    height, width = contract.size
    if contract.resize is None:
        return f"The whole picture is stretched to {width}×{height} pixels"
    return (
        f"The picture's shorter side is scaled to {contract.resize} pixels, and {width}×{height} "
        "are cut from the middle"
    )


def _read(source: str) -> str:
    path = resources.files("mobilevit.deployment") / "starters" / source
    return path.read_text(encoding="utf-8")


def _fill(text: str, values: Mapping[str, str]) -> str:
    """Put in each value where its name stands in double braces."""
    return re.sub(r"\{\{([A-Z_]+)\}\}", lambda found: values[found[1]], text)


def quote(text: str, language: str) -> str:
    """Return text as it stands in a program of Kotlin or Swift."""

    def escape(character: str) -> str:
        if character in '\\"' or (character == "$" and language == "kotlin"):
            return f"\\{character}"
        if character.isprintable():
            return character
        if language == "swift":
            return f"\\u{{{ord(character):x}}}"
        units = character.encode("utf-16-be")
        pairs = [units[i : i + 2].hex() for i in range(0, len(units), 2)]
        return "".join(f"\\u{pair}" for pair in pairs)

    return f'"{"".join(map(escape, text))}"'
