"""Parity with timm and transformers: outputs, feature maps and gradients of the same weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from mobilevit.checkpoints.adapters import ADAPTERS, Adapter
from mobilevit.networks import VARIANTS, Backbone, MobileViTConfig, create_model, list_models

SMALL = ("mobilevit_xxs", "mobilevitv2_050")
TOLERANCE = 1e-4

Run = Callable[[Tensor], tuple[Tensor, list[Tensor]]]  # logits and the five stages' maps


@dataclass(frozen=True)
class Peer:
    """Another library's network, and how to get its numbers."""

    adapter: Adapter
    network: nn.Module
    run: Run


def in_timm(name: str, classes: int = 1000) -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model(name, num_classes=classes)


def run_timm(network: nn.Module) -> Run:
    maps: list[Tensor] = []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, args, y: maps.append(y.clone()))

    def run(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps.clear()
        return network(x), list(maps)

    return run


def in_transformers(name: str, classes: int = 1000) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    numbers = VARIANTS[name]
    if isinstance(numbers, MobileViTConfig):
        config = transformers.MobileViTConfig(
            hidden_sizes=list(numbers.token_widths),
            neck_hidden_sizes=[numbers.stem_width, *numbers.widths, numbers.head_width],
            expand_ratio=float(numbers.expansion),
            num_labels=classes,
        )
        kinds = transformers.MobileViTForImageClassification, transformers.MobileViTModel
    else:
        width = int(name.removeprefix("mobilevitv2_")) / 100
        config = transformers.MobileViTV2Config(width_multiplier=width, num_labels=classes)
        kinds = transformers.MobileViTV2ForImageClassification, transformers.MobileViTV2Model
    return kinds[0](config) if classes else kinds[1](config)


def run_transformers(network: nn.Module) -> Run:
    def run(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        outputs = network(x, output_hidden_states=True)
        return outputs.logits, list(outputs.hidden_states)

    return run


MAKERS = {"timm": in_timm, "transformers": in_transformers}
RUNNERS = {"timm": run_timm, "transformers": run_transformers}
_PAIRS: dict[tuple[str, str], tuple[Backbone, Peer]] = {}


def adapter_of(library: str, name: str) -> Adapter:
    return ADAPTERS[library, name.split("_")[0]]


def pair(library: str, name: str) -> tuple[Backbone, Peer]:
    """Return our network and the peer's with the same weights, in evaluation mode."""
    if (library, name) not in _PAIRS:
        torch.manual_seed(1)
        ours = create_model(name)
        enliven(ours)
        network = MAKERS[library](name)
        peer = Peer(adapter_of(library, name), network, RUNNERS[library](network))
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
            if module.bias is not None:
                module.bias.normal_(0, 0.1)
        elif isinstance(module, nn.Linear):
            module.weight.normal_(0, module.in_features**-0.5)
            module.bias.normal_(0, 0.1)
        elif isinstance(module, (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)):
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


AT_256 = ("mobilevit_xxs", "mobilevit_xs", "mobilevit_s", "mobilevitv2_050", "mobilevitv2_100")


@pytest.mark.parametrize("library", MAKERS)
@pytest.mark.parametrize("name", AT_256)
def test_logits_and_feature_maps_agree_at_256(library: str, name: str) -> None:
    compare(library, name, (256, 256))


# Where patches do not fill a MobileViTv2's map, ml-cvnets and timm resize it; transformers leaves
# zeros at its right and lower edge. Ours does as the authors do. (250, 188) is a multiple of
# nothing, and yet patches fill the maps at strides 8, 16 and 32.
OTHER_SIZES = [
    *(("timm", name, shape) for name in SMALL for shape in ((192, 256), (250, 230), (100, 75))),
    *(("transformers", SMALL[0], shape) for shape in ((192, 256), (250, 230), (100, 75))),
    *(("transformers", SMALL[1], shape) for shape in ((192, 256), (250, 188))),
]


@pytest.mark.parametrize(("library", "name", "shape"), OTHER_SIZES, ids=str)
def test_logits_and_feature_maps_agree_at_other_sizes(
    library: str, name: str, shape: tuple[int, int]
) -> None:
    compare(library, name, shape)


def freeze_statistics(network: nn.Module) -> None:
    """Put a network in training mode, without dropout and with its batch-norms frozen."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.BatchNorm2d):
            module.eval()


TRAINED = [
    *((*peer, (128, 128)) for peer in itertools.product(MAKERS, SMALL)),
    *((*peer, (96, 160)) for peer in itertools.product(MAKERS, SMALL[:1])),
    *(("timm", name, (100, 75)) for name in SMALL),
    ("transformers", SMALL[0], (100, 75)),
    ("transformers", SMALL[1], (124, 60)),
]


@pytest.mark.parametrize(("library", "name", "shape"), TRAINED, ids=str)
def test_training_with_frozen_statistics_agrees_in_every_gradient(
    library: str, name: str, shape: tuple[int, int]
) -> None:
    ours, peer = pair(library, name)
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
@pytest.mark.parametrize("name", SMALL)
def test_there_and_back_is_the_identity(library: str, name: str) -> None:
    ours, peer = pair(library, name)
    mine, theirs = ours.state_dict(), peer.network.state_dict()
    assert same(peer.adapter.to_ours(peer.adapter.to_theirs(mine)), mine)
    assert same(peer.adapter.to_theirs(peer.adapter.to_ours(theirs)), theirs)
    assert peer.adapter.to_theirs(mine).keys() == theirs.keys()


@pytest.mark.parametrize("library", MAKERS)
@pytest.mark.parametrize("name", list_models())
def test_every_name_is_known(library: str, name: str) -> None:
    with torch.device("meta"):
        mine, theirs = create_model(name).state_dict(), MAKERS[library](name).state_dict()
        mapped = adapter_of(library, name).to_theirs(mine)
    assert {k: v.shape for k, v in mapped.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("library", MAKERS)
@pytest.mark.parametrize("name", SMALL)
def test_a_backbone_without_classifier_is_one_of_no_classes(library: str, name: str) -> None:
    torch.manual_seed(4)
    backbone = MAKERS[library](name, classes=0).eval()
    enliven(backbone)
    theirs = backbone.state_dict()
    if library == "transformers":  # the bare model's names begin where the classifier's go on
        theirs = {f"{name.split('_')[0]}.{key}": value for key, value in theirs.items()}
    adapter = adapter_of(library, name)
    ours = create_model(name, num_classes=0).eval()
    ours.load_state_dict(adapter.to_ours(theirs), strict=True)
    assert same(adapter.to_theirs(ours.state_dict()), theirs)
    x = torch.rand(2, 3, 128, 64)
    with torch.no_grad():
        pooled = backbone(x)
        pooled = getattr(pooled, "pooler_output", pooled)
        assert pooled.std() > 0.1
        torch.testing.assert_close(ours(x), pooled, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_libraries_agree_with_each_other_through_ours(name: str) -> None:
    _, timm = pair("timm", name)
    _, transformers = pair("transformers", name)
    ours = timm.adapter.to_ours(timm.network.state_dict())
    assert same(transformers.adapter.to_theirs(ours), transformers.network.state_dict())


def test_every_table_says_whose_it_is() -> None:
    assert all(adapter.library == library for (library, _), adapter in ADAPTERS.items())
    assert {family for _, family in ADAPTERS} == {name.split("_")[0] for name in VARIANTS}
