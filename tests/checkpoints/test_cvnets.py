"""The names of ml-cvnets: parity with a tree of theirs, and with transformers' converter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cvnets
from mobilevit import create_model
from mobilevit.checkpoints.adapters import Adapter, transformers
from mobilevit.checkpoints.adapters.cvnets import BESIDE, ENCODER, MOBILEVIT, MOBILEVITV2
from peers import enliven

V1 = [name for name in cvnets.SIZES if name.startswith("mobilevit_")]
V2 = [name for name in cvnets.SIZES if name.startswith("mobilevitv2_")]

CONVERTED = [  # what transformers' script for MobileViT calls a tensor of ml-cvnets
    ("conv_1.block.conv.weight", "conv_stem.convolution.weight"),
    ("conv_1.block.norm.running_mean", "conv_stem.normalization.running_mean"),
    (
        "layer_1.0.block.exp_1x1.block.conv.weight",
        "encoder.layer.0.layer.0.expand_1x1.convolution.weight",
    ),
    (
        "layer_2.2.block.conv_3x3.block.norm.bias",
        "encoder.layer.1.layer.2.conv_3x3.normalization.bias",
    ),
    (
        "layer_2.0.block.red_1x1.block.norm.num_batches_tracked",
        "encoder.layer.1.layer.0.reduce_1x1.normalization.num_batches_tracked",
    ),
    (
        "layer_3.0.block.exp_1x1.block.conv.weight",
        "encoder.layer.2.downsampling_layer.expand_1x1.convolution.weight",
    ),
    (
        "layer_4.0.block.conv_3x3.block.conv.weight",
        "encoder.layer.3.downsampling_layer.conv_3x3.convolution.weight",
    ),
    (
        "layer_5.0.block.red_1x1.block.norm.weight",
        "encoder.layer.4.downsampling_layer.reduce_1x1.normalization.weight",
    ),
    (
        "layer_3.1.local_rep.conv_3x3.block.conv.weight",
        "encoder.layer.2.conv_kxk.convolution.weight",
    ),
    (
        "layer_3.1.local_rep.conv_3x3.block.norm.running_var",
        "encoder.layer.2.conv_kxk.normalization.running_var",
    ),
    (
        "layer_4.1.local_rep.conv_1x1.block.conv.weight",
        "encoder.layer.3.conv_1x1.convolution.weight",
    ),
    (
        "layer_4.1.global_rep.3.pre_norm_mha.0.weight",
        "encoder.layer.3.transformer.layer.3.layernorm_before.weight",
    ),
    (
        "layer_4.1.global_rep.2.pre_norm_mha.1.out_proj.bias",
        "encoder.layer.3.transformer.layer.2.attention.output.dense.bias",
    ),
    (
        "layer_5.1.global_rep.2.pre_norm_ffn.0.bias",
        "encoder.layer.4.transformer.layer.2.layernorm_after.bias",
    ),
    (
        "layer_3.1.global_rep.1.pre_norm_ffn.1.weight",
        "encoder.layer.2.transformer.layer.1.intermediate.dense.weight",
    ),
    (
        "layer_5.1.global_rep.0.pre_norm_ffn.4.bias",
        "encoder.layer.4.transformer.layer.0.output.dense.bias",
    ),
    ("layer_3.1.global_rep.2.weight", "encoder.layer.2.layernorm.weight"),
    ("layer_4.1.global_rep.4.weight", "encoder.layer.3.layernorm.weight"),
    ("layer_5.1.global_rep.3.bias", "encoder.layer.4.layernorm.bias"),
    (
        "layer_3.1.conv_proj.block.conv.weight",
        "encoder.layer.2.conv_projection.convolution.weight",
    ),
    ("layer_5.1.fusion.block.norm.bias", "encoder.layer.4.fusion.normalization.bias"),
    ("conv_1x1_exp.block.conv.weight", "conv_1x1_exp.convolution.weight"),
    ("conv_1x1_exp.block.norm.weight", "conv_1x1_exp.normalization.weight"),
]
CONVERTED_V2 = [  # and its script for MobileViTV2
    ("conv_1.block.norm.bias", "conv_stem.normalization.bias"),
    (
        "layer_2.1.block.exp_1x1.block.conv.weight",
        "encoder.layer.1.layer.1.expand_1x1.convolution.weight",
    ),
    (
        "layer_4.0.block.red_1x1.block.norm.running_var",
        "encoder.layer.3.downsampling_layer.reduce_1x1.normalization.running_var",
    ),
    ("layer_3.1.local_rep.0.block.conv.weight", "encoder.layer.2.conv_kxk.convolution.weight"),
    ("layer_5.1.local_rep.1.block.conv.weight", "encoder.layer.4.conv_1x1.convolution.weight"),
    (
        "layer_4.1.global_rep.3.pre_norm_attn.0.weight",
        "encoder.layer.3.transformer.layer.3.layernorm_before.weight",
    ),
    (
        "layer_3.1.global_rep.1.pre_norm_attn.1.qkv_proj.block.conv.bias",
        "encoder.layer.2.transformer.layer.1.attention.qkv_proj.convolution.bias",
    ),
    (
        "layer_5.1.global_rep.0.pre_norm_attn.1.out_proj.block.conv.weight",
        "encoder.layer.4.transformer.layer.0.attention.out_proj.convolution.weight",
    ),
    (
        "layer_5.1.global_rep.1.pre_norm_ffn.0.bias",
        "encoder.layer.4.transformer.layer.1.layernorm_after.bias",
    ),
    (
        "layer_3.1.global_rep.0.pre_norm_ffn.1.block.conv.weight",
        "encoder.layer.2.transformer.layer.0.ffn.conv1.convolution.weight",
    ),
    (
        "layer_4.1.global_rep.2.pre_norm_ffn.3.block.conv.bias",
        "encoder.layer.3.transformer.layer.2.ffn.conv2.convolution.bias",
    ),
    ("layer_3.1.global_rep.2.bias", "encoder.layer.2.layernorm.bias"),
    ("layer_4.1.global_rep.4.weight", "encoder.layer.3.layernorm.weight"),
    ("layer_5.1.global_rep.3.weight", "encoder.layer.4.layernorm.weight"),
    (
        "layer_4.1.conv_proj.block.norm.weight",
        "encoder.layer.3.conv_projection.normalization.weight",
    ),
]
OTHER_TASKS = (
    "seg_head.aspp.aspp_layer.convs.1.block.conv.weight",
    "seg_head.classifier.block.conv.bias",
    "seg_head.aux_head.0.block.norm.weight",
    "extra_layers.os_64.dw_conv.block.conv.weight",
    "extra_layers.os_-1.1.block.conv.bias",
    "ssd_heads.2.loc_cls_layer.pw_conv.block.conv.bias",
    "encoder.neural_augmentor.brightness._low",
    "neural_augmentor.noise._high",
)


def adapter(name: str) -> Adapter:
    return MOBILEVIT if name in V1 else MOBILEVITV2


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mobilevit_xxs", (96, 64)),
        ("mobilevit_xxs", (75, 100)),
        ("mobilevit_s", (64, 64)),
        ("mobilevitv2_050", (96, 64)),
        ("mobilevitv2_050", (75, 100)),
    ],
)
def test_their_weights_give_their_logits(name: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    theirs = enliven(cvnets.Classifier(name))
    ours = create_model(name).eval()
    ours.load_state_dict(adapter(name).to_ours(theirs.state_dict()), strict=True)
    x = torch.rand(2, 3, *shape)
    with torch.no_grad():
        expected = theirs(x)
        logits = ours(x)
    assert expected.std() > 0.1
    assert not torch.allclose(expected[0], expected[1], atol=0.01)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", cvnets.SIZES)
def test_every_name_is_known(name: str) -> None:
    with torch.device("meta"):
        mine, theirs = create_model(name).state_dict(), cvnets.Classifier(name).state_dict()
    mapped = adapter(name).to_theirs(mine)
    assert {k: v.shape for k, v in mapped.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050"])
def test_there_and_back_is_the_identity(name: str) -> None:
    theirs = enliven(cvnets.Classifier(name)).state_dict()
    mine = adapter(name).to_ours(theirs)
    assert mine.keys() == create_model(name).state_dict().keys()
    back = adapter(name).to_theirs(mine)
    assert list(back) == list(theirs)
    assert all(back[key] is theirs[key] for key in theirs)


def renamed(one: Adapter, other: Adapter, name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Take a tensor from one library's names to another's, through ours."""
    return other.to_theirs(one.to_ours({name: tensor}))


@pytest.mark.parametrize(("ours", "theirs"), CONVERTED)
def test_names_are_those_of_transformers_converter(ours: str, theirs: str) -> None:
    one, other = MOBILEVIT, transformers.MOBILEVIT
    assert list(renamed(one, other, ours, torch.zeros(1))) == [f"mobilevit.{theirs}"]
    assert list(renamed(other, one, f"mobilevit.{theirs}", torch.zeros(1))) == [ours]


@pytest.mark.parametrize(("ours", "theirs"), CONVERTED_V2)
def test_names_are_those_of_transformers_converter_v2(ours: str, theirs: str) -> None:
    one, other = MOBILEVITV2, transformers.MOBILEVITV2
    assert list(renamed(one, other, ours, torch.zeros(1))) == [f"mobilevitv2.{theirs}"]
    assert list(renamed(other, one, f"mobilevitv2.{theirs}", torch.zeros(1))) == [ours]


def test_classifiers_are_named_as_by_transformers_converter() -> None:
    weight = torch.zeros(1)
    v1 = renamed(MOBILEVIT, transformers.MOBILEVIT, "classifier.fc.weight", weight)
    v2 = renamed(MOBILEVITV2, transformers.MOBILEVITV2, "classifier.1.weight", weight)
    assert list(v1) == list(v2) == ["classifier.weight"]


@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_queries_keys_and_values_lie_in_that_order(kind: str) -> None:
    name = f"layer_4.1.global_rep.2.pre_norm_mha.1.qkv_proj.{kind}"
    split = renamed(MOBILEVIT, transformers.MOBILEVIT, name, torch.arange(6.0))
    place = "mobilevit.encoder.layer.3.transformer.layer.2.attention.attention"
    assert {key: tensor.tolist() for key, tensor in split.items()} == {
        f"{place}.query.{kind}": [0, 1],
        f"{place}.key.{kind}": [2, 3],
        f"{place}.value.{kind}": [4, 5],
    }


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050"])
def test_files_of_other_tasks_hold_our_backbone(name: str) -> None:
    with torch.device("meta"):
        classifier = cvnets.Classifier(name).state_dict()
        ours = create_model(name, num_classes=0).state_dict()
    file = {
        ENCODER + key: tensor
        for key, tensor in classifier.items()
        if not key.startswith(("classifier.", "conv_1x1_exp."))
    }
    file |= dict.fromkeys(OTHER_TASKS, torch.zeros(1))
    backbone = {
        key.removeprefix(ENCODER): tensor
        for key, tensor in file.items()
        if not key.startswith(tuple(BESIDE))
    }
    mapped = adapter(name).to_ours(backbone)
    assert mapped.keys() == {key for key in ours if not key.startswith("final.")}
