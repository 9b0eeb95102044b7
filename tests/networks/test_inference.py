from __future__ import annotations

import pytest
import torch
from torch import nn

from mobilevit.networks import Backbone, create_model
from mobilevit.networks.inference import optimize
from peers import stir_norms


@pytest.fixture(scope="module", params=["mobilevit_xxs", "mobilevitv2_050"])
def network(request: pytest.FixtureRequest) -> Backbone:
    """A network whose batch-norms do something; no test may change it."""
    torch.manual_seed(0)
    network = create_model(request.param, num_classes=9)
    stir_norms(network)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, module.in_features**-0.5)
    return network.eval()


@pytest.mark.parametrize("size", [(64, 64), (100, 75), (33, 32)])
def test_fp32_gives_the_same_logits(network: Backbone, size: tuple[int, int]) -> None:
    x = torch.rand(3, 3, *size)
    with torch.no_grad():
        expected = network(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(optimize(network)(x), expected, atol=1e-5, rtol=1e-5)


def test_bf16_is_near_and_gives_float32(network: Backbone) -> None:
    x = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        expected = network(x)
    fast = optimize(network, "bf16")
    logits = fast(x)
    assert logits.dtype == torch.float32
    assert {p.dtype for p in fast.parameters()} == {torch.bfloat16}
    assert (logits - expected).norm() / expected.norm() < 0.03
    assert not torch.equal(logits, expected)


def test_the_original_is_left_as_it_was(network: Backbone) -> None:
    original = type(network)(network.config).train()
    original.load_state_dict(network.state_dict())
    optimize(original, "bf16")
    assert original.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in original.parameters())
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in original.state_dict().items())
    assert isinstance(original.stem.norm, nn.BatchNorm2d)


def test_the_copy_is_folded_channels_last_and_for_inference_alone(network: Backbone) -> None:
    fast = optimize(network)
    assert not fast.training
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert not any(p.requires_grad for p in fast.parameters())
    for module in fast.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)
    assert fast(torch.rand(1, 3, 64, 64)).is_inference()


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050"])
def test_feature_maps_too(name: str) -> None:
    extractor = create_model(name, features_only=True, out_indices=(1, 4)).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = extractor(x)
    for fast, slow in zip(optimize(extractor)(x), expected, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-5)


def test_nothing_brings_dropout_back(network: Backbone) -> None:
    fast = optimize(network)
    assert fast.train() is fast
    assert not any(module.training for module in fast.modules())


def test_other_precisions_are_refused(network: Backbone) -> None:
    with pytest.raises(ValueError, match="fp32, bf16, not 'int8'"):
        optimize(network, "int8")


def test_what_it_made_can_be_made_another(network: Backbone) -> None:
    x = torch.rand(2, 3, 64, 64)
    twice = optimize(optimize(network), "bf16")
    assert torch.equal(twice(x), optimize(network, "bf16")(x))
