"""The names of ml-cvnets' detectors: parity with a tree of theirs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cvnets
from cvnets_ssd import Detector
from mobilevit.checkpoints.adapters import ADAPTERS
from mobilevit.checkpoints.adapters.cvnets import BESIDE, ENCODER
from mobilevit.checkpoints.adapters.ssdlite import CVNETS
from mobilevit.networks import create_model
from mobilevit.networks.ssdlite import SSDLite, SSDLiteConfig
from peers import enliven

OURS = "backbone."


def ssdlite(name: str, classes: int = 81) -> SSDLite:
    return SSDLite(create_model(name, num_classes=0), SSDLiteConfig(num_classes=classes))


def parts(tensors: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the backbone's tensors, without the prefix of their names, and all others."""
    backbone = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return backbone, {k: v for k, v in tensors.items() if not k.startswith(prefix)}


def to_ours(name: str, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    backbone, rest = parts(theirs, ENCODER)
    mine = ADAPTERS["cvnets", name.split("_")[0]].to_ours(backbone)
    return {OURS + key: tensor for key, tensor in mine.items()} | CVNETS.to_ours(rest)


def to_theirs(name: str, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    backbone, rest = parts(ours, OURS)
    mapped = ADAPTERS["cvnets", name.split("_")[0]].to_theirs(backbone)
    return {ENCODER + key: tensor for key, tensor in mapped.items()} | CVNETS.to_theirs(rest)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mobilevit_xxs", (128, 128)),
        ("mobilevit_xxs", (100, 75)),
        ("mobilevit_s", (96, 64)),
        ("mobilevitv2_050", (100, 75)),  # its last map has the width of the head: no projection
    ],
)
def test_their_weights_give_their_logits_and_offsets(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    theirs = enliven(Detector(name, 7))
    ours = ssdlite(name, 7).eval()
    ours.load_state_dict(to_ours(name, theirs.state_dict()), strict=True)
    x = torch.rand(2, 3, *size)
    with torch.no_grad():
        expected, found = theirs(x), ours(x)
    for mine, wanted in zip(found, expected, strict=True):
        assert wanted.std() > 0.1
        assert not torch.allclose(wanted[0], wanted[1], atol=0.01)
        torch.testing.assert_close(mine, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", cvnets.SIZES)
def test_every_name_is_known(name: str) -> None:
    with torch.device("meta"):
        mine, theirs = ssdlite(name).state_dict(), Detector(name).state_dict()
    mapped, back = to_theirs(name, mine), to_ours(name, theirs)
    assert {k: v.shape for k, v in mapped.items()} == {k: v.shape for k, v in theirs.items()}
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in mine.items()}


def test_there_and_back_is_the_identity() -> None:
    theirs = enliven(Detector("mobilevit_xxs")).state_dict()
    back = to_theirs("mobilevit_xxs", to_ours("mobilevit_xxs", theirs))
    assert list(back) == list(theirs)
    assert all(back[name] is theirs[name] for name in theirs)


def test_what_is_no_backbone_is_picked_out_of_a_file() -> None:
    with torch.device("meta"):
        file = Detector("mobilevit_xxs").state_dict()
    _, rest = parts(file, ENCODER)
    assert CVNETS.part(file) == rest
    assert set(CVNETS.begins) < set(BESIDE)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("extras.0.depthwise.conv.weight", "extra_layers.os_64.dw_conv.block.conv.weight"),
        ("extras.1.pointwise.norm.bias", "extra_layers.os_128.pw_conv.block.norm.bias"),
        (
            "extras.2.depthwise.norm.running_var",
            "extra_layers.os_256.dw_conv.block.norm.running_var",
        ),
        ("extras.3.pointwise.weight", "extra_layers.os_-1.1.block.conv.weight"),
        ("heads.0.project.norm.weight", "ssd_heads.0.proj_layer.block.norm.weight"),
        (
            "heads.1.depthwise.norm.weight",
            "ssd_heads.1.loc_cls_layer.dw_conv.block.norm.weight",
        ),
        ("heads.4.predict.bias", "ssd_heads.4.loc_cls_layer.pw_conv.block.conv.bias"),
        ("heads.5.predict.weight", "ssd_heads.5.loc_cls_layer.block.conv.weight"),
    ],
)
def test_names_are_those_of_the_published_files(ours: str, theirs: str) -> None:
    tensor = torch.zeros(1)
    assert CVNETS.to_theirs({ours: tensor}) == {theirs: tensor}
    assert CVNETS.to_ours({theirs: tensor}) == {ours: tensor}
