"""Backbones at output strides 16 and 8, and DeepLabv3 on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.segmentation import deeplabv3

from mobilevit.deployment.cost import count_parameters
from mobilevit.errors import UserError
from mobilevit.networks import DeepLabV3, DeepLabV3Config, TimmFeatures, create_model
from mobilevit.networks.deeplabv3 import ASPP, AuxiliaryHead
from mobilevit.networks.inference import optimize
from peers import enliven

SMALL = ("mobilevit_xxs", "mobilevitv2_050")


def make(name: str, output_stride: int = 16, **numbers: Any) -> DeepLabV3:
    """Make a small head on a backbone, its batch-norms doing something."""
    torch.manual_seed(0)
    backbone = create_model(name, num_classes=0, output_stride=output_stride)
    network = DeepLabV3(backbone, DeepLabV3Config(num_classes=5, aspp_width=16, **numbers))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.6, 1.4)
                module.weight.uniform_(0.8, 1.2)
                module.bias.normal_(0, 0.1)
    return network.eval()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("output_stride", "reductions"),
    [(32, [2, 4, 8, 16, 32]), (16, [2, 4, 8, 16, 16]), (8, [2, 4, 8, 8, 8])],
)
def test_feature_maps_stop_at_the_output_stride(
    name: str, output_stride: int, reductions: list[int]
) -> None:
    with torch.device("meta"):
        network = create_model(name, output_stride=output_stride).eval()
        maps = network.forward_stages(torch.rand(1, 3, 128, 64))
    assert [info["reduction"] for info in network.feature_info] == reductions
    assert [y.shape[-2:] for y in maps] == [(128 // r, 64 // r) for r in reductions]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("output_stride", "expected"),
    [
        (32, [("stages.3.0.depthwise.conv", 2, 1), ("stages.4.0.depthwise.conv", 2, 1)]),
        (16, [("stages.3.0.depthwise.conv", 2, 1), ("stages.4.0.depthwise.conv", 1, 1)]),
        (8, [("stages.3.0.depthwise.conv", 1, 1), ("stages.4.0.depthwise.conv", 1, 2)]),
    ],
)
def test_only_the_second_filter_without_stride_is_dilated(
    name: str, output_stride: int, expected: list[tuple[str, int, int]]
) -> None:
    with torch.device("meta"):
        network = create_model(name, output_stride=output_stride)
    convs = {k: m for k, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    for place, stride, dilation in expected:
        conv = convs.pop(place)
        assert (conv.stride, conv.dilation) == ((stride, stride), (dilation, dilation))
    assert all(conv.dilation == (1, 1) for conv in convs.values())


@pytest.mark.parametrize("name", SMALL)
def test_weights_of_a_classifier_fit_at_every_output_stride(name: str) -> None:
    with torch.device("meta"):
        shapes = [
            {k: v.shape for k, v in create_model(name, output_stride=s).state_dict().items()}
            for s in (32, 16, 8)
        ]
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("output_stride", [4, 64, 0])
def test_other_output_strides_are_refused(output_stride: int) -> None:
    with pytest.raises(ValueError, match=f"output_stride is 32, 16 or 8, not {output_stride}"):
        create_model("mobilevit_xxs", output_stride=output_stride)


@pytest.mark.parametrize(
    ("name", "output_stride", "width", "millions"),
    [
        ("mobilevit_xxs", 16, 256, 1.855),
        ("mobilevit_xs", 16, 256, 2.944),
        ("mobilevit_s", 16, 256, 6.358),
        ("mobilevit_xxs", 8, 512, 3.44),
        ("mobilevit_xs", 8, 512, 4.65),
        ("mobilevit_s", 8, 512, 8.54),
        ("mobilevitv2_100", 16, 512, 13.3),
    ],
)
def test_parameters_are_those_of_the_papers_networks(
    name: str, output_stride: int, width: int, millions: float
) -> None:
    with torch.device("meta"):
        backbone = create_model(name, num_classes=0, output_stride=output_stride)
        network = DeepLabV3(backbone, DeepLabV3Config(aspp_width=width, aux=output_stride == 8))
    assert round(count_parameters(network) / 1e6, len(str(millions).split(".")[1])) == millions


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("size", [(64, 64), (128, 192)])
def test_logits_lie_at_the_output_stride(
    name: str, output_stride: int, size: tuple[int, int]
) -> None:
    with torch.device("meta"):
        logits = make(name, output_stride)(torch.rand(2, 3, *size))
    assert logits.shape == (2, 5, *(side // output_stride for side in size))


@pytest.mark.parametrize(
    ("name", "shape"), [("mobilevit_xxs", (5, 7)), ("mobilevitv2_050", (6, 8))]
)
def test_uneven_sides_are_rounded_up(name: str, shape: tuple[int, int]) -> None:
    """75 x 100 pixels make 5 x 7 at stride 16; MobileViTv2 resizes them to whole patches."""
    with torch.no_grad():
        logits = make(name)(torch.rand(1, 3, 75, 100))
    assert logits.shape == (1, 5, *shape)
    assert torch.isfinite(logits).all()


def test_the_pyramid_sees_a_place_at_its_rates_and_the_whole_picture() -> None:
    """Where a single place differs, its neighbours at the three rates do, and all by the mean."""
    pyramid = make("mobilevit_xxs", aspp_rates=(1, 3, 4)).aspp
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        return lambda module, args, y: seen.update({name: y})

    for i, branch in enumerate(pyramid.branches):
        branch.conv.register_forward_hook(hook(str(i)))
    pyramid.pool.conv.register_forward_hook(hook("pool"))
    x = torch.zeros(1, 80, 11, 11)
    x[..., 5, 5] = torch.randn(80)
    with torch.no_grad():
        pyramid(x)
    reached = {
        name: sorted({int(i) for i in y[0].abs().sum(0).nonzero()[:, 0]})
        for name, y in seen.items()
    }
    assert reached == {"0": [5], "1": [4, 5, 6], "2": [2, 5, 8], "3": [1, 5, 9], "pool": [0]}


def test_the_pyramid_is_torchvisions_in_evaluation() -> None:
    ours, theirs = enliven(ASPP(8, 12, (1, 2, 3))), deeplabv3.ASPP(8, [1, 2, 3], 12).eval()
    state = ours.state_dict()
    parts = ("branches.", "pool.", "project.")  # in the order that theirs has them
    tensors = [tensor for part in parts for name, tensor in state.items() if name.startswith(part)]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), tensors, strict=True)))
    x = torch.rand(2, 8, 9, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(x)
        torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.1


def test_the_stages_are_the_backbones_and_its_classifier_is_left_out() -> None:
    backbone = create_model("mobilevit_xxs", num_classes=10, output_stride=16)
    network = DeepLabV3(backbone, DeepLabV3Config(aspp_width=16))
    stages = {k: v for k, v in backbone.state_dict().items() if k.startswith(("stem", "stages"))}
    names = network.state_dict().keys()
    assert {k for k in names if k.startswith("backbone.")} == {f"backbone.{k}" for k in stages}
    assert {k.split(".")[0] for k in names} == {"backbone", "aspp", "head"}
    assert network.backbone.config == backbone.config
    assert (
        network.backbone.stages[4][0].expand.conv.weight is backbone.stages[4][0].expand.conv.weight
    )


def test_dropout_acts_in_training_only() -> None:
    network = make("mobilevitv2_050", aspp_dropout=0.5)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(x), network(x))
        network.dropout.train()
        assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns(name: str) -> None:
    network = make(name).train()
    network(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert [k for k, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("output_stride", [16, 8])
def test_the_inference_form_is_folded_and_gives_the_same_logits(output_stride: int) -> None:
    network = make("mobilevit_xxs", output_stride)
    fast = optimize(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected = network(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(fast(x), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_exported_graph_has_nothing_that_converters_refuse(name: str) -> None:
    program = torch.export.export(make(name), (torch.rand(1, 3, 64, 96),))
    for node in program.graph.nodes:
        value = node.meta.get("val")
        assert not isinstance(value, Tensor) or value.ndim <= 5, node
        words = ("upsample", "interpolate", "adaptive", "im2col", "col2im", ".item")
        assert not any(word in str(node.target) for word in words), node


# --- the auxiliary head ---


@pytest.mark.parametrize(("width", "inner"), [(64, 128), (800, 200)])
def test_the_auxiliary_head_has_the_numbers_of_the_papers_code(width: int, inner: int) -> None:
    head = AuxiliaryHead(width, 5, DeepLabV3Config().aspp_dropout)
    convs = [module for module in head.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.weight.shape for conv in convs] == [(inner, width, 3, 3), (5, inner, 1, 1)]
    assert [conv.bias is not None for conv in convs] == [False, True]
    assert head.dropout.p == 0.1


@pytest.mark.parametrize("output_stride", [16, 8])
def test_the_auxiliary_head_speaks_in_training_only(output_stride: int) -> None:
    network, x = make("mobilevit_xxs", output_stride, aux=True), torch.rand(2, 3, 64, 96)
    plain = make("mobilevit_xxs", output_stride)
    plain.load_state_dict(network.state_dict(), strict=False)
    with torch.no_grad():
        assert torch.equal(network(x), plain(x))
        outputs = network.train()(x)
    assert [y.shape for y in outputs] == [(2, 5, 64 // output_stride, 96 // output_stride)] * 2


def test_the_auxiliary_head_teaches_the_stages_below_the_last() -> None:
    network = make("mobilevit_xxs", aux=True).train()
    _, aux = network(torch.rand(2, 3, 64, 64))
    aux.square().sum().backward()
    learnt = {k for k, p in network.named_parameters() if p.grad is not None}
    below = ("backbone.stem.", *(f"backbone.stages.{i}." for i in range(4)), "aux.")
    assert learnt == {k for k, _ in network.named_parameters() if k.startswith(below)}


# --- networks of timm ---


@pytest.mark.parametrize("output_stride", [16, 8])
def test_it_stands_on_a_convolutional_network_of_timm(output_stride: int) -> None:
    pytest.importorskip("timm")
    backbone = TimmFeatures("mobilenetv3_small_050", output_stride=output_stride)
    config = DeepLabV3Config(num_classes=5, aspp_width=16, aux=True)
    network = enliven(DeepLabV3(backbone, config))
    x = torch.rand(2, 3, 64, 96)
    shape = (2, 5, 64 // output_stride, 96 // output_stride)
    with torch.no_grad():
        expected = network(x)
        assert expected.shape == shape
        torch.testing.assert_close(optimize(network)(x), expected, atol=1e-4, rtol=1e-4)
        assert [y.shape for y in network.train()(x)] == [shape, shape]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "edgenext_xx_small"])
def test_networks_of_timm_that_take_no_output_stride_are_refused(name: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=f"timm:{name}: timm cannot make it with output_stride=16"):
        TimmFeatures(name, output_stride=16)
