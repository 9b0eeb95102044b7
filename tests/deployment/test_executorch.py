from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobilevit.deployment.attachment import attach, read_attached
from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.exporters import write
from mobilevit.deployment.formats import FORMATS
from mobilevit.deployment.manifest import Manifest
from mobilevit.errors import UserError
from mobilevit.networks import (
    DeepLabV3,
    DeepLabV3Config,
    MobileViT,
    SSDLite,
    SSDLiteConfig,
    create_model,
)
from mobilevit.networks.layers import ConvNormAct
from mobilevit.networks.mobilevit import VARIANTS, Attention, MobileViTBlock
from mobilevit.tasks import get_task

pytest.importorskip("executorch")
pytest.importorskip("torchao")

from mobilevit.deployment.capture import prepare
from mobilevit.deployment.exporters.executorch import ExecuTorchExporter
from mobilevit.deployment.exporters.executorch_counts import operations
from mobilevit.deployment.exporters.xnnpack import rewrite
from mobilevit.deployment.runtimes.executorch import ExecuTorchPredictor

EXECUTORCH = FORMATS["executorch"]
PLAIN = Contract("classification", tuple("abcd"), size=(32, 64), resize=40)


class Mini(nn.Module):
    """A convolution, a MobileViT block and a classifier: all that there is to lower, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, 16, 3, stride=4)
        self.block = MobileViTBlock(16, 32, 2, 2, VARIANTS["mobilevit_xxs"])
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).mean((2, 3)))


def convolutional(**numbers: int) -> MobileViT:
    """XXS without transformers, for what stands on a backbone."""
    return MobileViT(replace(VARIANTS["mobilevit_xxs"], layers=(0, 0, 0), **numbers))


def enliven(network: nn.Module) -> nn.Module:
    """Make a network one with which a wiring error shows."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, std=0.2)
    return network.eval()


def images(contract: Contract, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, *contract.size), dtype=np.float32)


def expected(network: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(torch.from_numpy(x)).numpy()


def runs(path: Path) -> dict[str, int]:
    """Count what ExecuTorch itself calls."""
    counted = operations(path)
    return {name: count for name, count in counted.items() if not name.startswith("XNN")}


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    network = enliven(Mini())
    nn.init.normal_(network.head.weight)
    return network


@pytest.fixture(scope="module")
def exported(small: nn.Module, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("fp32") / "model.pte"
    write(EXECUTORCH, small, PLAIN, path, name="small")
    return path


@pytest.fixture(scope="module")
def quantised(small: nn.Module, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "model.pte"
    config = ExportConfig("int8", float_blocks=("block.transformer.0.attention", "head"))
    write(EXECUTORCH, small, PLAIN, path, config, calibration=images(PLAIN, 8))
    return path


def test_rewriting_for_xnnpack_changes_no_output():
    torch.manual_seed(0)
    network = enliven(create_model("mobilevit_xxs", num_classes=4))
    x = images(PLAIN)
    rewritten = rewrite(prepare(network))
    assert not any(isinstance(module, (nn.LayerNorm, Attention)) for module in rewritten.modules())
    np.testing.assert_allclose(expected(rewritten, x), expected(network, x), atol=1e-5)


def test_the_file_computes_what_the_network_computes(exported, small):
    x = images(PLAIN)
    outputs = expected(small, x)
    assert np.ptp(outputs) > 0.1  # the weights do say something
    np.testing.assert_allclose(ExecuTorchPredictor(exported).run(x), outputs, atol=1e-5)


def test_xnnpack_takes_the_whole_network(exported):
    assert runs(exported) == {"XnnpackBackend": 1}
    described = ExecuTorchPredictor(exported).describe()
    assert (described["delegated"], described["quantised"]) == (1.0, None)
    assert (described["backend"], described["precision"], described["batch"]) == (
        *("xnnpack", "fp32"),
        1,
    )


def test_int8_is_close_and_small_and_counted(quantised, exported, small):
    x = images(PLAIN, 8)
    outputs, found = expected(small, x), ExecuTorchPredictor(quantised).run(x)
    noise = np.square(outputs - found).sum() / np.square(outputs).sum()
    assert 1e-9 < noise < 0.05
    assert runs(quantised) == {"XnnpackBackend": 1}
    counted = ExecuTorchPredictor(quantised).describe()["quantised"]
    # Of 22, both products of two attentions stay in float, and of the named ones five layers.
    assert counted["operations"] == pytest.approx(13 / 22)
    assert 0.3 < counted["bytes"] < 1
    kinds = operations(quantised)
    assert (kinds["XNNSigmoid int8"], kinds["XNNSigmoid"]) == (6, 0)
    assert kinds["XNNReciprocalSquareRoot"] == 5  # norms stay in float


def test_an_unknown_float_block_is_named(small, tmp_path):
    config = ExportConfig("int8", float_blocks=("block.fuze",))
    with pytest.raises(UserError, match=r"'block\.fuze'.*Did you mean 'block\.fuse'"):
        write(EXECUTORCH, small, PLAIN, tmp_path / "x.pte", config, calibration=images(PLAIN))


def test_candidates_of_a_detector(tmp_path):
    contract = Contract("detection", tuple("abcd"), (64, 64), None, output="candidates")
    network = enliven(SSDLite(convolutional(), SSDLiteConfig(num_classes=5)))
    detector = get_task("detection").deploy(network, contract)
    path = tmp_path / "detector.pte"
    write(EXECUTORCH, detector, contract, path)
    x = images(contract)
    np.testing.assert_allclose(ExecuTorchPredictor(path).run(x), expected(detector, x), atol=1e-5)
    assert runs(path)["XnnpackBackend"] == 1
    chosen = replace(contract, output="detections")
    with pytest.raises(UserError, match="--raw"):
        write(EXECUTORCH, detector, chosen, tmp_path / "chosen.pte")


def test_masks_of_a_segmenter(tmp_path):
    contract = Contract("segmentation", tuple("abcd"), (64, 64), None, output="pixel_logits")
    backbone = convolutional(output_stride=16)
    network = enliven(DeepLabV3(backbone, DeepLabV3Config(num_classes=4, aspp_width=16)))
    segmenter = get_task("segmentation").deploy(network, contract)
    path = tmp_path / "segmenter.pte"
    write(EXECUTORCH, segmenter, contract, path)
    x = images(contract)
    outputs = ExecuTorchPredictor(path).run(x)
    assert outputs.shape == (2, 4, 64, 64)
    np.testing.assert_allclose(outputs, expected(segmenter, x), atol=1e-4)
    assert ExecuTorchPredictor(path).describe()["delegated"] == 1


def test_a_file_for_apples_machines_is_written_and_refused_here(small, tmp_path):
    pytest.importorskip("coremltools")
    path = tmp_path / "model.pte"
    write(EXECUTORCH, small, PLAIN, path, ExportConfig(backend="coreml"))
    assert runs(path) == {"CoreMLBackend": 1}
    manifest = Manifest.read(read_attached(path), path)
    assert manifest.network["delegated"] == 1
    assert manifest.network["precision"] == "fp16"
    with pytest.raises(UserError, match="backend coreml, which is not on this machine"):
        ExecuTorchPredictor(path)


def test_two_numbers_of_threads_in_one_process(exported, small):
    x = images(PLAIN)
    one, two = ExecuTorchPredictor(exported, 1), ExecuTorchPredictor(exported, 2)
    from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count

    for predictor, threads in ((one, 1), (two, 2), (one, 1)):
        np.testing.assert_allclose(predictor.run(x), expected(small, x), atol=1e-5)
        assert _threadpool_get_thread_count() == threads
    with pytest.raises(UserError, match="threads is 0"):
        ExecuTorchPredictor(exported, 0)


def test_it_prints_nothing(exported, capfd):
    ExecuTorchPredictor(exported, 1).run(images(PLAIN))
    ExecuTorchPredictor(exported, 2).run(images(PLAIN))
    assert capfd.readouterr() == ("", "")


def test_entries_can_be_added(exported, tmp_path):
    copy = tmp_path / "copy.pte"
    shutil.copy(exported, copy)
    ExecuTorchExporter().annotate(copy, {"mobilevit.comparison": "{}"})
    assert read_attached(copy)["mobilevit.comparison"] == "{}"
    predictor = ExecuTorchPredictor(copy)
    assert (predictor.contract, predictor.backend) == (PLAIN, "xnnpack")


def test_what_cannot_be_opened_is_named(exported, tmp_path):
    path = tmp_path / "model.pte"
    entries = read_attached(exported)

    def refuses(content: bytes, pattern: str, entries: dict[str, str] | None = None) -> None:
        path.write_bytes(content)
        if entries is not None:
            attach(path, entries)
        with pytest.raises(UserError, match=pattern) as caught:
            ExecuTorchPredictor(path)
        assert str(path) in str(caught.value)

    whole = exported.read_bytes()
    bare = whole[: whole.rindex(b"PK\x03\x04")]
    refuses(whole[:10_000], "cut off")
    refuses(whole[:10_000], "damaged or of another version", entries)
    refuses(b"no program at all", "damaged or of another version", entries)
    refuses(bare, "holds no contract")
    refuses(bare, "holds no contract", {})
    elsewhere = entries | {"mobilevit.backend": "vulkan"}
    refuses(bare, "backend vulkan, which is not on this machine", elsewhere)
    other = replace(PLAIN, size=(64, 64)).to_json()
    refuses(whole, "its input is", {"mobilevit.contract": other})
