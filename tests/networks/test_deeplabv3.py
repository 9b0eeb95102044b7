"""Backbones at output strides 16 and 8, and DeepLabv3 on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobilevit.deployment.contract import Contract
from mobilevit.deployment.onnx import OnnxExporter
from mobilevit.networks import DeepLabV3, DeepLabV3Config, create_model
from mobilevit.networks.inference import optimize

SMALL = ("mobilevit_xxs", "mobilevitv2_050")


def make(name: str, output_stride: int = 16, **numbers: int) -> DeepLabV3:
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
        network = DeepLabV3(backbone, DeepLabV3Config(aspp_width=width))
    count = sum(p.numel() for p in network.parameters()) / 1e6
    assert round(count, len(str(millions).split(".")[1])) == millions


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


def test_onnx_gives_the_same_logits(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    network = make("mobilevit_xxs", 8)
    contract = Contract("classification", tuple("abcde"), (64, 96), 96, "bilinear")
    OnnxExporter().export(network, contract, tmp_path / "network.onnx")
    session = runtime.InferenceSession(tmp_path / "network.onnx")
    x = torch.rand(1, 3, 64, 96)
    (logits,) = session.run(None, {"image": x.numpy()})
    with torch.no_grad():
        expected = network(x).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-4)
