from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mobilevit.deployment.contract import Contract
from mobilevit.deployment.cost import count_multiply_adds, count_parameters
from mobilevit.networks import MobileViTV2Config, create_model
from mobilevit.networks.mobilevitv2 import (
    VARIANTS,
    MobileViTV2Block,
    SeparableAttention,
    TransformerLayer,
)

PARAMETERS = {
    "mobilevitv2_050": 1_370_593,
    "mobilevitv2_075": 2_866_009,
    "mobilevitv2_100": 4_901_841,
    "mobilevitv2_125": 7_478_089,
    "mobilevitv2_150": 10_594_753,
    "mobilevitv2_175": 14_251_833,
    "mobilevitv2_200": 18_449_329,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_it_has_the_authors_parameters_and_costs_what_timms_costs(name: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        ours, theirs = create_model(name), timm.create_model(name)
    assert count_parameters(ours) == count_parameters(theirs) == PARAMETERS[name]
    assert count_multiply_adds(ours, (64, 96)) == count_multiply_adds(theirs, (64, 96))


def test_every_number_of_the_config_reaches_the_network() -> None:
    network = create_model(
        "mobilevitv2_050",
        num_classes=3,
        in_chans=1,
        stem_width=8,
        widths=(8, 16, 24, 32, 40),
        expansion=3,
        layers=(1, 2, 1),
        token_widths=(32, 40, 48),
        patch_sizes=(8, 4, 2),
        ffn_expansion=3,
        dropout=0.2,
        attention_dropout=0.3,
        ffn_dropout=0.4,
        head_dropout=0.5,
    )
    blocks = [module for module in network.modules() if isinstance(module, MobileViTV2Block)]
    assert [len(block.transformer) for block in blocks] == [1, 2, 1]
    assert [block.to_tokens.out_channels for block in blocks] == [32, 40, 48]
    assert [block.patch for block in blocks] == [8, 4, 2]
    assert [info["num_chs"] for info in network.feature_info] == [8, 16, 24, 32, 40]
    assert network.stages[0][0].expand.conv.out_channels == 24
    layer = blocks[0].transformer[0]
    assert layer.ffn_in.out_channels == 96
    assert layer.dropout.p == 0.2
    assert layer.attention.dropout.p == 0.3
    assert layer.ffn_dropout.p == 0.4
    assert network.dropout.p == 0.5
    assert network.stem.conv.in_channels == 1
    assert network.eval()(torch.rand(2, 1, 64, 64)).shape == (2, 3)


def test_nothing_drops_by_default_and_nothing_stands_before_the_classifier() -> None:
    network = create_model("mobilevitv2_050")
    rates = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    assert len(rates) == 9 * 3 + 1
    assert not any(rates)
    assert not list(network.final.parameters())
    assert network.num_features == 256


# --- the attention ---


def attention_by_hand(attention: SeparableAttention, x: torch.Tensor) -> torch.Tensor:
    """Compute it for one token after the other, with linear layers."""
    depth = x.shape[1]
    weight, bias = attention.qkv.weight.flatten(1), attention.qkv.bias
    y = torch.empty_like(x)
    for b in range(x.shape[0]):
        for p in range(x.shape[2]):
            tokens = x[b, :, p].T @ weight.T + bias  # (N, 1 + 2D)
            scores = tokens[:, 0].exp() / tokens[:, 0].exp().sum()
            context = scores @ tokens[:, 1 : 1 + depth]
            gated = tokens[:, 1 + depth :].clamp(min=0) * context
            y[b, :, p] = (gated @ attention.out.weight.flatten(1).T + attention.out.bias).T
    return y


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 2),
    depth=st.integers(1, 6),
    places=st.sampled_from((1, 4, 9)),
    patches=st.integers(1, 7),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_attention_is_values_times_one_context_for_each_place_in_a_patch(
    batch: int, depth: int, places: int, patches: int, seed: int
) -> None:
    torch.manual_seed(seed)
    attention = SeparableAttention(depth, dropout=0.0).double()
    x = torch.randn(batch, depth, places, patches, dtype=torch.float64)
    torch.testing.assert_close(attention(x), attention_by_hand(attention, x))

    attention.out = nn.Identity()
    values = attention.qkv(x)[:, 1 + depth :].relu()
    gates = torch.where(values > 0, attention(x) / values, torch.nan)  # (B, D, P, N)
    one = gates.nanmean(-1, keepdim=True).expand_as(gates)
    seen = ~gates.isnan()
    torch.testing.assert_close(gates[seen], one[seen])


@torch.no_grad()
def test_the_order_of_the_patches_is_nothing_to_the_attention() -> None:
    torch.manual_seed(0)
    layer = TransformerLayer(8, MobileViTV2Config()).double().eval()
    x = torch.randn(2, 8, 4, 6, dtype=torch.float64)
    order = torch.randperm(6)
    for module in (layer.attention, layer):
        torch.testing.assert_close(module(x[..., order]), module(x)[..., order])
        assert not torch.allclose(module(x[..., order]), module(x))


def test_a_token_attends_to_its_own_place_in_every_patch() -> None:
    torch.manual_seed(0)
    attention = SeparableAttention(8, dropout=0.0).double()
    x = torch.randn(1, 8, 4, 6, dtype=torch.float64, requires_grad=True)
    attention(x)[0, :, 2, 3].sum().backward()
    reached = x.grad.abs().sum(1)[0] > 0  # (P, N)
    assert reached[2].all()
    assert reached.any(1).tolist() == [False, False, True, False]


@torch.no_grad()
def test_the_norm_is_over_all_tokens_and_channels_of_a_picture() -> None:
    torch.manual_seed(0)
    norm = TransformerLayer(8, MobileViTV2Config()).norm1.double()
    norm.weight.uniform_(0.5, 2)
    norm.bias.normal_()
    x = torch.randn(2, 8, 4, 6, dtype=torch.float64) * 3 + 1
    for picture, normed in zip(x, norm(x), strict=True):
        deviation = (picture.var(correction=0) + 1e-5).sqrt()
        expected = (picture - picture.mean()) / deviation
        expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
        torch.testing.assert_close(normed, expected)


# --- the block ---


@pytest.mark.parametrize(("size", "filled"), [((6, 4), (6, 4)), ((5, 4), (6, 4)), ((3, 1), (4, 2))])
def test_the_block_gives_whole_patches(size: tuple[int, int], filled: tuple[int, int]) -> None:
    block = MobileViTV2Block(8, 16, 1, 2, MobileViTV2Config()).eval()
    assert block(torch.rand(2, 8, *size)).shape == (2, 8, *filled)


def test_the_tokens_lie_channels_last() -> None:
    block = MobileViTV2Block(8, 16, 1, 2, MobileViTV2Config()).eval()
    lying = []
    block.transformer.register_forward_hook(lambda module, args, y: lying.extend((*args, y)))
    block(torch.rand(2, 8, 6, 4))
    assert [x.shape for x in lying] == [(2, 16, 4, 6)] * 2
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in lying)


# --- out of the house ---


def test_onnx_computes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from mobilevit.deployment.config import ExportConfig
    from mobilevit.deployment.exporters import write
    from mobilevit.deployment.formats import FORMATS

    torch.manual_seed(0)
    network = create_model("mobilevitv2_050", num_classes=5).eval()
    nn.init.normal_(network.head.weight, std=0.3)
    contract = Contract("classification", tuple("abcde"), size=(64, 64), resize=72)
    path = tmp_path / "v2.onnx"
    write(FORMATS["onnx"], network, contract, path, ExportConfig(dynamic_batch=True))
    x = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        expected = network(x).numpy()
    assert np.ptp(expected) > 0.5
    found = FORMATS["onnx"].open(path).run(x.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-4)
