from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mobilevit.deployment.capture import prepare
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.sensitivity import SimulatedInt8, find_blocks
from mobilevit.networks import DeepLabV3, DeepLabV3Config, SSDLite, SSDLiteConfig, create_model
from mobilevit.tasks import get_task


@pytest.fixture(scope="module")
def prepared(network):
    return prepare(network)


@pytest.fixture(scope="module")
def x(contract) -> torch.Tensor:
    return torch.rand(4, 3, *contract.size, generator=torch.Generator().manual_seed(0))


def test_the_blocks_hold_every_weight_once(network):
    for found in (network, create_model("mobilevitv2_050", num_classes=3)):
        blocks = find_blocks(found)
        counted = sum(p.numel() for module in blocks.values() for p in module.parameters())
        assert counted == sum(p.numel() for p in found.parameters())
    names = find_blocks(network)
    assert {"stem", "stages.0.0", "stages.2.1.local", "stages.3.1.transformer.0", "head"} <= {
        *names
    }


def test_a_detector_and_a_segmenter_have_the_blocks_of_their_networks():
    backbone = {"num_classes": 0, "layers": (1, 1, 1)}
    ssd = SSDLite(create_model("mobilevit_xxs", **backbone), SSDLiteConfig(num_classes=3))
    backbone |= {"output_stride": 16}
    deeplab = DeepLabV3(create_model("mobilevit_xxs", **backbone), DeepLabV3Config(num_classes=3))
    for contract, network in (
        (Contract("detection", ("a", "b"), (96, 96), None, output="detections"), ssd),
        (Contract("segmentation", ("a", "b", "c"), (96, 96), None, output="pixel_logits"), deeplab),
    ):
        deployed = get_task(contract.task).deploy(network, contract)
        blocks = find_blocks(deployed)
        assert len(blocks) > 20
        assert "" not in blocks
        counted = sum(p.numel() for block in blocks.values() for p in block.parameters())
        assert counted == sum(p.numel() for p in deployed.parameters())


def test_all_blocks_lose_more_than_one_and_none_nothing(prepared, x):
    blocks = find_blocks(prepared)
    mode = SimulatedInt8()
    with torch.no_grad():
        exact = prepared(x)
        with mode.rounding(blocks):
            torch.testing.assert_close(prepared(x), exact, rtol=0, atol=1e-5)
        mode.stage = "round"
        losses = []
        for chosen in ({}, {"stages.3.1.transformer.0": None}, blocks):
            with mode.rounding({name: blocks[name] for name in chosen}):
                losses.append((prepared(x) - exact).abs().max().item())
        torch.testing.assert_close(prepared(x), exact, rtol=0, atol=0)  # and it is left alone
    assert losses[0] == 0
    assert 0 < losses[1] < losses[2] < 0.3 * np.ptp(exact.numpy())


def test_a_convolution_is_rounded_as_by_hand():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 2, 1)
    x = torch.rand(1, 3, 4, 4)
    mode = SimulatedInt8()
    with torch.no_grad():
        with mode.rounding({"conv": conv}):
            y = conv(x)
        mode.stage = "round"
        with mode.rounding({"conv": conv}):
            found = conv(x)
        steps = conv.weight.abs().flatten(1).amax(1).reshape(2, 1, 1, 1) / 127
        weight = (conv.weight / steps).round() * steps
        low, high = min(0.0, y.min().item()), max(0.0, y.max().item())
        step = (high - low) / 255
        zero = round(-low / step)
        rounded = torch.nn.functional.conv2d(x, weight, conv.bias)
        expected = (((rounded / step).round() + zero).clamp(0, 255) - zero) * step
    torch.testing.assert_close(found, expected, rtol=0, atol=step * 1e-3)
    assert len(found.unique()) <= 32


def test_a_network_learns_to_be_rounded():
    """Its weights and results are far from what 256 numbers can say, until it is trained so."""

    def fit(rounded: bool) -> float:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 64), nn.SiLU(), nn.Linear(64, 1))
        with torch.no_grad():  # one number in each row takes nearly all of the range
            network[0].weight[:, 0] = 50
        x = torch.randn(256, 4)
        x[:, 0] = 0
        y = torch.sin(3 * x[:, 1:2]) + x[:, 2:3] * x[:, 3:]
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        mode, blocks = SimulatedInt8("follow"), {"all": network}
        for _ in range(300):
            with mode.rounding(blocks if rounded else {}):
                loss = (network(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad(), mode.rounding(blocks):
            return (network(x) - y).square().mean().item()

    assert fit(rounded=True) < 0.7 * fit(rounded=False)


OPERATIONS = {
    "product": lambda x: x * x,
    "method softmax": lambda x: x.softmax(-1),
    "sum": lambda x: x.sum(-1),
    "relu": lambda x: x.relu(),
    "sigmoid": torch.sigmoid,
    "group norm": lambda x: torch.nn.functional.group_norm(x[None], 1),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_results_are_rounded_however_they_are_written(name):
    class Block(nn.Module):
        def forward(self, x):
            return OPERATIONS[name](x)

    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    block = Block()
    with SimulatedInt8("follow").rounding({"block": block}):
        assert len(block(x).unique()) <= 256
    assert len(block(x).unique()) > 900


def test_a_product_with_a_number_is_left_to_the_scale():
    class Scaled(nn.Module):
        def forward(self, x):
            return x * 0.3

    x, block = torch.rand(5000), Scaled()
    with SimulatedInt8("follow").rounding({"block": block}):
        assert torch.equal(block(x), x * 0.3)
