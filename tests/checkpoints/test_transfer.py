"""What goes from one network into another."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mobilevit import UserError
from mobilevit.checkpoints import Checkpoint, architecture
from mobilevit.checkpoints.pretrained import tensors_for
from mobilevit.checkpoints.transfer import match, transfer
from mobilevit.deployment.contract import Contract
from mobilevit.networks import DeepLabV3, DeepLabV3Config, TorchvisionLRASPP, create_model
from mobilevit.networks.torchvision_lraspp import NAME as TORCHVISION_LRASPP

LINEAR = ("weight", "bias")


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return create_model("mobilevit_xxs", num_classes=4).state_dict()


def test_the_same_network_takes_all(tensors: dict[str, Tensor]) -> None:
    network = create_model("mobilevit_xxs", num_classes=4)
    done = transfer(tensors, network, "x")
    assert set(done.loaded) == set(tensors)
    assert not done.new
    assert not done.ignored
    assert not done.adapted
    assert all(torch.equal(v, tensors[k]) for k, v in network.state_dict().items())


def test_a_new_head_can_be_asked_for(tensors: dict[str, Tensor]) -> None:
    network = create_model("mobilevit_xxs", num_classes=4)
    before = network.head.weight.detach().clone()
    done = transfer(tensors, network, "x", new_head=True)
    assert done.new == ("head.weight", "head.bias")
    assert torch.equal(network.head.weight, before)


@pytest.mark.parametrize("name", ["head.bias", "final.conv.weight"])
def test_nothing_stays_new_that_must_not(name: str, tensors: dict[str, Tensor]) -> None:
    lost = {k: v for k, v in tensors.items() if k != name}
    network = create_model("mobilevit_xxs", num_classes=4)
    assert transfer(lost, network, "x").new == (name,)
    with pytest.raises(UserError, match=f"no '{name}'"):
        match(lost, network, "x")
    with pytest.raises(UserError, match=f"'{name}' has the shape"):
        match(tensors | {name: torch.zeros(3)}, network, "x")


def test_each_tensor_is_told_once(tensors: dict[str, Tensor]) -> None:
    given_ = {k: v for k, v in tensors.items() if not k.startswith("final.")}
    given_["extra.weight"] = torch.zeros(2)
    network = create_model("mobilevit_xxs", num_classes=7, in_chans=1)
    done = transfer(given_, network, "x")
    assert {name.partition(".")[0] for name in done.new} == {"final", "head"}
    assert done.ignored == ("extra.weight",)
    assert done.adapted == {"stem.conv.weight": "from 3 to 1 input channels"}
    assert {*done.loaded, *done.adapted, *done.new} == network.state_dict().keys()
    assert len(done.loaded) + len(done.adapted) + len(done.new) == len(network.state_dict())


def test_two_steps_are_told_as_one(tensors: dict[str, Tensor]) -> None:
    """First a source without ``final`` into a network, then that one into another."""
    given_ = {k: v for k, v in tensors.items() if not k.startswith("final.")} | {
        "extra": tensors["head.bias"]
    }
    between = create_model("mobilevit_xxs", num_classes=4)
    first = transfer(given_, between, "x")
    last = create_model("mobilevit_xxs", num_classes=7)
    done = first.then(transfer(between.state_dict(), last, "x"))
    direct = transfer(given_, create_model("mobilevit_xxs", num_classes=7), "x")
    assert set(done.loaded) == set(direct.loaded)
    assert set(done.new) == set(direct.new)
    assert done.ignored == direct.ignored


@pytest.mark.parametrize("name", ["stem.norm.weight", "stages.4.1.fuse.conv.weight"])
def test_what_is_missing_or_of_another_shape_is_named(
    name: str, tensors: dict[str, Tensor]
) -> None:
    network = create_model("mobilevit_xxs", num_classes=4)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(UserError, match=rf"^here: it has no '{name}'"):
        transfer({k: v for k, v in tensors.items() if k != name}, network, "here")
    with pytest.raises(UserError, match=rf"^here: '{name}' has the shape \(1, 2\)"):
        transfer(tensors | {name: torch.zeros(1, 2)}, network, "here")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@given(channels=st.integers(1, 9), level=st.floats(0.1, 1))
@settings(deadline=None, max_examples=20)
def test_a_uniform_picture_gives_the_same_whatever_the_channels(
    channels: int, level: float
) -> None:
    """Grey in n channels is what grey in three was, away from where a kernel sees colour."""
    torch.manual_seed(1)
    source = create_model("mobilevit_xxs", num_classes=0).stem.conv
    source.weight.data[:] = source.weight.data.mean(1, keepdim=True)  # blind to colour
    with torch.device("meta"):
        network = create_model("mobilevit_xxs", num_classes=0, in_chans=channels)
    state = create_model("mobilevit_xxs", num_classes=0).state_dict()
    chosen, _ = match(state | {"stem.conv.weight": source.weight.data}, network, "x")
    weight = chosen["stem.conv.weight"]
    assert weight.shape[1] == channels
    expected = torch.conv2d(torch.full((1, 3, 8, 8), level), source.weight.data)
    found = torch.conv2d(torch.full((1, channels, 8, 8), level), weight)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


# --- segmentation ---


def deeplab(classes: int = 3, aux: bool = False, output_stride: int = 16) -> DeepLabV3:
    backbone = create_model("mobilevit_xxs", num_classes=0, output_stride=output_stride)
    return DeepLabV3(backbone, DeepLabV3Config(num_classes=classes, aspp_width=16, aux=aux))


def saved(network: nn.Module, name: str = "mobilevit_xxs") -> Checkpoint:
    contract = Contract("segmentation", ("a", "b", "c"), (64, 64), None)
    return Checkpoint(network, contract, architecture(name, network))


def parts(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_a_classifiers_backbone_goes_under_a_new_segmenter() -> None:
    theirs = create_model("mobilevit_xxs", num_classes=4)
    network = deeplab(aux=True)
    done = transfer(tensors_for(network, saved(theirs)), network, "x", new_head=True)
    assert (parts(done.loaded), parts(done.new)) == ({"backbone"}, {"aspp", "head", "aux"})
    assert parts(name.removeprefix("backbone.") for name in done.ignored) == {"final", "head"}
    inner = theirs.state_dict()
    assert all(torch.equal(v, inner[k]) for k, v in network.backbone.state_dict().items())


@pytest.mark.parametrize("new_head", [False, True])
def test_a_segmenters_classifier_is_kept_unless_the_classes_differ(new_head: bool) -> None:
    theirs, network = deeplab(aux=True), deeplab(aux=True, output_stride=8)
    done = transfer(tensors_for(network, saved(theirs)), network, "x", new_head=new_head)
    classifiers = {f"{part}.{kind}" for part in ("head", "aux.predict") for kind in LINEAR}
    assert set(done.new) == (classifiers if new_head else set())
    assert not done.ignored
    mine, other = network.state_dict(), theirs.state_dict()
    assert {k for k in mine if torch.equal(mine[k], other[k])} >= mine.keys() - set(done.new)


def test_an_auxiliary_head_is_new_or_left_out_where_only_one_side_has_it() -> None:
    with_aux, without = deeplab(aux=True), deeplab()
    assert parts(transfer(tensors_for(with_aux, saved(without)), with_aux, "x").new) == {"aux"}
    assert parts(transfer(tensors_for(without, saved(with_aux)), without, "x").ignored) == {"aux"}


@pytest.mark.parametrize("new_head", [False, True])
def test_torchvisions_segmenter_goes_on_from_its_own_weights(new_head: bool) -> None:
    theirs, network = TorchvisionLRASPP(3), TorchvisionLRASPP(3)
    checkpoint = saved(theirs, TORCHVISION_LRASPP)
    done = transfer(tensors_for(network, checkpoint), network, "x", new_head=new_head)
    assert parts(done.new) == ({"head"} if new_head else set())
    assert parts(done.loaded) == ({"backbone"} if new_head else {"backbone", "head"})
    assert not done.ignored


def test_weights_of_a_time_without_counts_are_whole(tensors: dict[str, Tensor]) -> None:
    old = {name: value for name, value in tensors.items() if "num_batches" not in name}
    done = transfer(old, create_model("mobilevit_xxs", num_classes=4), "x")
    assert set(done.loaded) == set(old)
    assert not done.new
