from __future__ import annotations

import pytest
import torch

from mobilevit.networks import MobileViTConfig, create_model
from mobilevit.networks.mobilevit import VARIANTS, Attention, MobileViTBlock

PARAMETERS = {
    "mobilevit_xxs": 1_272_024,
    "mobilevit_xs": 2_317_848,
    "mobilevit_s": 5_578_632,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_papers(name: str) -> None:
    with torch.device("meta"):
        network = create_model(name)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_dropout_rates_are_the_papers(name: str) -> None:
    config = VARIANTS[name]
    assert config.dropout == (0.05 if name == "mobilevit_xxs" else 0.1)
    assert (config.attention_dropout, config.ffn_dropout, config.head_dropout) == (0, 0, 0.1)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_last_convolution_is_four_times_as_wide_as_the_last_stage(name: str) -> None:
    config = VARIANTS[name]
    assert config.head_width == 4 * config.widths[-1]


def test_every_number_of_the_config_reaches_the_network() -> None:
    network = create_model(
        "mobilevit_xxs",
        num_classes=3,
        in_chans=1,
        layers=(1, 2, 1),
        token_widths=(32, 40, 48),
        patch_sizes=(8, 4, 2),
        heads=2,
        ffn_expansion=3,
        dropout=0.2,
        attention_dropout=0.3,
        ffn_dropout=0.4,
        head_dropout=0.5,
        head_width=100,
    )
    blocks = [module for module in network.modules() if isinstance(module, MobileViTBlock)]
    assert [len(block.transformer) for block in blocks] == [1, 2, 1]
    assert [block.to_tokens.out_channels for block in blocks] == [32, 40, 48]
    assert [block.patch for block in blocks] == [8, 4, 2]
    layer = blocks[0].transformer[0]
    assert (layer.attention.heads, layer.ffn_in.out_features) == (2, 96)
    assert layer.dropout.p == 0.2
    assert layer.attention.dropout == 0.3
    assert layer.ffn_dropout.p == 0.4
    assert network.dropout.p == 0.5
    assert network.stem.conv.in_channels == 1
    assert network.num_features == network.final.conv.out_channels == 100
    assert network.eval()(torch.rand(2, 1, 64, 64)).shape == (2, 3)


def test_token_width_must_divide_over_the_heads() -> None:
    with pytest.raises(ValueError, match="144 cannot be split over 5 heads"):
        create_model("mobilevit_s", heads=5)


def test_attention_is_softmax_of_products() -> None:
    torch.manual_seed(0)
    attention = Attention(12, heads=3, dropout=0.0)
    x = torch.randn(2, 5, 12)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    parts = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        scores = torch.einsum("bnd,bmd->bnm", q[..., part], k[..., part]) / 2
        parts.append(scores.softmax(-1) @ v[..., part])
    torch.testing.assert_close(attention(x), attention.out(torch.cat(parts, -1)))


@pytest.mark.parametrize(("patch", "sees_all"), [(2, True), (8, False)])
def test_every_pixel_sees_every_other_if_the_patch_is_small(patch: int, sees_all: bool) -> None:
    torch.manual_seed(0)
    config = MobileViTConfig()
    block = MobileViTBlock(8, 16, 1, patch, config).double().eval()
    x = torch.randn(1, 8, 16, 16, dtype=torch.float64, requires_grad=True)
    block(x)[0, :, 5, 9].sum().backward()
    reached = x.grad.abs().sum(1) > 0
    assert bool(reached.all()) is sees_all
