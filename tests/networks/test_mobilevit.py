from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mobilevit.networks.mobilevit
from mobilevit import UserError, create_model, list_models
from mobilevit.networks import MobileViTConfig
from mobilevit.networks.mobilevit import (
    VARIANTS,
    Attention,
    MobileViT,
    MobileViTBlock,
    fold,
    unfold,
)

PARAMETERS = {
    "mobilevit_xxs": 1_272_024,
    "mobilevit_xs": 2_317_848,
    "mobilevit_s": 5_578_632,
}


@pytest.fixture(scope="module")
def xxs() -> MobileViT:
    """A network that no test may change."""
    torch.manual_seed(0)
    return create_model("mobilevit_xxs", num_classes=7).eval()


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
    assert network.eval()(torch.rand(2, 1, 64, 64)).shape == (2, 3)


def test_config_is_frozen() -> None:
    with pytest.raises(AttributeError):
        MobileViTConfig().heads = 8  # type: ignore[misc]


def test_token_width_must_divide_over_the_heads() -> None:
    with pytest.raises(ValueError, match="144 cannot be split over 5 heads"):
        create_model("mobilevit_s", heads=5)


def test_dropout_acts_in_training_only(xxs: MobileViT) -> None:
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(xxs(x), xxs(x))
        network = create_model("mobilevit_xxs", num_classes=4, dropout=0.5).train()
        network.stem.norm.momentum = 0.0
        x = torch.rand(2, 3, 64, 64)
        assert not torch.equal(network(x), network(x))
        network = create_model("mobilevit_xxs", num_classes=4, dropout=0, head_dropout=0).train()
        assert torch.equal(network(x), network(x))


# --- timm's contract ---


def test_list_models_takes_patterns() -> None:
    assert list_models() == sorted(PARAMETERS)
    assert list_models("*_x*") == ["mobilevit_xs", "mobilevit_xxs"]
    assert list_models("resnet*") == []


@pytest.mark.parametrize(
    ("make", "answer"),
    [
        (lambda: create_model("mobilevit_xxz"), "Did you mean 'mobilevit_xxs'"),
        (lambda: create_model("mobilevit_s", droput=0.1), "Did you mean 'dropout'"),
        (lambda: create_model("mobilevit_s", patch_size=(2, 2, 2)), "Did you mean 'patch_sizes'"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(make, answer: str) -> None:
    with pytest.raises(UserError, match=answer):
        make()


def test_forward_is_features_then_head(xxs: MobileViT) -> None:
    x = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        features = xxs.forward_features(x)
        pooled = xxs.forward_head(features, pre_logits=True)
        logits = xxs.forward_head(features)
        assert features.shape == (2, 320, 3, 2)
        assert pooled.shape == (2, xxs.num_features)
        assert torch.equal(pooled, features.mean((2, 3)))
        assert torch.equal(logits, xxs.get_classifier()(pooled))
        assert torch.equal(logits, xxs(x))


def test_no_classes_means_pooled_features() -> None:
    network = create_model("mobilevit_xxs", num_classes=0).eval()
    x = torch.rand(1, 3, 64, 64)
    assert isinstance(network.get_classifier(), nn.Identity)
    with torch.no_grad():
        pooled = network.forward_head(network.forward_features(x), pre_logits=True)
        assert torch.equal(network(x), pooled)


def test_reset_classifier_changes_the_head_alone() -> None:
    network = create_model("mobilevit_xxs", num_classes=5).double().eval()
    before = {k: v.clone() for k, v in network.state_dict().items() if not k.startswith("head.")}
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    for classes, width in ((11, 11), (0, 320), (2, 2)):
        network.reset_classifier(classes)
        assert network.num_classes == classes
        assert network(x).shape == (1, width)
        assert network(x).dtype == torch.float64
    after = network.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


@pytest.mark.parametrize("name", PARAMETERS)
def test_feature_maps_have_the_promised_channels_and_strides(name: str) -> None:
    network = create_model(name, features_only=True).eval()
    assert [info["reduction"] for info in network.feature_info] == [2, 4, 8, 16, 32]
    assert [info["module"] for info in network.feature_info] == [f"stages.{i}" for i in range(5)]
    with torch.no_grad():
        maps = network(torch.rand(1, 3, 128, 64))
    for info, y in zip(network.feature_info, maps, strict=True):
        assert y.shape == (1, info["num_chs"], 128 // info["reduction"], 64 // info["reduction"])


def test_feature_extractor_gives_the_networks_own_maps(xxs: MobileViT) -> None:
    extractor = create_model(
        "mobilevit_xxs", in_chans=3, features_only=True, out_indices=(3, 1)
    ).eval()
    weights = xxs.state_dict()
    extractor.load_state_dict({k: weights[k] for k in extractor.state_dict()})
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        maps, all_maps = extractor(x), xxs.forward_stages(x)
    assert len(extractor.stages) == 4  # the fifth is not computed
    assert torch.equal(maps[0], all_maps[3])
    assert torch.equal(maps[1], all_maps[1])
    assert [info["reduction"] for info in extractor.feature_info] == [16, 4]


@pytest.mark.parametrize("indices", [(), (5,), (-1,)])
def test_stages_that_do_not_exist_are_refused(indices: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="stages from 0 to 4"):
        create_model("mobilevit_xxs", features_only=True, out_indices=indices)


# --- the block ---


def unfold_by_torch(x: torch.Tensor, patch: int) -> torch.Tensor:
    batch, _, _, depth = x.shape
    y = F.unfold(x.permute(0, 3, 1, 2), patch, stride=patch)  # (B, D * P, N)
    return y.reshape(batch, depth, patch * patch, -1).permute(0, 2, 3, 1).flatten(0, 1)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    depth=st.integers(1, 6),
    patch=st.sampled_from((1, 2, 3, 4, 8)),
)
def test_unfold_gathers_like_im2col_and_fold_undoes_it(
    batch: int, rows: int, columns: int, depth: int, patch: int
) -> None:
    height, width = rows * patch, columns * patch
    x = torch.arange(batch * height * width * depth, dtype=torch.float32)
    x = x.reshape(batch, height, width, depth)
    y = unfold(x, patch)
    assert y.shape == (batch * patch * patch, rows * columns, depth)
    assert torch.equal(y, unfold_by_torch(x, patch))
    assert torch.equal(fold(y, (height, width), patch), x)


def test_unfold_by_hand() -> None:
    x = torch.arange(16).reshape(1, 4, 4, 1)
    assert unfold(x, 2).squeeze(-1).tolist() == [
        [0, 2, 8, 10],
        [1, 3, 9, 11],
        [4, 6, 12, 14],
        [5, 7, 13, 15],
    ]


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


@pytest.mark.parametrize("patches", [(2, 2, 2), (8, 4, 2)])
@pytest.mark.parametrize("size", [(32, 32), (64, 33), (75, 100), (1, 1), (17, 130)])
def test_any_input_size(patches: tuple[int, int, int], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = create_model("mobilevit_xxs", num_classes=2, patch_sizes=patches).eval()
    with torch.no_grad():
        logits = network(torch.rand(1, 3, *size))
    assert logits.shape == (1, 2)
    assert torch.isfinite(logits).all()


def test_memory_format_changes_no_number(xxs: MobileViT) -> None:
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        plain = xxs(x)
        last = xxs(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(plain, last, atol=1e-6, rtol=1e-5)


# --- made to be exported ---


@pytest.mark.parametrize("training", [False, True])
def test_exported_graph_has_nothing_that_converters_refuse(xxs: MobileViT, training: bool) -> None:
    network = create_model("mobilevit_xxs", num_classes=3) if training else xxs
    program = torch.export.export(network, (torch.rand(2, 3, 64, 64),))
    for node in program.graph.nodes:
        value = node.meta.get("val")
        for tensor in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(tensor, torch.Tensor):
                assert tensor.ndim <= 5, node
        name = str(node.target)
        assert not any(word in name for word in ("im2col", "col2im", "unfold")), node
        assert not any(word in name for word in ("upsample", "interpolate", ".item")), node
    if not training:
        x = torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(x), xxs(x))


def test_uneven_sides_are_resized_bilinearly_in_the_graph(xxs: MobileViT) -> None:
    program = torch.export.export(xxs, (torch.rand(1, 3, 72, 64),))  # 9 x 8 at stride 8
    resizes = [n for n in program.graph.nodes if "upsample_bilinear2d" in str(n.target)]
    assert len(resizes) == 6  # 9, 5 and 3 rows are odd: there and back, three times


def test_the_file_needs_torch_and_nothing_else() -> None:
    tree = ast.parse(Path(mobilevit.networks.mobilevit.__file__).read_text(encoding="utf-8"))
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            modules.add(node.module)
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    tops = {module.split(".")[0] for module in modules}
    assert tops - set(sys.stdlib_module_names) == {"torch"}
