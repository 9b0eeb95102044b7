"""Networks of ours, read by the libraries that they were saved for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torchvision.transforms.functional import to_tensor

import cvnets
from mobilevit import UserError, create_model, load_pretrained
from mobilevit.checkpoints import Checkpoint, architecture, writing
from mobilevit.checkpoints.writing import save_for
from mobilevit.deployment.contract import Contract
from peers import CLASSES, enliven

NAMES = ("mobilevit_xxs", "mobilevitv2_050")
LIBRARIES = ("mobilevit", "timm", "transformers", "cvnets")
PICTURES = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(0))


def checkpoint(name: str = "mobilevit_xxs", **numbers: Any) -> Checkpoint:
    network = create_model(name, num_classes=3, **numbers)
    enliven(network)
    contract = Contract("classification", CLASSES, (192, 192), 216, "bicubic")
    return Checkpoint(network, contract, architecture(name, network))


def same(one: Checkpoint, other: Checkpoint) -> bool:
    theirs = other.network.state_dict()
    return all(torch.equal(tensor, theirs[n]) for n, tensor in one.network.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_timm_runs_the_folder(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    ours = checkpoint(name)
    save_for(ours, tmp_path / "saved", "timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    torch.testing.assert_close(theirs(PICTURES), ours.network(PICTURES), atol=1e-4, rtol=0)
    settings = timm.data.resolve_model_data_config(theirs)
    assert tuple(settings["input_size"]) == (3, 192, 192)
    assert settings["interpolation"] == "bicubic"
    assert tuple(settings["mean"]) == (0.0, 0.0, 0.0)
    resize = timm.data.create_transform(**settings).transforms[0].size
    assert resize in (216, (216, 216), [216, 216])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_transformers_runs_the_folder_with_its_own_processor(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = checkpoint(name)
    save_for(ours, tmp_path / "saved", "transformers")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "saved").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "saved")
    assert theirs.config.id2label == dict(enumerate(CLASSES))
    picture = (PICTURES[:1] * 255).round().to(torch.uint8)
    x = picture / 255
    settings = {"do_resize": False, "do_center_crop": False}
    inputs = processor(picture[0], return_tensors="pt", **settings)["pixel_values"]
    torch.testing.assert_close(theirs(inputs).logits, ours.network(x), atol=1e-4, rtol=0)
    flipped = inputs.flip(1)
    assert not torch.allclose(theirs(flipped).logits, ours.network(x), atol=1e-2)
    assert (dict(processor.size), dict(processor.crop_size)) == (
        {"shortest_edge": 216},
        {"height": 192, "width": 192},
    )


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_papers_code_runs_the_file_on_its_channel_order(name: str, tmp_path: Path) -> None:
    ours = checkpoint(name)
    save_for(ours, tmp_path / "weights.pt", "cvnets")
    theirs = cvnets.Classifier(name, 3).eval()
    theirs.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    x = PICTURES.flip(1) if name == "mobilevit_xxs" else PICTURES
    torch.testing.assert_close(theirs(x), ours.network(PICTURES), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("library", "target"),
    [
        (library, target)
        for library in LIBRARIES
        for target in ("file.safetensors", "file.bin", "folder")
        if (library, target) != ("mobilevit", "file.bin")  # our own format is safetensors alone
    ],
)
def test_there_and_back_is_the_identity(
    library: str, target: str, name: str, tmp_path: Path
) -> None:
    ours = checkpoint(name)
    path = tmp_path / "to" / target
    save_for(ours, path, library)
    found = load_pretrained(path)
    assert found.report.library == library
    assert same(ours, found.checkpoint)
    if target == "folder" and library != "cvnets":
        assert found.checkpoint.contract == ours.contract
        assert found.checkpoint.architecture.items() >= {"model": name, "num_classes": 3}.items()


def test_pictures_that_are_stretched_are_stretched_by_timm_too(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    contract = Contract("classification", CLASSES, (96, 64), None, "bilinear")
    ours = replace(checkpoint(), contract=contract)
    save_for(ours, tmp_path / "saved", "timm")
    assert load_pretrained(tmp_path / "saved").checkpoint.contract == contract
    theirs = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    picture = Image.linear_gradient("L").convert("RGB").resize((300, 50))
    stretched = picture.resize((64, 96), Image.Resampling.BILINEAR)
    torch.testing.assert_close(transform(picture), to_tensor(stretched), atol=2 / 255, rtol=0)


def test_a_cut_that_timm_would_make_otherwise_is_refused(tmp_path: Path) -> None:
    ours = replace(checkpoint(), contract=Contract("classification", CLASSES, (96, 64), 100))
    with pytest.raises(UserError, match="timm cannot be told to resize the shorter side to 100"):
        save_for(ours, tmp_path / "saved", "timm")
    assert not list(tmp_path.iterdir())
    save_for(ours, tmp_path / "weights.pt", "timm")
    save_for(ours, tmp_path / "saved", "transformers")
    assert load_pretrained(tmp_path / "saved").checkpoint.contract == ours.contract


def test_a_safetensors_file_says_that_it_is_of_pytorch(tmp_path: Path) -> None:
    save_for(checkpoint(), tmp_path / "w.safetensors", "transformers")
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("target", ["w.safetensors", "folder"])
@pytest.mark.parametrize("library", ["timm", "transformers", "cvnets"])
@pytest.mark.parametrize(
    "numbers",
    [
        {"patch_sizes": (8, 4, 2)},
        {"patch_sizes": (4, 4, 4)},
        {"heads": 2},
        {"layers": (1, 2, 1)},
        {"token_widths": (32, 40, 48)},
    ],
    ids=str,
)
def test_what_a_library_cannot_describe_is_refused(
    numbers: dict[str, Any], library: str, target: str, tmp_path: Path
) -> None:
    """Its names may be there all the same: it would compute something else in silence."""
    ours = checkpoint(**numbers)
    (key,) = numbers
    able = library == "transformers" and target == "folder" and key != "layers"
    if able and numbers["patch_sizes" if key == "patch_sizes" else key] != (8, 4, 2):
        save_for(ours, tmp_path / target, library)
        assert load_pretrained(tmp_path / target).checkpoint.architecture[key] == numbers[key]
    else:
        with pytest.raises(UserError, match=rf"{library} knows mobilevit_xxs with {key}"):
            save_for(ours, tmp_path / target, library)
        assert not list(tmp_path.iterdir())


def test_bad_targets_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    mine, file = tmp_path / "mine", tmp_path / "mine.pt"
    mine.mkdir()
    for path in (mine / "notes.txt", file):
        path.write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        save_for(checkpoint(), mine, "timm")
    with pytest.raises(UserError, match=r"mine\.pt: it exists"):
        save_for(checkpoint(), file, "cvnets")
    with pytest.raises(UserError, match="a file is in the way"):
        save_for(checkpoint(), file / "below.pt", "cvnets")
    for name, library in (("w.onnx", "timm"), ("w.pt", "mobilevit")):
        with pytest.raises(UserError, match=rf"{name}: weights of {library} do not end in"):
            save_for(checkpoint(), tmp_path / name, library)
    with pytest.raises(UserError, match="Did you mean 'timm'"):
        save_for(checkpoint(), tmp_path / "w.pt", "tim")
    assert file.read_text() == (mine / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine.pt"]


def test_a_folder_may_have_a_point_in_its_name(tmp_path: Path) -> None:
    save_for(checkpoint("mobilevitv2_050"), tmp_path / "mobilevitv2-0.5", "transformers")
    assert load_pretrained(tmp_path / "mobilevitv2-0.5").report.library == "transformers"


@pytest.mark.parametrize("target", ["w.pt", "folder"])
def test_what_does_not_come_back_leaves_nothing(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(path: Path, library: str) -> Any:
        found = load_pretrained(path, library)
        found.checkpoint.network.stem.norm.bias.data += 1
        return found

    monkeypatch.setattr(writing, "load_pretrained", other)
    with pytest.raises(UserError, match=r"'stem\.norm\.bias' does not come back"):
        save_for(checkpoint(), tmp_path / target, "cvnets")
    assert not list(tmp_path.iterdir())


def test_the_config_of_transformers_is_its_own(tmp_path: Path) -> None:
    """Every key we write is one that the library knows."""
    transformers = pytest.importorskip("transformers")
    for name, theirs in zip(
        NAMES, (transformers.MobileViTConfig(), transformers.MobileViTV2Config()), strict=True
    ):
        save_for(checkpoint(name), tmp_path / name, "transformers")
        written = json.loads((tmp_path / name / "config.json").read_text())
        assert written.keys() <= theirs.to_dict().keys() | {"architectures", "torch_dtype"}


@pytest.mark.parametrize("library", LIBRARIES[1:])
@pytest.mark.parametrize("name", ["imagenette_xxs", "imagenette_s"])
def test_what_comes_with_the_package_can_be_written(
    name: str, library: str, tmp_path: Path
) -> None:
    ours = load_pretrained(name).checkpoint
    save_for(ours, tmp_path / "saved", library)
    assert same(ours, load_pretrained(tmp_path / "saved").checkpoint)


@torch.no_grad()
def test_a_stride_of_16_comes_and_goes_with_transformers(tmp_path: Path) -> None:
    ours = checkpoint(output_stride=16)
    save_for(ours, tmp_path / "saved", "transformers")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "saved").eval()
    logits = theirs(PICTURES.flip(1)).logits
    torch.testing.assert_close(logits, ours.network(PICTURES), atol=1e-4, rtol=0)
    again = load_pretrained(tmp_path / "saved").checkpoint.network
    torch.testing.assert_close(again(PICTURES), ours.network(PICTURES), atol=1e-6, rtol=0)


@pytest.mark.parametrize("library", LIBRARIES)
def test_whoever_may_read_the_users_files_may_read_these(library: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    save_for(checkpoint(), tmp_path / "w.safetensors", library)
    save_for(checkpoint(), tmp_path / "folder", library)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mode for path in files} == {(tmp_path / "plain").stat().st_mode}


def test_what_lies_beside_a_bare_file_says_nothing_of_it(tmp_path: Path) -> None:
    config = {"architecture": "other", "pretrained_cfg": {"mean": [0.5] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_for(checkpoint(), tmp_path / "w.safetensors", "timm")
    assert (tmp_path / "w.safetensors").is_file()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_a_full_disk_is_said_in_a_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise SafetensorError("File too large") if name == "w.safetensors" else RuntimeError("full")

    monkeypatch.setattr("mobilevit.checkpoints.files.save_file", full)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="cannot be written") as caught:
        save_for(checkpoint(), tmp_path / name, "cvnets")
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert not list(tmp_path.iterdir())


def test_class_names_that_a_library_takes_for_none_are_refused(tmp_path: Path) -> None:
    ours = checkpoint()
    names = ("LABEL_0", "LABEL_1", "LABEL_2")
    ours = replace(ours, contract=replace(ours.contract, class_names=names))
    with pytest.raises(UserError, match="the contract's class_names cannot be described"):
        save_for(ours, tmp_path / "saved", "transformers")
