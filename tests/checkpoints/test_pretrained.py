"""Weights that other libraries saved, loaded from wherever they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mobilevit import UserError, create_model, load_checkpoint, load_pretrained, save_checkpoint
from mobilevit.checkpoints import ADAPTERS, Checkpoint, architecture
from mobilevit.checkpoints.hub import sha256
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.preprocess import preprocess
from peers import CLASSES, SAVERS, timm_saved, transformers_network, transformers_saved

NAMES = ("mobilevit_xxs", "mobilevitv2_050")
PICTURES = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def xxs_file(folder: Path) -> Path:
    """Return a checkpoint of our own with three classes."""
    torch.manual_seed(1)
    network = create_model("mobilevit_xxs", num_classes=3).eval()
    contract = Contract("classification", CLASSES, (64, 64), 72)
    path = folder / "ours.safetensors"
    made_from = architecture("mobilevit_xxs", network)
    save_checkpoint(path, Checkpoint(network, contract, made_from, metrics={"top1": 0.5}))
    return path


@pytest.mark.parametrize("library", SAVERS)
@torch.no_grad()
def test_what_a_library_saved_gives_its_outputs(library: str, name: str, tmp_path: Path) -> None:
    saved = SAVERS[library](tmp_path / "saved", name)
    found = load_pretrained(saved.folder)
    assert (found.report.library, found.report.model) == (library, name)
    assert found.report.transfer.new == found.report.transfer.ignored == ()
    assert found.checkpoint.contract.class_names == CLASSES
    assert found.report.sha256 == sha256(saved.folder / "model.safetensors")
    state = found.checkpoint.network.state_dict()
    assert found.report.transfer.loaded == {k: v.numel() for k, v in state.items()}
    expected = saved.run(PICTURES)
    assert expected.std() > 0.1
    torch.testing.assert_close(found.checkpoint.network(PICTURES), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", ["folder", "pickle in a folder", "bare file", "training state"])
@torch.no_grad()
def test_the_form_of_the_source_does_not_matter(form: str, tmp_path: Path) -> None:
    saved = timm_saved(tmp_path / "saved", "mobilevit_xxs")
    weights = saved.folder / "model.safetensors"
    tensors = load_file(weights)
    source = {
        "folder": saved.folder,
        "pickle in a folder": saved.folder,
        "bare file": tmp_path / "alone.safetensors",
        "training state": tmp_path / "last.pth.tar.pt",
    }[form]
    if form == "pickle in a folder":
        torch.save(tensors, saved.folder / "pytorch_model.bin")
        weights.unlink()
    elif form == "bare file":
        weights.rename(source)
    elif form == "training state":
        other = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        state = {"epoch": 3, "state_dict": other, "state_dict_ema": tensors, "optimizer": {}}
        torch.save(state, source)
    found = load_pretrained(str(source))
    expected = saved.run(PICTURES)
    torch.testing.assert_close(found.checkpoint.network(PICTURES), expected, atol=1e-4, rtol=0)
    assert any("state_dict_ema" in note for note in found.report.notes) == (form[0] == "t")


def test_a_checkpoint_of_ours_keeps_all_that_it_holds(tmp_path: Path) -> None:
    path = xxs_file(tmp_path)
    found, plain = load_pretrained(path), load_checkpoint(path)
    assert found.checkpoint.contract == plain.contract
    assert found.checkpoint.metrics == {"top1": 0.5}
    assert found.report.library == "mobilevit"
    with pytest.raises(UserError, match="always takes RGB"):
        load_pretrained(path, channel_order="BGR")


@pytest.mark.parametrize(
    ("library", "family", "order"),
    [
        ("cvnets", "mobilevit", "BGR"),
        ("transformers", "mobilevit", "BGR"),
        ("timm", "mobilevit", "RGB"),
        ("cvnets", "mobilevitv2", "RGB"),
        ("transformers", "mobilevitv2", "RGB"),
        ("timm", "mobilevitv2", "RGB"),
    ],
)
def test_the_channel_order_follows_from_the_origin(
    library: str, family: str, order: str, tmp_path: Path
) -> None:
    network = create_model({"mobilevit": NAMES[0], "mobilevitv2": NAMES[1]}[family], num_classes=2)
    mine = network.state_dict()
    path = tmp_path / "weights.pt"
    torch.save(ADAPTERS[library, family].to_theirs(mine), path)
    for asked in (None, "RGB", "BGR"):
        found = load_pretrained(path, channel_order=asked)
        assert found.report.channel_order == (asked or order)
        assert found.checkpoint.provenance["channel_order"] == (asked or order)
        stem = found.checkpoint.network.state_dict()["stem.conv.weight"]
        flipped = (asked or order) == "BGR"
        expected = mine["stem.conv.weight"].flip(1) if flipped else mine["stem.conv.weight"]
        assert torch.equal(stem, expected)


def test_weights_of_rangeaugment_take_rgb(tmp_path: Path) -> None:
    theirs = ADAPTERS["cvnets", "mobilevit"].to_theirs(create_model(NAMES[0]).state_dict())
    theirs["neural_augmentor.brightness._low"] = torch.tensor([0.5])
    torch.save(theirs, tmp_path / "refreshed.pt")
    report = load_pretrained(tmp_path / "refreshed.pt").report
    assert report.channel_order == "RGB"
    assert report.transfer.ignored == ("neural_augmentor.brightness._low",)


def test_a_processor_that_does_not_flip_is_believed_for_v1_only(tmp_path: Path) -> None:
    one = load_pretrained(transformers_saved(tmp_path / "1", "mobilevit_xxs", flips=False).folder)
    assert one.report.channel_order == "RGB"
    two = load_pretrained(transformers_saved(tmp_path / "2", "mobilevitv2_050", flips=True).folder)
    assert two.report.channel_order == "RGB"
    assert any("--channel-order BGR" in note for note in two.report.notes)


@torch.no_grad()
def test_a_picture_gives_the_logits_of_the_whole_of_transformers(tmp_path: Path) -> None:
    """The golden picture: red on the left, blue on the right, through their own processor."""
    transformers = pytest.importorskip("transformers")
    pixels = np.zeros((288, 288, 3), np.uint8)
    pixels[:, :144, 0], pixels[:, 144:, 2] = 230, 200
    pixels[60:90, :, 1] = np.arange(288) % 255
    picture = Image.fromarray(pixels)
    folder = transformers_saved(tmp_path / "saved", "mobilevit_xxs").folder
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    network = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    expected = network(**processor(picture, return_tensors="pt")).logits

    checkpoint = load_pretrained(folder).checkpoint
    assert (checkpoint.contract.size, checkpoint.contract.resize) == ((256, 256), 288)
    x = torch.from_numpy(preprocess(picture, checkpoint.contract))[None]
    torch.testing.assert_close(checkpoint.network(x), expected, atol=1e-4, rtol=0)
    assert not torch.allclose(checkpoint.network(x.flip(1)), expected, atol=1e-3)


def test_timms_settings_are_read_from_its_config(tmp_path: Path) -> None:
    contract = load_pretrained(
        timm_saved(tmp_path / "1", "mobilevit_xxs").folder
    ).checkpoint.contract
    assert (contract.size, contract.resize, contract.interpolation) == ((256, 256), 284, "bicubic")
    saved = timm_saved(
        tmp_path / "2", "mobilevitv2_050", pretrained_cfg_overlay={"crop_pct": 0.888}
    )
    contract = load_pretrained(saved.folder).checkpoint.contract
    assert (contract.size, contract.resize) == ((256, 256), 288)


def test_a_mean_that_cannot_be_honoured_is_refused(tmp_path: Path) -> None:
    folder = timm_saved(tmp_path / "saved", "mobilevit_xxs").folder
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.485, 0.456, 0.406]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"saved.*0\.485.*\[0, 1\]"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"pretrained_cfg": {"input_size": "large"}},
        {"pretrained_cfg": {"input_size": [3, 256, 256], "crop_pct": 0}},
        {"pretrained_cfg": {"input_size": [3, 0, 0], "crop_pct": 1}},
        {"pretrained_cfg": {"input_size": [3, 256, 256], "crop_pct": -1}},
        {"pretrained_cfg": 7},
        {"label_names": {"0": "cat"}},
    ],
    ids=str,
)
def test_a_config_that_makes_no_sense_is_refused_by_name(
    change: dict[str, object], tmp_path: Path
) -> None:
    folder = timm_saved(tmp_path / "saved", "mobilevit_xxs").folder
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    if "label_names" in change:  # too few names say nothing
        assert load_pretrained(folder).checkpoint.contract.class_names == ("0", "1", "2")
    else:
        with pytest.raises(UserError, match=r"saved.*(makes no sense|cannot be kept)"):
            load_pretrained(folder)


@pytest.mark.parametrize("kind", ["Model", "ForSemanticSegmentation"])
def test_a_backbone_of_another_task_loads_and_says_what_is_missing(
    kind: str, name: str, tmp_path: Path
) -> None:
    theirs = transformers_network(name, kind)
    whole = theirs.state_dict()
    kept = {k: v for k, v in whole.items() if not k.startswith("segmentation_head.aspp.project")}
    torch.save(kept, tmp_path / "theirs.bin")  # with a part of its head, or none
    found = load_pretrained(tmp_path / "theirs.bin")
    assert found.report.model == name
    assert found.checkpoint.contract.class_names == ()
    done = found.report.transfer
    segments = kind == "ForSemanticSegmentation"
    assert any("segmentation_head" in n for n in done.ignored) == segments
    no_expansion = segments and name == "mobilevit_xxs"
    assert {n.partition(".")[0] for n in done.new} == ({"final"} if no_expansion else set())
    last = found.checkpoint.network.state_dict()["stages.4.0.project.conv.weight"]
    prefix = "" if kind == "Model" else f"{name.partition('_')[0]}."
    key = f"{prefix}encoder.layer.4.downsampling_layer.reduce_1x1.convolution.weight"
    assert torch.equal(last, theirs.state_dict()[key])


def test_imagenet_names_are_given_to_a_thousand_unnamed_classes(tmp_path: Path) -> None:
    torch.save(create_model("mobilevit_xxs").state_dict(), tmp_path / "raw.pt")
    names = load_pretrained(tmp_path / "raw.pt").checkpoint.contract.class_names
    assert len(set(names)) == 1000
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")


def test_weights_of_other_networks_are_refused_with_what_they_are(tmp_path: Path) -> None:
    import torchvision

    torch.save(torchvision.models.resnet18(num_classes=2).state_dict(), tmp_path / "resnet.pt")
    with pytest.raises(UserError, match=r"resnet\.pt.*'conv1\.weight'.*timm, transformers"):
        load_pretrained(tmp_path / "resnet.pt")
    ours = create_model("mobilevit_xxs").state_dict()
    torch.save(ours, tmp_path / "ours.pt")
    with pytest.raises(UserError, match="names of timm"):
        load_pretrained(tmp_path / "ours.pt", library="timm")
    with pytest.raises(UserError, match=r"Did you mean 'timm'"):
        load_pretrained(tmp_path / "ours.pt", library="tim")


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("stages.3.1.fuse.conv.weight", r"no 'stages\.3\.1\.fuse\.conv\.weight'"),
        ("final.conv.weight", r"no 'final\.conv\.weight'"),
        ("head.bias", r"no 'head\.bias'"),
        ("stages.2.1.transformer.0.ffn_in.weight", "no whole MobileViT"),
    ],
)
def test_a_tensor_that_is_missing_is_named(lost: str, message: str, tmp_path: Path) -> None:
    tensors = create_model("mobilevit_xxs").state_dict()
    del tensors[lost]
    torch.save(tensors, tmp_path / "hole.pt")
    with pytest.raises(UserError, match=rf"hole\.pt.*{message}"):
        load_pretrained(tmp_path / "hole.pt")


def test_a_shape_that_does_not_fit_is_named(tmp_path: Path) -> None:
    tensors = create_model("mobilevit_xxs").state_dict()
    tensors["stages.3.1.local.conv.weight"] = torch.zeros(64, 64, 5, 5)
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"'stages\.3\.1\.local\.conv\.weight'.*\(64, 64, 5, 5\)"):
        load_pretrained(tmp_path / "other.safetensors")


def test_widths_of_one_s_own_are_kept(tmp_path: Path) -> None:
    slim = create_model("mobilevit_xxs", token_widths=(32, 40, 48), layers=(1, 1, 1), num_classes=0)
    torch.save(slim.state_dict(), tmp_path / "slim.pt")
    found = load_pretrained(tmp_path / "slim.pt").checkpoint
    assert found.architecture["token_widths"] == (32, 40, 48)
    slim.eval()
    with torch.no_grad():
        torch.testing.assert_close(found.network(PICTURES), slim(PICTURES))


@pytest.mark.parametrize(
    "config", [{"num_attention_heads": 7}, {"patch_size": 0}, {"patch_size": -2}], ids=str
)
def test_numbers_of_transformers_that_make_no_network(
    config: dict[str, int], tmp_path: Path
) -> None:
    folder = transformers_saved(tmp_path / "saved", "mobilevit_xxs").folder
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | config))
    with pytest.raises(UserError, match=r"saved: it(s sizes make| is no)"):
        load_pretrained(folder)


def test_a_config_of_something_else_says_nothing(tmp_path: Path) -> None:
    folder = timm_saved(tmp_path / "saved", "mobilevit_xxs").folder
    (folder / "config.json").write_text('{"mean": 3, "patch_size": 16}')
    found = load_pretrained(folder).checkpoint
    assert found.architecture["patch_sizes"] == (2, 2, 2)
    assert found.contract.resize == 288


def test_a_kernel_that_is_not_there_is_told(tmp_path: Path) -> None:
    folder = transformers_saved(tmp_path / "saved", "mobilevit_xxs").folder
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resample": 0}))
    found = load_pretrained(folder)
    assert found.checkpoint.contract.interpolation == "bilinear"
    assert any("bilinearly" in note for note in found.report.notes)


@pytest.mark.parametrize(
    ("library", "file", "change"),
    [
        ("transformers", "config.json", {"hidden_act": "gelu"}),
        ("transformers", "config.json", {"layer_norm_eps": 0.01}),
        ("transformers", "preprocessor_config.json", {"do_rescale": False}),
        ("transformers", "preprocessor_config.json", {"do_resize": False}),
        ("timm", "config.json", {"global_pool": "max"}),
    ],
    ids=str,
)
def test_a_network_that_computes_something_else_is_refused(
    library: str, file: str, change: dict[str, object], tmp_path: Path
) -> None:
    path = SAVERS[library](tmp_path / "saved", "mobilevit_xxs").folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (key,) = change
    with pytest.raises(UserError, match=rf"{key} is .* in its {file}, and .* here"):
        load_pretrained(tmp_path / "saved")


def test_pictures_that_transformers_stretches_are_stretched(tmp_path: Path) -> None:
    folder = transformers_saved(tmp_path / "saved", "mobilevit_xxs").folder
    transformers = pytest.importorskip("transformers")
    side = {"height": 64, "width": 64}
    processor = transformers.MobileViTImageProcessor(size=side, crop_size=side, resample=2)
    processor.save_pretrained(folder)
    contract = load_pretrained(folder).checkpoint.contract
    assert (contract.size, contract.resize) == ((64, 64), None)
    pixels = np.random.default_rng(0).integers(0, 256, (120, 240, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels)
    theirs = processor(picture, return_tensors="np", do_flip_channel_order=False)["pixel_values"]
    assert np.abs(theirs[0] - preprocess(picture, contract)).mean() < 0.002
    processor.crop_size = {"height": 32, "width": 32}
    processor.save_pretrained(folder)
    with pytest.raises(UserError, match=r"stretches pictures to .* and then cuts out"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"do_center_crop": False},
        {"crop_size": {"height": 256, "width": 320}, "size": {"shortest_edge": 288}},
    ],
    ids=str,
)
def test_a_crop_that_transformers_does_not_make_is_refused(
    change: dict[str, object], tmp_path: Path
) -> None:
    path = transformers_saved(tmp_path / "saved", "mobilevit_xxs").folder
    path /= "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=r"shorter side 288 pixels and does not cut"):
        load_pretrained(path.parent)


@pytest.mark.parametrize(
    "change",
    [
        {"crop_mode": "border"},
        {"crop_mode": "squash", "crop_pct": 0.9},
        {"crop_pct": 1.1},
        {"input_size": (3, 256, 320)},
    ],
    ids=str,
)
def test_a_crop_that_no_contract_says_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    saved = timm_saved(tmp_path / "saved", "mobilevit_xxs", pretrained_cfg_overlay=change)
    with pytest.raises(UserError, match=r"asks for crop_mode .* and crop_pct .* at 256 x"):
        load_pretrained(saved.folder)


class TestCreateModel:
    def test_the_classifier_comes_along(self, tmp_path: Path) -> None:
        path = xxs_file(tmp_path)
        network = create_model("mobilevit_xxs", pretrained=path).eval()
        assert network.num_classes == 3
        with torch.no_grad():
            expected = load_checkpoint(path).network(PICTURES)
            torch.testing.assert_close(network(PICTURES), expected)

    def test_another_number_of_classes_leaves_the_head_new_and_says_so(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = xxs_file(tmp_path)
        network = create_model("mobilevit_xxs", pretrained=path, num_classes=5)
        assert network.head.weight.shape == (5, 320)
        told = capsys.readouterr().err
        assert "head, 2 tensors" in told
        assert "left new" in told
        assert torch.equal(
            network.final.conv.weight, load_checkpoint(path).network.final.conv.weight
        )

    def test_no_head_is_wanted(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        network = create_model("mobilevit_xxs", pretrained=xxs_file(tmp_path), num_classes=0)
        assert network(PICTURES).shape == (2, 320)
        assert "ignored" in capsys.readouterr().err

    @torch.no_grad()
    def test_a_grey_picture_gives_what_it_gave_in_rgb(self, tmp_path: Path) -> None:
        path = xxs_file(tmp_path)
        grey = create_model("mobilevit_xxs", pretrained=path, in_chans=1).eval()
        x = PICTURES[:, :1]
        expected = load_checkpoint(path).network(x.expand(-1, 3, -1, -1))
        torch.testing.assert_close(grey(x), expected, atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_more_channels_keep_the_size_of_the_signal(self, tmp_path: Path) -> None:
        path = xxs_file(tmp_path)
        six = create_model("mobilevit_xxs", pretrained=path, in_chans=6).eval()
        expected = load_checkpoint(path).network(PICTURES)
        x = PICTURES.repeat(1, 2, 1, 1)
        torch.testing.assert_close(six(x), expected, atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_feature_maps_of_given_weights(self, tmp_path: Path) -> None:
        path = xxs_file(tmp_path)
        maps = create_model("mobilevit_xxs", pretrained=path, features_only=True).eval()(PICTURES)
        expected = load_checkpoint(path).network.forward_stages(PICTURES)
        for mine, theirs in zip(maps, expected, strict=True):
            torch.testing.assert_close(mine, theirs)

    def test_weights_of_another_network_are_refused_by_name(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="weights of mobilevit_xxs, not of mobilevit_s"):
            create_model("mobilevit_s", pretrained=xxs_file(tmp_path))

    def test_what_says_nothing_is_refused(self) -> None:
        with pytest.raises(UserError, match="pretrained is True; it must name the weights"):
            create_model("mobilevit_xxs", pretrained=True)  # type: ignore[call-overload]
        with pytest.raises(UserError, match="channel_order is a fact about weights"):
            create_model("mobilevit_xxs", channel_order="BGR")

    def test_a_path_that_is_not_there_is_no_name_on_the_hub(self, tmp_path: Path) -> None:
        path = xxs_file(tmp_path)
        with pytest.raises(UserError, match=r"Did you mean 'ours\.safetensors'"):
            create_model("mobilevit_xxs", pretrained=str(path.with_name("our.safetensors")))
