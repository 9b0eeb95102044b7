from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from mobilevit.checkpoints import Checkpoint, architecture, save_checkpoint
from mobilevit.deployment.manifest import ORIGIN
from mobilevit.deployment.preprocess import load_batch
from mobilevit.deployment.runtimes import load_predictor
from mobilevit.deployment.runtimes.onnx import OnnxPredictor
from mobilevit.deployment.runtimes.pytorch import TorchPredictor
from mobilevit.errors import MissingExtraError, UserError
from mobilevit.files import find_model


@pytest.fixture
def run(network, contract, tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    described = architecture("mobilevit_xxs", network)
    save_checkpoint(folder / "best.safetensors", Checkpoint(network, contract, described))
    return folder


def test_a_run_folder_and_a_file_are_the_same_model(run, network, contract, pictures):
    images = load_batch(pictures[:3], contract)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    for model in (run, str(run), run / "best.safetensors"):
        predictor = load_predictor(model, threads=1)
        assert isinstance(predictor, TorchPredictor)
        assert predictor.contract == contract
        np.testing.assert_allclose(predictor.run(images), expected, atol=1e-4)


def test_bf16_is_close(run, contract, pictures):
    images = load_batch(pictures[:3], contract)
    exact, close = (load_predictor(run, 1, precision).run(images) for precision in ("fp32", "bf16"))
    assert 0 < np.abs(exact - close).max() < 0.1 * np.ptp(exact)


def test_descriptions_agree(run, exported, exported_dynamic):
    torch_, static, dynamic = map(_described, (run, exported, exported_dynamic))
    assert torch_.keys() < static.keys() == dynamic.keys()
    assert static["quantised"] is None
    for key in ("parameters", "multiply_adds", "network", "size", "precision"):
        assert torch_[key] == static[key]
    assert (torch_["batch"], static["batch"], dynamic["batch"]) == (None, 1, None)
    assert torch_["bytes"] > 4 * torch_["parameters"]
    assert static["bytes"] == exported.stat().st_size


def test_torchs_threads_are_put_back(network, contract):
    before = torch.get_num_threads()
    inside = []
    predictor = TorchPredictor(network, contract, Path("x"), threads=before + 1)
    predictor._fast.register_forward_hook(lambda *_: inside.append(torch.get_num_threads()))
    predictor.run(np.zeros((1, 3, *contract.size), np.float32))
    assert (inside, torch.get_num_threads()) == ([before + 1], before)


def test_images_that_do_not_fit_are_refused(run, exported):
    for predictor in (load_predictor(run), load_predictor(exported)):
        for images in (
            np.zeros((1, 3, 64, 64), np.float32),
            np.zeros((1, 3, 64, 128), np.float64),
            np.zeros((0, 3, 64, 128), np.float32),
        ):
            with pytest.raises(ValueError, match="the contract wants"):
                predictor.run(images)


def test_an_onnx_file_needs_no_torch(exported, photos):
    code = (
        "import sys\n"
        "from mobilevit.deployment.preprocess import load_batch\n"
        "from mobilevit.deployment.runtimes import load_predictor\n"
        "predictor = load_predictor(sys.argv[1], 1)\n"
        "print(predictor.run(load_batch(sys.argv[2:], predictor.contract)).shape)\n"
        "assert not {'torch', 'onnx', 'torchvision'} & sys.modules.keys()\n"
    )
    picture = next(photos.glob("val/*/*.jpg"))
    command = [sys.executable, "-c", code, str(exported), str(picture), str(picture)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "(2, 7)", done.stderr


def test_what_cannot_be_opened_is_named(run, exported, tmp_path):
    def refuses(path: Path, pattern: str) -> None:
        with pytest.raises(UserError, match=pattern) as caught:
            load_predictor(path)
        assert str(path) in str(caught.value)

    refuses(run / "bestt.safetensors", r"no such model.*Did you mean 'best\.safetensors'")
    refuses(tmp_path / "nowhere" / "x.onnx", "no such model")
    refuses(tmp_path, r"no best\.safetensors")
    picture = tmp_path / "model.jpg"
    picture.write_bytes(b"x")
    refuses(picture, "no weights file")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(exported.read_bytes()[:100_000])
    refuses(damaged, "damaged or no ONNX file")
    foreign = tmp_path / "foreign.onnx"
    model = onnx.load(exported)
    del model.metadata_props[:]
    onnx.save(model, foreign)
    refuses(foreign, "holds no contract.*mobilevit export")
    kind, opset = onnx.TensorProto.FLOAT, [onnx.helper.make_opsetid("", 18)]
    for inputs in ([], [onnx.helper.make_tensor_value_info("x", kind, [3])]):
        constant = onnx.helper.make_node("Constant", [], ["y"], value_float=1.0)
        given = onnx.helper.make_tensor_value_info("y", kind, [])
        graph = onnx.helper.make_graph([constant], "other", inputs, [given])
        onnx.save(onnx.helper.make_model(graph, ir_version=10, opset_imports=opset), foreign)
        refuses(foreign, "holds no contract.*mobilevit export")


def test_what_a_later_version_says_of_the_origin_is_left_out(exported, tmp_path):
    model = onnx.load(exported)
    for entry in model.metadata_props:
        if entry.key == ORIGIN:
            entry.value = json.dumps({**json.loads(entry.value), "later": 1})
    onnx.save(model, tmp_path / "later.onnx")
    assert load_predictor(tmp_path / "later.onnx").origin == load_predictor(exported).origin


def test_find_model(run):
    assert find_model(run) == run / "best.safetensors"


def test_numbers_that_make_no_sense(network, contract, exported):
    with pytest.raises(UserError, match="threads is 0"):
        OnnxPredictor(exported, threads=0)
    with pytest.raises(UserError, match="threads is -1"):
        TorchPredictor(network, contract, Path("x"), threads=-1)
    with pytest.raises(UserError, match="unknown precision 'fp16'"):
        TorchPredictor(network, contract, Path("x"), precision="fp16")


def test_a_missing_runtime_is_answered_with_the_pip_line(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r'pip install "mobilevit\[onnx\]"'):
        load_predictor(exported)


def _described(model: Path) -> dict:
    return load_predictor(model).describe()
