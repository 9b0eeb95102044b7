"""Segmentation and detection checkpoints: heads on a backbone, from and to other libraries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mobilevit import (
    UserError,
    create_model,
    export,
    load_checkpoint,
    load_pretrained,
    predict,
    save_checkpoint,
)
from mobilevit.checkpoints import Checkpoint, architecture
from mobilevit.checkpoints.writing import save_for
from mobilevit.deployment.contract import Contract
from mobilevit.networks import (
    DeepLabV3,
    DeepLabV3Config,
    SSDLite,
    SSDLiteConfig,
    TorchvisionLRASPP,
)
from peers import CLASSES, enliven, transformers_network

NAMES = ("mobilevit_xxs", "mobilevitv2_050")
PICTURES = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(0))


def deeplab(name: str, stride: int = 16, **numbers: object) -> Checkpoint:
    backbone = create_model(name, num_classes=0, output_stride=stride)
    config = DeepLabV3Config(num_classes=3, **{"aspp_width": 256, **numbers})
    network = enliven(DeepLabV3(backbone, config))
    contract = Contract("segmentation", CLASSES, (512, 384), None, output="pixel_logits")
    return Checkpoint(network, contract, architecture(name, network))


def ssdlite(name: str) -> Checkpoint:
    network = enliven(SSDLite(create_model(name, num_classes=0), SSDLiteConfig(num_classes=4)))
    contract = Contract("detection", CLASSES, (320, 320), 320)
    return Checkpoint(network, contract, architecture(name, network))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_what_transformers_saved_gives_its_logits(name: str, tmp_path: Path) -> None:
    sizes = {"output_stride": 16, "atrous_rates": [2, 4, 6], "aspp_out_channels": 32}
    theirs = transformers_network(name, "ForSemanticSegmentation", **sizes)
    theirs.save_pretrained(tmp_path / "saved")
    found = load_pretrained(tmp_path / "saved")
    assert found.report.model == f"deeplabv3 on {name}"
    assert found.report.transfer.new == found.report.transfer.ignored == ()
    contract = found.checkpoint.contract
    assert (contract.task, contract.output) == ("segmentation", "pixel_logits")
    assert contract.class_names == CLASSES
    assert contract.resize is None  # a crop would leave pixels without a class
    x = PICTURES.flip(1) if name == "mobilevit_xxs" else PICTURES
    expected = theirs(x).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(found.checkpoint.network(PICTURES), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stride", [8, 16])
@torch.no_grad()
def test_transformers_runs_ours(stride: int, name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = deeplab(name, stride, aspp_rates=(2, 4, 6), aspp_width=48)
    save_for(ours, tmp_path / "saved", "transformers")
    kind = transformers.AutoModelForSemanticSegmentation
    theirs = kind.from_pretrained(tmp_path / "saved").eval()
    x = PICTURES.flip(1) if name == "mobilevit_xxs" else PICTURES
    torch.testing.assert_close(theirs(x).logits, ours.network(PICTURES), atol=1e-4, rtol=0)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "saved")
    stretched = processor(Image.new("RGB", (200, 100)), return_tensors="pt")["pixel_values"]
    assert stretched.shape == (1, 3, *ours.contract.size)
    assert load_pretrained(tmp_path / "saved").checkpoint.contract == ours.contract


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [deeplab, ssdlite])
@pytest.mark.parametrize("library", ["cvnets", "mobilevit"])
def test_there_and_back_is_the_identity(
    library: str, make: object, name: str, tmp_path: Path
) -> None:
    ours = make(name)
    target = tmp_path / ("w.pt" if library == "cvnets" else "w.safetensors")
    save_for(ours, target, library)
    found = load_pretrained(target)
    assert found.report.library == library
    assert found.checkpoint.contract.task == ours.contract.task
    assert found.report.transfer.new == found.report.transfer.ignored == ()
    theirs = found.checkpoint.network.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in ours.network.state_dict().items())


@pytest.mark.parametrize(
    ("width", "name", "stride", "rates"),
    [
        (256, "mobilevit_xxs", 16, (6, 12, 18)),
        (512, "mobilevit_xxs", 8, (12, 24, 36)),
        (512, "mobilevitv2_050", 16, (6, 12, 18)),
    ],
)
def test_what_no_weight_tells_is_as_the_authors_trained(
    width: int, name: str, stride: int, rates: tuple[int, ...], tmp_path: Path
) -> None:
    ours = deeplab(name, stride, aspp_width=width, aspp_rates=rates)
    tensors = {"seg_head.aux_head.block.conv.weight": torch.zeros(2)}
    save_for(ours, tmp_path / "w.pt", "cvnets")
    save_for_unchecked(ours, tmp_path / "x.pt", tensors)
    found = load_pretrained(tmp_path / "x.pt")
    assert found.checkpoint.architecture["output_stride"] == stride
    assert found.checkpoint.architecture["head"]["aspp_rates"] == rates
    assert found.report.transfer.ignored == tuple(tensors)


def test_a_head_that_means_another_stride_is_refused(tmp_path: Path) -> None:
    ours = deeplab("mobilevit_xxs", 16, aspp_width=512, aspp_rates=(6, 12, 18))
    with pytest.raises(UserError, match=r"its output_stride, .*cannot be described"):
        save_for(ours, tmp_path / "w.pt", "cvnets")  # a file of theirs would not say so
    assert not list(tmp_path.iterdir())


def save_for_unchecked(checkpoint: Checkpoint, path: Path, more: dict[str, torch.Tensor]) -> None:
    from mobilevit.checkpoints.writing import _tensors

    torch.save(_tensors(checkpoint, "cvnets") | more, path)


def test_a_classifier_starts_from_the_backbone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = deeplab("mobilevit_xxs")
    save_checkpoint(tmp_path / "seg.safetensors", ours)
    source = tmp_path / "seg.safetensors"
    network = create_model("mobilevit_xxs", pretrained=source, num_classes=5)
    told = capsys.readouterr().err
    for words in ("deeplabv3 on mobilevit_xxs", "final, 6 tensors", "head, 2 tensors", "ignored"):
        assert words in told
    assert network.config.output_stride == 32
    stem = ours.network.state_dict()["backbone.stem.conv.weight"]
    assert torch.equal(network.stem.conv.weight, stem)


def test_a_segmenter_is_kept_with_its_auxiliary_head(tmp_path: Path) -> None:
    ours = deeplab("mobilevit_xxs", aspp_width=16, aux=True)
    save_checkpoint(tmp_path / "seg.safetensors", ours)
    again = load_checkpoint(tmp_path / "seg.safetensors")
    assert again.architecture["head"]["aux"] is True
    theirs = again.network.state_dict()
    assert "aux.predict.weight" in theirs
    assert all(torch.equal(v, theirs[k]) for k, v in ours.network.state_dict().items())


def test_a_segmenter_of_a_time_without_auxiliary_heads_is_read(tmp_path: Path) -> None:
    ours = deeplab("mobilevit_xxs", aspp_width=16)
    del ours.architecture["head"]["aux"]
    save_checkpoint(tmp_path / "seg.safetensors", ours)
    assert load_checkpoint(tmp_path / "seg.safetensors").network.config.aux is False


@pytest.mark.parametrize("library", ["cvnets", "transformers"])
def test_the_auxiliary_head_is_not_told_to_other_libraries(library: str, tmp_path: Path) -> None:
    ours = deeplab("mobilevit_xxs", aux=True)
    save_for(ours, tmp_path / "saved", library)
    again = load_pretrained(tmp_path / "saved").checkpoint
    assert again.architecture["head"]["aux"] is False
    with torch.no_grad():
        torch.testing.assert_close(again.network(PICTURES), ours.network(PICTURES))
    assert ours.network.aux is not None


def test_what_is_not_run_yet_is_said(photos: Path, tmp_path: Path) -> None:
    ours = deeplab("mobilevit_xxs")
    later = replace(ours, contract=replace(ours.contract, task="depth"))
    save_checkpoint(tmp_path / "other.safetensors", later)
    for verb, argument in ((predict, "pictures"), (export, "data")):
        with pytest.raises(UserError, match=r"depth, which is not run here yet"):
            verb(tmp_path / "other.safetensors", **{argument: next(photos.glob("val/*/*.jpg"))})


def test_heads_that_a_library_does_not_have_are_refused(tmp_path: Path) -> None:
    for make, library in ((deeplab, "timm"), (ssdlite, "timm"), (ssdlite, "transformers")):
        with pytest.raises(UserError, match=f"{library} has no (deeplabv3|ssdlite) on"):
            save_for(make("mobilevit_xxs"), tmp_path / "x", library)


@pytest.mark.parametrize("library", ["timm", "transformers", "cvnets"])
def test_networks_of_torchvision_are_not_written_for_others(library: str, tmp_path: Path) -> None:
    name, network = "torchvision:lraspp_mobilenet_v3_large", TorchvisionLRASPP(3)
    contract = Contract("segmentation", CLASSES, (64, 64), None, output="pixel_logits")
    ours = Checkpoint(network.eval(), contract, architecture(name, network))
    with pytest.raises(UserError, match=f"{name}: it is torchvision's.* files for {library}"):
        save_for(ours, tmp_path / "x", library)


@pytest.mark.parametrize("change", ["lost", "misshapen"])
def test_a_segmenter_that_is_not_whole_is_refused(change: str, tmp_path: Path) -> None:
    save_for(deeplab("mobilevit_xxs"), tmp_path / "saved", "transformers")
    file = tmp_path / "saved" / "model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if "aspp.convs.2" in n and n.endswith("convolution.weight"))
    if change == "lost":
        del tensors[name]
    else:
        tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UserError, match="aspp"):
        load_pretrained(tmp_path / "saved")


def test_a_contract_without_a_crop_comes_back_from_transformers(tmp_path: Path) -> None:
    contract = Contract("classification", CLASSES, (64, 96), None)
    network = create_model("mobilevit_xxs", num_classes=3)
    given = Checkpoint(network, contract, architecture("mobilevit_xxs", network))
    save_for(given, tmp_path / "saved", "transformers")
    back = load_pretrained(tmp_path / "saved").checkpoint.contract
    assert (back.size, back.resize) == ((64, 96), None)
