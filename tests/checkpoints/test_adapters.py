"""Parity with timm and transformers: outputs, feature maps and gradients of the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from mobilevit import create_model
from mobilevit.checkpoints import TIMM, TRANSFORMERS, Adapter
from mobilevit.networks.mobilevit import MobileViT

SIZES = ("mobilevit_xxs", "mobilevit_xs", "mobilevit_s")
SHAPES = ((256, 256), (192, 256), (250, 230), (100, 75))
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Peer:
    """Another library's network, and how to get its numbers."""

    adapter: Adapter
    network: nn.Module
    run: Callable[[Tensor], tuple[Tensor, list[Tensor]]]  # logits and the five stages' maps


def timm_peer(name: str) -> Peer:
    timm = pytest.importorskip("timm")
    network = timm.create_model(name, num_classes=1000)
    maps: list[Tensor] = []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, args, y: maps.append(y.clone()))

    def run(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps.clear()
        return network(x), list(maps)

    return Peer(TIMM, network, run)


def transformers_peer(name: str) -> Peer:
    transformers = pytest.importorskip("transformers")
    tokens, necks, expansion = {
        "mobilevit_xxs": ([64, 80, 96], [16, 16, 24, 48, 64, 80, 320], 2.0),
        "mobilevit_xs": ([96, 120, 144], [16, 32, 48, 64, 80, 96, 384], 4.0),
        "mobilevit_s": ([144, 192, 240], [16, 32, 64, 96, 128, 160, 640], 4.0),
    }[name]
    config = transformers.MobileViTConfig(
        hidden_sizes=tokens, neck_hidden_sizes=necks, expand_ratio=expansion, num_labels=1000
    )
    network = transformers.MobileViTForImageClassification(config)

    def run(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        outputs = network(x, output_hidden_states=True)
        return outputs.logits, list(outputs.hidden_states)

    return Peer(TRANSFORMERS, network, run)


MAKERS = {"timm": timm_peer, "transformers": transformers_peer}
_PAIRS: dict[tuple[str, str], tuple[MobileViT, Peer]] = {}


def pair(library: str, name: str) -> tuple[MobileViT, Peer]:
    """Return our network and the peer's with the same weights, in evaluation mode."""
    if (library, name) not in _PAIRS:
        torch.manual_seed(1)
        ours = create_model(name)
        enliven(ours)
        peer = MAKERS[library](name)
        peer.network.load_state_dict(peer.adapter.to_theirs(ours.state_dict()), strict=True)
        _PAIRS[library, name] = ours.eval(), peer
    ours, peer = _PAIRS[library, name]
    peer.network.eval()
    return ours.eval(), peer


@torch.no_grad()
def enliven(network: nn.Module) -> None:
    """Fill in weights that keep signals of order 1, so that a comparison says something."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, (2 / fan_in) ** 0.5)
        elif isinstance(module, nn.Linear):
            module.weight.normal_(0, module.in_features**-0.5)
            module.bias.normal_(0, 0.1)
        elif isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            module.weight.uniform_(0.6, 1.4)
            module.bias.normal_(0, 0.1)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.6, 1.4)
            module.num_batches_tracked.random_(1, 100)


def compare(library: str, name: str, shape: tuple[int, int]) -> None:
    ours, peer = pair(library, name)
    x = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits, maps = peer.run(x)
        assert logits.std() > 0.1
        assert not torch.allclose(logits[0], logits[1], atol=0.01)
        torch.testing.assert_close(ours(x), logits, atol=TOLERANCE, rtol=0)
        assert len(maps) == 5
        for mine, theirs in zip(ours.forward_stages(x), maps, strict=True):
            assert 0.1 < theirs.std() < 10
            torch.testing.assert_close(mine, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("library", MAKERS)
@pytest.mark.parametrize("name", SIZES)
def test_logits_and_feature_maps_agree_at_256(library: str, name: str) -> None:
    compare(library, name, (256, 256))


@pytest.mark.parametrize("library", MAKERS)
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_logits_and_feature_maps_agree_at_other_sizes(library: str, shape: tuple[int, int]) -> None:
    compare(library, "mobilevit_xxs", shape)


def freeze_statistics(network: nn.Module) -> None:
    """Put a network in training mode, without dropout and with its batch-norms frozen."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.BatchNorm2d):
            module.eval()


@pytest.mark.parametrize("library", MAKERS)
@pytest.mark.parametrize("shape", [(128, 128), (96, 160), (100, 75)], ids=str)
def test_training_with_frozen_statistics_agrees_in_every_gradient(
    library: str, shape: tuple[int, int]
) -> None:
    ours, peer = pair(library, "mobilevit_xxs")
    random = torch.Generator().manual_seed(3)
    x = torch.rand(2, 3, *shape, generator=random)
    direction = torch.randn(2, 1000, generator=random)
    for network in (ours, peer.network):
        freeze_statistics(network)
        network.zero_grad()
    before = {k: v.clone() for k, v in ours.named_buffers()}

    mine, (theirs, _) = ours(x), peer.run(x)
    torch.testing.assert_close(mine, theirs, atol=TOLERANCE, rtol=0)
    for logits in (mine, theirs):
        (logits * direction).sum().backward()

    expected = peer.adapter.to_ours({k: p.grad for k, p in peer.network.named_parameters()})
    assert expected.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        norm = expected[name].norm()
        assert norm > 0, name
        assert (parameter.grad - expected[name]).norm() <= TOLERANCE * norm, name
    assert all(torch.equal(v, before[k]) for k, v in ours.named_buffers())


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


@pytest.mark.parametrize("library", MAKERS)
def test_there_and_back_is_the_identity(library: str) -> None:
    ours, peer = pair(library, "mobilevit_xxs")
    mine, theirs = ours.state_dict(), peer.network.state_dict()
    assert same(peer.adapter.to_ours(peer.adapter.to_theirs(mine)), mine)
    assert same(peer.adapter.to_theirs(peer.adapter.to_ours(theirs)), theirs)
    assert peer.adapter.to_theirs(mine).keys() == theirs.keys()


@pytest.mark.parametrize("library", MAKERS)
@pytest.mark.parametrize("name", SIZES)
def test_every_name_is_known(library: str, name: str) -> None:
    with torch.device("meta"):
        mine, theirs = create_model(name).state_dict(), MAKERS[library](name).network.state_dict()
        adapter = TIMM if library == "timm" else TRANSFORMERS
        mapped = adapter.to_theirs(mine)
    assert {k: v.shape for k, v in mapped.items()} == {k: v.shape for k, v in theirs.items()}


def test_libraries_agree_with_each_other_through_ours() -> None:
    _, timm = pair("timm", "mobilevit_xxs")
    _, transformers = pair("transformers", "mobilevit_xxs")
    mapped = TRANSFORMERS.to_theirs(TIMM.to_ours(timm.network.state_dict()))
    assert mapped.keys() == transformers.network.state_dict().keys()
