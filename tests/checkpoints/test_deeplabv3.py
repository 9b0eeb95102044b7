"""Whole segmentation networks of transformers and ml-cvnets: names, and the same logits as ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cvnets
from mobilevit.checkpoints.adapters import ADAPTERS, HEAD_ADAPTERS
from mobilevit.checkpoints.adapters.cvnets import ENCODER
from mobilevit.networks import VARIANTS, DeepLabV3, DeepLabV3Config, MobileViTConfig, create_model
from peers import enliven

SMALL = ("mobilevit_xxs", "mobilevitv2_050")
STRIDES = (16, 8)
CLASSES, WIDTH, RATES = 6, 24, (2, 3, 5)

CONVERTED = [  # what transformers' scripts call a tensor of ml-cvnets
    (
        "seg_head.aspp.aspp_layer.convs.0.block.conv.weight",
        "segmentation_head.aspp.convs.0.convolution.weight",
    ),
    (
        "seg_head.aspp.aspp_layer.convs.3.block.norm.running_var",
        "segmentation_head.aspp.convs.3.normalization.running_var",
    ),
    (
        "seg_head.aspp.aspp_layer.convs.4.aspp_pool.conv_1x1.block.norm.bias",
        "segmentation_head.aspp.convs.4.conv_1x1.normalization.bias",
    ),
    (
        "seg_head.aspp.aspp_layer.project.block.conv.weight",
        "segmentation_head.aspp.project.convolution.weight",
    ),
    (
        "seg_head.classifier.block.conv.bias",
        "segmentation_head.classifier.convolution.bias",
    ),
]


def make(name: str, output_stride: int, classes: int = CLASSES, width: int = WIDTH) -> DeepLabV3:
    backbone = create_model(name, num_classes=0, output_stride=output_stride)
    config = DeepLabV3Config(num_classes=classes, aspp_width=width, aspp_rates=RATES)
    return DeepLabV3(backbone, config).eval()


def in_transformers(name: str, output_stride: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    numbers = VARIANTS[name]
    settings: dict[str, Any] = {
        "num_labels": CLASSES,
        "output_stride": output_stride,
        "aspp_out_channels": WIDTH,
        "atrous_rates": list(RATES),
    }
    if isinstance(numbers, MobileViTConfig):
        config = transformers.MobileViTConfig(
            hidden_sizes=list(numbers.token_widths),
            neck_hidden_sizes=[numbers.stem_width, *numbers.widths, numbers.head_width],
            expand_ratio=float(numbers.expansion),
            **settings,
        )
        return transformers.MobileViTForSemanticSegmentation(config)
    width = int(name[-3:]) / 100
    config = transformers.MobileViTV2Config(width_multiplier=width, **settings)
    return transformers.MobileViTV2ForSemanticSegmentation(config)


def to_ours(library: str, name: str, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a whole state dict: the head by its table, the rest by that of the backbone."""
    head, backbone = HEAD_ADAPTERS[library, "deeplabv3"], ADAPTERS[library, name.split("_")[0]]
    part = head.part(theirs)
    rest = {
        key.removeprefix(ENCODER) if library == "cvnets" else key: tensor
        for key, tensor in theirs.items()
        if key not in part and not key.startswith("seg_head.aux_head.")
    }
    ours = {f"backbone.{key}": tensor for key, tensor in backbone.to_ours(rest).items()}
    return ours | head.to_ours(part)


def to_theirs(library: str, name: str, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``to_ours``."""
    head, backbone = HEAD_ADAPTERS[library, "deeplabv3"], ADAPTERS[library, name.split("_")[0]]
    stages = {k.removeprefix("backbone."): v for k, v in ours.items() if k.startswith("backbone.")}
    before = ENCODER if library == "cvnets" else ""
    theirs = {before + key: tensor for key, tensor in backbone.to_theirs(stages).items()}
    return theirs | head.to_theirs({k: v for k, v in ours.items() if not k.startswith("backbone.")})


def compare(ours: nn.Module, theirs: nn.Module, shape: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, logits = theirs(x), ours(x)
    expected = getattr(expected, "logits", expected)
    assert expected.std() > 0.1
    assert expected.std((2, 3)).min() > 0.01  # the places differ
    assert not torch.allclose(expected[0], expected[1], atol=0.01)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


# transformers leaves zeros where patches do not fill a MobileViTv2's map: its sizes here are even.
TRANSFORMERS = [
    *((name, stride, shape) for name in SMALL for stride in STRIDES for shape in ((128, 128),)),
    *((SMALL[0], stride, (100, 150)) for stride in STRIDES),
    *((SMALL[1], stride, (96, 160)) for stride in STRIDES),
]


@pytest.mark.parametrize(("name", "output_stride", "shape"), TRANSFORMERS)
def test_weights_of_transformers_give_their_logits(
    name: str, output_stride: int, shape: tuple[int, int]
) -> None:
    theirs = enliven(in_transformers(name, output_stride))
    ours = make(name, output_stride)
    ours.load_state_dict(to_ours("transformers", name, theirs.state_dict()), strict=True)
    compare(ours, theirs, shape)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("output_stride", STRIDES)
@pytest.mark.parametrize("shape", [(128, 128), (75, 150)])
def test_weights_of_cvnets_give_their_logits(
    name: str, output_stride: int, shape: tuple[int, int]
) -> None:
    theirs = enliven(cvnets.Segmenter(name, CLASSES, output_stride, WIDTH, RATES))
    ours = make(name, output_stride)
    ours.load_state_dict(to_ours("cvnets", name, theirs.file()), strict=True)
    compare(ours, theirs, shape)


@pytest.mark.parametrize("name", SMALL)
def test_there_and_back_is_the_identity(name: str) -> None:
    peers = {
        "transformers": enliven(in_transformers(name, 16)).state_dict(),
        "cvnets": enliven(cvnets.Segmenter(name, CLASSES, 16, WIDTH, RATES)).file(),
    }
    for library, theirs in peers.items():
        theirs = {k: v for k, v in theirs.items() if ".aux_head." not in k}
        back = to_theirs(library, name, to_ours(library, name, theirs))
        assert back.keys() == theirs.keys()
        assert all(torch.equal(back[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", cvnets.SIZES)
def test_every_name_of_a_published_size_is_known(name: str) -> None:
    with torch.device("meta"):
        mine = make(name, 16, classes=21, width=256).state_dict()
        theirs = cvnets.Segmenter(name, 21, 16, 256, RATES).file()
        mapped = to_theirs("cvnets", name, mine)
    expected = {k: v.shape for k, v in theirs.items() if ".aux_head." not in k}
    assert {k: v.shape for k, v in mapped.items()} == expected


def test_the_auxiliary_head_and_the_backbone_are_no_part_of_the_head() -> None:
    with torch.device("meta"):
        theirs = cvnets.Segmenter("mobilevit_xxs", CLASSES, 16, WIDTH, RATES).file()
        mine = make("mobilevit_xxs", 16).state_dict()
    adapter = HEAD_ADAPTERS["cvnets", "deeplabv3"]
    assert any(name.startswith("seg_head.aux_head.") for name in theirs)
    head = adapter.to_ours(adapter.part(theirs))
    assert head.keys() == {name for name in mine if not name.startswith("backbone.")}


@pytest.mark.parametrize(("cvnets_name", "transformers_name"), CONVERTED)
def test_names_are_those_of_transformers_converters(
    cvnets_name: str, transformers_name: str
) -> None:
    one, other = HEAD_ADAPTERS["cvnets", "deeplabv3"], HEAD_ADAPTERS["transformers", "deeplabv3"]
    tensor = torch.zeros(1)
    assert list(other.to_theirs(one.to_ours({cvnets_name: tensor}))) == [transformers_name]
    assert list(one.to_theirs(other.to_ours({transformers_name: tensor}))) == [cvnets_name]


def test_the_classifier_of_the_first_release_is_read_and_written_as_now() -> None:
    adapter = HEAD_ADAPTERS["cvnets", "deeplabv3"]
    old = {"seg_head.classifier.classifier.block.conv.weight": torch.ones(1)}
    assert adapter.part(old) == old
    assert adapter.to_ours(old) == {"head.weight": torch.ones(1)}
    assert list(adapter.to_theirs(adapter.to_ours(old))) == [
        "seg_head.classifier.block.conv.weight"
    ]


def test_every_table_says_whose_it_is() -> None:
    assert all(adapter.library == library for (library, _), adapter in HEAD_ADAPTERS.items())
