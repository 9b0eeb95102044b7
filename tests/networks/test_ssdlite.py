from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobilevit.deployment.cost import count_parameters
from mobilevit.networks import create_model
from mobilevit.networks.inference import optimize
from mobilevit.networks.ssdlite import SSDLite, SSDLiteConfig
from peers import stir_norms

PARAMETERS = {
    "mobilevit_xxs": 1_755_050,
    "mobilevit_xs": 2_742_042,
    "mobilevit_s": 5_738_826,
}


def detector(name: str = "mobilevit_xxs", **numbers: Any) -> SSDLite:
    return SSDLite(create_model(name, num_classes=0), SSDLiteConfig(**numbers))


@pytest.fixture(scope="module")
def network() -> SSDLite:
    """A detector of 5 classes whose batch-norms do something; no test may change it."""
    torch.manual_seed(0)
    network = detector(num_classes=5)
    stir_norms(network)
    return network.eval()


@pytest.mark.parametrize("name", PARAMETERS)
def test_it_has_the_papers_parameters_and_anchors(name: str) -> None:
    with torch.device("meta"):
        network = detector(name).eval()
        maps = network.forward_maps(torch.rand(2, 3, 320, 320))
        logits, offsets = network(torch.rand(2, 3, 320, 320))
    assert count_parameters(network) == PARAMETERS[name]
    sides = [tuple(y.shape[-2:]) for y in maps]
    assert sides == [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
    pixels = [height * width for height, width in sides]
    assert np.dot(pixels, SSDLiteConfig().anchors) == 3232
    assert logits.shape == (2, 3232, 81)
    assert offsets.shape == (2, 3232, 4)


def test_every_number_of_the_config_reaches_the_network() -> None:
    config = SSDLiteConfig(
        num_classes=3, widths=(32, 80, 24, 16), anchors=(2, 4, 6, 8), ratios=(2, 3, 5)
    )
    network = SSDLite(create_model("mobilevit_xxs", num_classes=0), config).eval()
    assert network.config == config
    assert network.num_classes == 3
    maps = network.forward_maps(torch.rand(1, 3, 96, 64))
    assert [tuple(y.shape[1:]) for y in maps] == [(64, 6, 4), (80, 3, 2), (24, 2, 1), (16, 1, 1)]
    heads = list(network.heads)
    assert [head.predict.in_channels for head in heads] == [32, 80, 24, 16]
    projected = [any(True for _ in head.project.parameters()) for head in heads]
    assert projected == [True, False, False, False]  # the others have the width already
    logits, offsets = network(torch.rand(1, 3, 96, 64))
    assert logits.shape == (1, 24 * 2 + 6 * 4 + 2 * 6 + 8, 3)
    assert offsets.shape == (1, 92, 4)
    assert network.anchors((96, 64)).shape == (92, 4)


@pytest.mark.parametrize(("widths", "anchors"), [((64, 64, 64, 64), (6, 6, 4)), ((64, 64), (6, 6))])
def test_maps_that_do_not_fit_are_refused(
    widths: tuple[int, ...], anchors: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=rf"not of {len(widths)} and {len(anchors)}"):
        detector(widths=widths, anchors=anchors)


@pytest.mark.parametrize("anchors", [(6, 6, 5), (6, 6, 8), (6, 6, 0)])
def test_anchors_that_the_ratios_do_not_make_are_refused(anchors: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"one of \[2, 4, 6\] with 2 ratios, not \(6, 6, \d\)"):
        detector(widths=(64, 64, 64), anchors=anchors)


def expected_anchors(size: tuple[int, int]) -> np.ndarray:
    """Anchors as ml-cvnets lays them, box by box."""
    scales = np.linspace(0.1, 1.05, 7)
    height, width = size
    boxes = []
    for step in range(6):
        rows, columns = (math.ceil(side / 2 ** (4 + step)) for side in (height, width))
        if step == 5:
            rows = columns = 1
        small, large = scales[step], np.sqrt(scales[step] * scales[step + 1])
        sides = [(small, small), (large, large)]
        for ratio in (2, 3) if step < 5 else (2,):
            sides += [
                (small * np.sqrt(ratio), small / np.sqrt(ratio)),
                (small / np.sqrt(ratio), small * np.sqrt(ratio)),
            ]
        for row in range(rows):
            for column in range(columns):
                x, y = (column + 0.5) / columns, (row + 0.5) / rows
                for w, h in np.clip(sides, 0, 1):
                    boxes.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    return np.array(boxes)


@pytest.mark.parametrize("size", [(320, 320), (256, 192), (75, 100)])
def test_anchors_are_those_of_the_authors(network: SSDLite, size: tuple[int, int]) -> None:
    expected = expected_anchors(size)
    found = network.anchors(size).numpy()
    assert len(found) == len(expected)
    if size == (320, 320):
        assert len(found) == 3232
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


def test_scales_and_ratios_reach_the_anchors() -> None:
    numbers = {"widths": (8, 8, 8), "anchors": (4, 4, 2), "ratios": (4,), "scales": (0.2, 0.5)}
    anchors = detector(**numbers).anchors((16, 16))
    sides = (anchors[:, 2:] - anchors[:, :2]).tolist()
    geometric = [(0.2 * 0.3) ** 0.5, (0.3 * 0.4) ** 0.5, (0.4 * 0.5) ** 0.5]
    expected: list[tuple[float, float]] = []
    for small, large, boxes in zip((0.2, 0.3, 0.4), geometric, (4, 4, 2), strict=True):
        of_map = [(small, small), (large, large), (2 * small, small / 2), (small / 2, 2 * small)]
        expected += of_map[:boxes]
    np.testing.assert_allclose(sides, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050"])
@pytest.mark.parametrize("size", [(64, 64), (75, 100), (33, 200), (1, 1)])
def test_any_input_size(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = detector(name, num_classes=2).eval()
    x = torch.rand(1, 3, *size)
    with torch.no_grad():
        logits, offsets = network(x)
    anchors = len(network.anchors(size))
    assert logits.shape == (1, anchors, 2)
    assert offsets.shape == (1, anchors, 4)
    assert torch.isfinite(logits).all()
    assert torch.isfinite(offsets).all()


def test_an_anchor_stands_at_its_map_row_column_and_place(network: SSDLite) -> None:
    """A change of one pixel before the last layer of a head reaches that pixel's anchors alone."""
    x = torch.rand(1, 3, 128, 64)  # maps of 8 x 4, 4 x 2, 2 x 1 ... pixels

    def change(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        y = inputs[0].clone()
        y[:, :, 2, 1] += 1
        return y

    with torch.no_grad():
        before = torch.cat(network(x), -1)
        hook = network.heads[1].predict.register_forward_pre_hook(change)
        after = torch.cat(network(x), -1)
        hook.remove()
    changed = (before != after).any(-1)[0].nonzero().flatten().tolist()
    first = 8 * 4 * 6 + (2 * 2 + 1) * 6
    assert changed == list(range(first, first + 6))


def test_offsets_come_before_classes_in_what_an_anchor_predicts(network: SSDLite) -> None:
    numbers = torch.arange(4 * 9.0)  # the last map's anchors, 4 box numbers and 5 classes each
    network = copy.deepcopy(network)
    with torch.no_grad():
        network.heads[-1].predict.weight.zero_()
        network.heads[-1].predict.bias.copy_(numbers)
        logits, offsets = network(torch.rand(1, 3, 64, 64))
    predicted = numbers.reshape(4, 9)
    assert torch.equal(offsets[0, -4:], predicted[:, :4])
    assert torch.equal(logits[0, -4:], predicted[:, 4:])


def test_nothing_of_the_backbone_goes_untrained() -> None:
    torch.manual_seed(0)
    network = detector(num_classes=3)
    logits, offsets = network(torch.rand(2, 3, 64, 64))
    (logits.square().sum() + offsets.square().sum()).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    backbone = create_model("mobilevit_xxs", num_classes=0).state_dict()
    kept = {f"backbone.{name}" for name in backbone if not name.startswith("final.")}
    assert kept == {name for name in network.state_dict() if name.startswith("backbone.")}


def test_the_inference_form_gives_the_same(network: SSDLite) -> None:
    x = torch.rand(2, 3, 100, 75)
    with torch.no_grad():
        expected = network(x)
    fast = optimize(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    found = fast(x)
    assert isinstance(found, tuple)
    for mine, theirs in zip(found, expected, strict=True):
        assert theirs.std() > 0.1
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_bf16_is_near_and_gives_float32(network: SSDLite) -> None:
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(x)
    for mine, theirs in zip(optimize(network, "bf16")(x), expected, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() / theirs.norm() < 0.05


@pytest.fixture(scope="module")
def program(network: SSDLite) -> torch.export.ExportedProgram:
    return torch.export.export(network, (torch.rand(2, 3, 64, 128),))


def test_exported_graph_has_nothing_that_converters_refuse(
    program: torch.export.ExportedProgram,
) -> None:
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            assert value.ndim <= 5, node
        words = ("im2col", "col2im", "unfold", "upsample", "interpolate", "adaptive", ".item")
        assert not any(word in str(node.target) for word in words), node


def test_onnx_computes_the_same(
    network: SSDLite, program: torch.export.ExportedProgram, tmp_path: Path
) -> None:
    for module in ("onnx", "onnxscript"):
        pytest.importorskip(module)
    onnxruntime = pytest.importorskip("onnxruntime")
    file = tmp_path / "ssdlite.onnx"
    converted = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)
    assert converted is not None
    converted.save(file)
    x = torch.rand(2, 3, 64, 128)
    with torch.no_grad():
        expected = network(x)
    session = onnxruntime.InferenceSession(file)
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-4, rtol=1e-4)
