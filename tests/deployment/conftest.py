from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mobilevit.deployment.config import ExportConfig
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.exporters import write
from mobilevit.deployment.formats import FORMATS
from mobilevit.networks import MobileViT, create_model

NAMES = ("cat", "Dögel", "two words", "d", "e", "f", "g")


@pytest.fixture(scope="session")
def contract() -> Contract:
    return Contract("classification", NAMES, size=(64, 128), resize=80)


@pytest.fixture(scope="session")
def network() -> MobileViT:
    """XXS with random weights and, so that folding is not trivial, random batch statistics."""
    torch.manual_seed(0)
    network = create_model("mobilevit_xxs", num_classes=len(NAMES), layers=(1, 1, 1)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    nn.init.normal_(network.head.weight, std=0.3)
    return network


@pytest.fixture(scope="session")
def exported(network: MobileViT, contract: Contract, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("static") / "model.onnx"
    write(FORMATS["onnx"], network, contract, path, name="mobilevit_xxs")
    return path


@pytest.fixture(scope="session")
def exported_dynamic(network: MobileViT, contract: Contract, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("dynamic") / "model.onnx"
    write(FORMATS["onnx"], network, contract, path, ExportConfig(dynamic_batch=True))
    return path


@pytest.fixture(scope="session")
def pictures(shared_data: Path) -> list[Path]:
    """Twelve photographs of different sizes."""
    found = sorted((shared_data / "coco" / "val2017").glob("*.jpg"))[:8]
    return found + sorted((shared_data / "imagenette" / "val").glob("*/*.jpg"))[::1000]
