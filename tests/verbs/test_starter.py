"""The start of an app: what is in the folder, and that its programs say what Python says."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from mobilevit.data.decoding import read_picture
from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.exporters import write
from mobilevit.deployment.formats import FORMATS
from mobilevit.deployment.preprocess import preprocess
from mobilevit.errors import MissingExtraError, UserError
from mobilevit.networks import DeepLabV3, DeepLabV3Config, SSDLite, SSDLiteConfig, create_model
from mobilevit.tasks import get_task
from mobilevit.verbs.predict import predict
from mobilevit.verbs.starter import CONSUMERS, quote, starter
from peers import enliven

BROWSER = Path(__file__).parents[1] / "browser"
STARTERS = Path(__file__).parents[2] / "src" / "mobilevit" / "deployment" / "starters"
NAMES = ('a "quoted" $name', "Dögel\\n", "<b>two</b>\nlines")
CONTRACTS = {
    "logits": Contract("classification", NAMES, (64, 96), 72, "bicubic"),
    "detections": Contract(
        "detection", NAMES, (64, 96), None, output="detections", class_ids=(7, 42, 3)
    ),
    "candidates": Contract("detection", NAMES, (64, 96), None, output="candidates"),
    "pixel_logits": Contract(
        "segmentation", NAMES, (64, 96), None, output="pixel_logits", class_ids=(0, 200, 7)
    ),
    "coarse_logits": Contract("segmentation", NAMES, (64, 96), None, output="coarse_logits"),
}


class Tiny(nn.Module):
    """The smallest network with an output of each kind."""

    def __init__(self, output: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.output = output
        self.first = nn.Conv2d(3, 8, 8, 8)
        self.last = nn.Conv2d(8, len(NAMES) + 4 * (output == "candidates"), 1)
        nn.init.normal_(self.first.weight, std=0.3)
        self.first.weight.data -= self.first.weight.data.mean((1, 2, 3), keepdim=True)
        nn.init.normal_(self.last.weight, std=0.5)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(F.relu(self.first(x)))
        if self.output == "logits":
            return y.mean((2, 3))
        if self.output == "candidates":
            values = y.flatten(2).transpose(1, 2).sigmoid()
            corner, side, scores = values.split((2, 2, len(NAMES)), 2)
            return torch.cat((corner / 2, (corner + side) / 2, scores), 2)
        if self.output == "pixel_logits":
            return F.interpolate(y, x.shape[2:], mode="bilinear", align_corners=False)
        return y


def write_onnx(output: str, path: Path, precision: str = "fp32") -> None:
    """Write a network as people would export it, with random weights."""
    backbone = partial(create_model, "mobilevit_xxs", layers=(1, 1, 1))
    classes = len(NAMES)
    bare: nn.Module
    if output == "logits":
        bare = enliven(backbone(num_classes=classes))
    elif output == "detections":
        bare = enliven(SSDLite(backbone(num_classes=0), SSDLiteConfig(num_classes=classes)))
    elif output == "pixel_logits":
        head = DeepLabV3Config(num_classes=classes, aspp_width=16)
        bare = enliven(DeepLabV3(backbone(num_classes=0, output_stride=16), head))
    else:
        bare = Tiny(output)
    contract = CONTRACTS[output]
    ready = isinstance(bare, Tiny)
    whole = bare.eval() if ready else get_task(contract.task).deploy(bare, contract)
    seen = np.random.default_rng(0).random((4, 3, *contract.size), np.float32)
    config = ExportConfig(precision)
    write(FORMATS["onnx"], whole, contract, path, config, bare=bare, calibration=seen)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG that lies on its side."""
    path = tmp_path_factory.mktemp("picture") / "photo.jpeg"
    exif = Image.Exif()
    exif[0x0112] = 6
    textured(173, 131, 0).save(path, quality=90, exif=exif)
    return path


def textured(width: int, height: int, seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def root(picture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start from an ONNX file for each kind of output, in a folder of its name."""
    root = tmp_path_factory.mktemp("starts")
    models = tmp_path_factory.mktemp("models")
    for output in CONTRACTS:
        write_onnx(output, models / f"{output}.onnx")
        starter(models / f"{output}.onnx", root / output, picture)
    write_onnx("logits", models / "int8.onnx", "int8")
    starter(models / "int8.onnx", root / "int8", picture)
    return root


@pytest.fixture(params=list(CONTRACTS))
def folder(request: Any, root: Path) -> Path:
    return root / str(request.param)


def golden(folder: Path) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    return held


def assert_same(found: dict[str, Any], expected: dict[str, Any], within: float) -> None:
    """Compare answers; ``within`` is of probabilities, and of boxes in shares of the sides.

    A start gives every pixel its likeliest class, so that it has no word for unsure pixels.
    """
    assert found.keys() - {"path", "unsure"} == expected.keys() - {"path", "unsure"}
    assert expected.get("unsure", 0) == 0
    if "labels" in expected:
        probabilities = {label["name"]: label["probability"] for label in expected["labels"]}
        assert {a["name"]: a["probability"] for a in found["labels"]} == pytest.approx(
            probabilities, abs=within
        )
        assert found["labels"][0]["name"] == expected["labels"][0]["name"]
    elif "boxes" in expected:
        sides = np.array([expected["width"], expected["height"]] * 2)
        assert len(found["boxes"]) == len(expected["boxes"]) > 0
        for mine, its in zip(found["boxes"], expected["boxes"], strict=True):
            assert (mine["name"], mine["class_id"]) == (its["name"], its["class_id"])
            assert mine["score"] == pytest.approx(its["score"], abs=within)
            assert np.abs((np.array(mine["box"]) - its["box"]) / sides).max() < within
    else:
        assert (found["width"], found["height"]) == (expected["width"], expected["height"])
        shares = {(c["name"], c["class_id"]): c["share"] for c in expected["classes"]}
        assert len(shares) > 1
        assert {(c["name"], c["class_id"]): c["share"] for c in found["classes"]} == pytest.approx(
            shares, abs=max(within, 2e-3)
        )


def run_python(folder: Path) -> dict[str, Any]:
    (model,) = (p for p in folder.glob("model.*") if p.suffix != ".bin")
    command = [sys.executable, "predict.py", model.name, golden(folder)["picture"]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_folder_holds_what_an_app_needs(folder: Path, picture: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {"model.onnx", "contract.json", "golden.jpg", "golden.json", "README.md"} <= names
    assert {Path(consumer).name for consumer in CONSUMERS["onnx"]} <= names
    assert (folder / "golden.jpg").read_bytes() == picture.read_bytes()
    told = golden(folder)
    written = json.loads((folder / "contract.json").read_text(encoding="utf-8"))
    assert written == json.loads(CONTRACTS[folder.name].to_json())
    assert told["output"]["shape"][0] == 1
    assert len(told["output"]["first"]) == min(16, int(np.prod(told["output"]["shape"])))
    expected = predict(folder / "model.onnx", [folder / "golden.jpg"])[0].to_dict()
    assert_same(told["prediction"], expected, 1e-6)
    assert told["prediction"]["path"] == "golden.jpg"
    assert ("golden-mask.png" in names) == (CONTRACTS[folder.name].task == "segmentation")
    for path in folder.iterdir():
        if path.suffix in (".md", ".py", ".js", ".html"):
            assert "{{" not in path.read_text(encoding="utf-8"), path


def test_python_says_the_same(folder: Path) -> None:
    assert_same(run_python(folder), golden(folder)["prediction"], 1e-5)
    assert not re.search(r"(import|from) mobilevit", (folder / "predict.py").read_text("utf-8"))


@pytest.mark.parametrize("name", ["I;16", "I", "F"])
def test_python_reads_grey_of_16_bit_as_the_package_does(name: str, tmp_path: Path) -> None:
    predict = runpy.run_path(str(STARTERS / "predict.py"))
    grey = np.arange(65536).reshape(256, 256)
    path = tmp_path / ("grey.tif" if name == "F" else "grey.png")
    made = grey.astype(np.float32 if name == "F" else np.uint16 if name == "I;16" else np.int32)
    Image.fromarray(made).save(path)
    if name == "F":
        with pytest.raises(SystemExit, match="save it with 8 or 16 bit"):
            predict["read_picture"](path)
    else:
        assert np.array_equal(predict["read_picture"](path), read_picture(path))


def test_python_says_how_it_is_used() -> None:
    script = STARTERS / "predict.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "usage: python predict.py MODEL PICTURE\n"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of the user's own, transparent in part."""
    path = tmp_path_factory.mktemp("own") / "own.png"
    picture = textured(90, 141, 2)
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    picture.save(path)
    return path


@pytest.fixture(scope="module")
def pages(root: Path, own: Path) -> dict[str, Any]:
    """What the pages say, and those whose golden answer was changed, in one Chromium."""
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        pytest.skip("no Chromium here")
    modules = BROWSER / "node_modules"
    if not (modules / "onnxruntime-web").is_dir():
        pytest.skip("no tests/browser/node_modules; npm ci makes it")
    for output in CONTRACTS:
        change_answer(Path(shutil.copytree(root / output, root / f"changed-{output}")))
    shown = sorted(path.name for path in root.iterdir())
    for name in shown:
        (root / name / "node_modules").symlink_to(modules)
    with served(root) as url:
        command = [node(), str(BROWSER / "pages.mjs"), chromium, url, str(own), *shown]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def change_answer(folder: Path) -> None:
    told = golden(folder)
    for answer in told["prediction"].get("labels", [])[-1:]:
        answer["probability"] += 0.03
    for answer in told["prediction"].get("boxes", [])[:1]:
        answer["box"][0] -= 0.03 * told["prediction"]["width"]
    (folder / "golden.json").write_text(json.dumps(told), encoding="utf-8")
    if "mask" in told:
        mask = np.array(Image.open(folder / told["mask"]))
        mask[: len(mask) // 50 + 1] += 1
        Image.fromarray(mask).save(folder / told["mask"])


@contextmanager
def served(root: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_page_says_the_same_of_the_golden_picture(
    folder: Path, pages: dict[str, Any], own: Path
) -> None:
    told = pages[folder.name]["golden"]
    assert told["state"] == "done", told["status"]
    assert told["verdict"] == "✓ the golden picture gives the golden answer"
    assert_same(told["prediction"], golden(folder)["prediction"], 1e-3)
    assert pages[folder.name]["other"] == []  # nothing was asked of other machines
    with Image.open(own.with_name(f"{folder.name}.png")) as shot:
        assert np.asarray(shot.convert("L")).std() > 5


def test_the_page_runs_int8(root: Path, pages: dict[str, Any]) -> None:
    told = pages["int8"]["golden"]
    assert told["state"] == "done", told["status"]
    assert told["verdict"] == "✓ the golden picture gives the golden answer"
    assert_same(told["prediction"], golden(root / "int8")["prediction"], 0.02)


def test_the_page_takes_pictures_of_the_users_own(
    folder: Path, pages: dict[str, Any], own: Path
) -> None:
    told = pages[folder.name]["own"]
    assert told["state"] == "done", told["status"]
    expected = predict(folder / "model.onnx", [own])[0].to_dict()
    assert_same(told["prediction"], expected, 5e-3)


def test_the_page_tells_another_answer(folder: Path, pages: dict[str, Any]) -> None:
    told = pages[f"changed-{folder.name}"]["golden"]
    assert told["state"] == "done", told["status"]
    assert told["verdict"].startswith("✗")


def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("no Node here")
    return found


def test_two_classes_of_one_name_agree_with_themselves() -> None:
    source = (STARTERS / "web" / "contract.js").as_uri()
    program = f"""
    import {{ agrees }} from "{source}";
    const answer = (...shares) => ({{
      labels: shares.map((probability) => ({{ name: "crane", probability }})),
    }});
    const same = agrees(answer(0.6, 0.3), answer(0.6, 0.3), null);
    const other = agrees(answer(0.6, 0.3), answer(0.7, 0.3), null);
    const flat = agrees(answer(0.9, 0.05), answer(0.015, 0.014), null);
    console.log(same, other, flat, agrees(answer(0.6), answer(0.6, 0.01), null));
    """
    command = [node(), "--input-type=module", "-e", program]
    done = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.split() == ["true", "false", "false", "true"]


SIZES = ((173, 131), (37, 260), (64, 96), (300, 20), (5, 7), (96, 64))


def test_the_browsers_input_is_pythons_to_the_last_bit(shared_data: Path, tmp_path: Path) -> None:
    photo = read_picture(next((shared_data / "coco" / "val2017").glob("*.jpg")))
    cases, expected = [], []
    for picture in (photo, *(textured(*size, seed) for seed, size in enumerate(SIZES))):
        for kernel in ("bilinear", "bicubic"):
            for resize in (None, 72):
                contract = Contract("classification", NAMES, (64, 96), resize, kernel)
                width, height = picture.size
                pixels, made = (tmp_path / f"{len(cases)}.{kind}" for kind in ("rgba", "f32"))
                pixels.write_bytes(picture.convert("RGBA").tobytes())
                cases.append(
                    {
                        "width": width,
                        "height": height,
                        "contract": asdict(contract),
                        "pixels": str(pixels),
                        "input": str(made),
                    }
                )
                expected.append(preprocess(picture, contract))
    last = {**cases[0]["contract"], "layout": "NHWC"}  # type: ignore[dict-item]
    cases.append({**cases[0], "contract": last, "input": str(tmp_path / "last.f32")})
    expected.append(expected[0].transpose(1, 2, 0))
    (tmp_path / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    source = STARTERS / "web" / "contract.js"
    command = [node(), str(BROWSER / "preprocess.mjs"), str(source), str(tmp_path / "cases.json")]
    subprocess.run(command, check=True, timeout=60)
    for case, wanted in zip(cases, expected, strict=True):
        found = np.fromfile(str(case["input"]), np.float32).reshape(wanted.shape)
        np.testing.assert_array_equal(found, wanted, err_msg=str(case))


def make_other(name: str, output: str, picture: Path, folder: Path) -> Path:
    format = FORMATS[name]
    try:
        format.check(format.builds + format.runs)
    except MissingExtraError as error:
        pytest.skip(str(error))
    path = folder / f"x{format.suffix}"
    write(format, Tiny(output).eval(), CONTRACTS[output], path)
    starter(path, folder / "start", picture)
    return folder / "start"


@pytest.mark.parametrize(
    ("name", "output"),
    [("litert", "candidates"), ("executorch", "logits"), ("openvino", "coarse_logits")],
)
def test_each_runtimes_python_says_the_same(
    name: str, output: str, picture: Path, tmp_path: Path
) -> None:
    folder = make_other(name, output, picture, tmp_path)
    assert_same(run_python(folder), golden(folder)["prediction"], 1e-4)
    assert (folder / "model.bin").exists() == (name == "openvino")
    kotlin = [path for path in folder.iterdir() if path.suffix == ".kt"]
    assert len(kotlin) == (0 if name == "openvino" else 2)
    for path in kotlin:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("// NOT COMPILED AND NOT RUN")
        assert "{{" not in text
    if kotlin:
        text = (folder / "Predict.kt").read_text(encoding="utf-8")
        assert "HEIGHT = 64\n" in text
        assert "WIDTH = 96\n" in text
        assert f"RESIZE = {CONTRACTS[output].resize or 0} " in text
        assert f"CHANNELS_LAST = {str(name == 'litert').lower()}\n" in text
        assert f'OUTPUT = "{output}"\n' in text
        (names,) = re.findall(r"NAMES = listOf\((.*)\)\n", text)
        assert json.loads(f"[{names}]".replace(r"\$", "$")) == list(NAMES)  # escaped else as JSON


def test_swift_holds_the_contract(picture: Path, tmp_path: Path) -> None:
    folder = make_other("coreml", "logits", picture, tmp_path)
    assert (folder / "model.mlpackage").is_dir()
    text = (folder / "Predict.swift").read_text(encoding="utf-8")
    assert text.startswith("// NOT COMPILED AND NOT RUN")
    assert "{{" not in text
    for line in ("height = 64\n", "width = 96\n", "resize = 72 ", "bicubic = true "):
        assert f"private let {line}" in text
    (names,) = re.findall(r"private let names = \[(.*)\]\n", text)
    assert json.loads(f"[{names}]".replace(r"\u{a}", r"\n")) == list(NAMES)
    if sys.platform != "darwin":
        assert "not run by Core ML" in (folder / "README.md").read_text(encoding="utf-8")


def test_names_are_quoted_for_each_language() -> None:
    text = 'a"\\$\t\U000e0001ö'
    assert quote(text, "kotlin") == r'"a\"\\\$\u0009\udb40\udc01ö"'
    assert quote(text, "swift") == r'"a\"\\$\u{9}\u{e0001}ö"'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "x.onnx"
    write(FORMATS["onnx"], Tiny("logits").eval(), CONTRACTS["logits"], path)
    return path


def test_what_it_refuses(model: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"x\.safetensors: a start is made from an artefact.*export"
    ):
        starter(tmp_path / "x.safetensors", tmp_path / "a", picture)
    (tmp_path / "x.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match=r"x\.onnx: ONNX Runtime cannot load it"):
        starter(tmp_path / "x.onnx", tmp_path / "a", picture)
    (tmp_path / "x.jpg").write_bytes(b"no picture at all")
    with pytest.raises(UserError, match=r"x\.jpg: it is not a picture"):
        starter(model, tmp_path / "a", tmp_path / "x.jpg")
    with pytest.raises(UserError, match="it exists and is not empty"):
        starter(model, tmp_path, picture)
    assert {path.name for path in tmp_path.iterdir()} == {"x.safetensors", "x.onnx", "x.jpg"}


def test_a_picture_that_not_all_decoders_read_becomes_a_png(model: Path, tmp_path: Path) -> None:
    Image.fromarray(np.arange(9000, dtype=np.uint16).reshape(90, 100)).save(tmp_path / "x.tif")
    starter(model, tmp_path / "start", tmp_path / "x.tif")
    with Image.open(tmp_path / "start" / "golden.png") as copied:
        assert (copied.mode, copied.size) == ("RGB", (100, 90))
        assert copied.tobytes() == read_picture(tmp_path / "x.tif").tobytes()


def test_it_says_what_it_wrote(
    model: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = starter(model, tmp_path / "start", picture)
    made.print(Console(width=60))
    told = capsys.readouterr().out
    assert "start/README.md" in told
    assert "predict.js" in told
    assert json.dumps(made.to_dict())
    assert set(made.files) == {path.name for path in (tmp_path / "start").iterdir()}
