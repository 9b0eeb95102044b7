from __future__ import annotations

import contextlib
import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import mobilevit.checkpoints.files
from mobilevit import MobileViTConfig, UserError, create_model
from mobilevit.checkpoints import (
    Checkpoint,
    architecture,
    load_checkpoint,
    save_checkpoint,
)
from mobilevit.checkpoints.files import build, outputs, title
from mobilevit.deployment.contract import Contract
from mobilevit.files import find_model
from mobilevit.networks import TorchvisionLRASPP, TorchvisionSSDLite
from mobilevit.networks.torchvision_lraspp import NAME as LRASPP
from mobilevit.networks.torchvision_ssdlite import NAME as SSDLITE

NAMES = ("Katze", "犬", "a b")


def make(classes: int = 3, training: bool = False) -> Checkpoint:
    torch.manual_seed(classes)
    network = create_model(
        "mobilevit_xxs", num_classes=classes, patch_sizes=(8, 4, 2), dropout=0.25
    ).to(memory_format=torch.channels_last)
    network.stem.norm.running_mean.normal_()
    return Checkpoint(
        network.eval(),
        Contract("classification", NAMES[:classes], (64, 96), 72, "bicubic"),
        architecture("mobilevit_xxs", network),
        recipe={"training": {"epochs": 3}},
        metrics={"top1": 0.5, "confusion": [[1, 2], [3, 4]]},
        progress={"epoch": 1, "sums": [0.1, 2.0, 3.0]} if training else {},
        training=(
            {f"network.{k}": v for k, v in network.state_dict().items()}
            | {"optimizer.head.weight.step": torch.tensor(7.0)}
            if training
            else {}
        ),
    )


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in mine.items())


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    saved, path = make(), tmp_path / "a.safetensors"
    save_checkpoint(path, saved)
    loaded = load_checkpoint(path)
    assert same_weights(saved.network, loaded.network)
    assert not loaded.network.training
    assert loaded.network.config == saved.network.config
    assert loaded.contract == saved.contract
    assert loaded.recipe == saved.recipe
    assert loaded.metrics == saved.metrics
    assert loaded.progress == loaded.training == {}
    assert json.loads(json.dumps(saved.architecture)) == loaded.architecture
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(x), saved.network(x))
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_half_precision_rounds_the_weights_and_leaves_the_statistics(tmp_path: Path) -> None:
    saved, whole, half = make(), tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    saved.network.stem.norm.running_var.fill_(1e6)  # beyond float16
    magnitudes = torch.logspace(-12, 4.8, 320)  # from what becomes 0 to nearly the largest
    with torch.no_grad():
        saved.network.head.weight.copy_(magnitudes * torch.tensor([[1.0], [-1.0], [0.3]]))
    save_checkpoint(whole, saved)
    save_checkpoint(half, saved, half=True)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    loaded = load_checkpoint(half)
    weights = dict(saved.network.named_parameters())
    for name, tensor in loaded.network.state_dict().items():
        mine = saved.network.state_dict()[name]
        expected = mine.numpy().astype(np.float16) if name in weights else mine.numpy()
        assert tensor.dtype == mine.dtype
        np.testing.assert_array_equal(tensor, expected, name)
    assert loaded.contract == saved.contract
    save_checkpoint(half, loaded, half=True)  # once more changes nothing
    assert same_weights(load_checkpoint(half).network, loaded.network)


def test_a_weight_beyond_half_precision_is_named(tmp_path: Path) -> None:
    checkpoint = make()
    with torch.no_grad():
        checkpoint.network.head.weight[0, 0] = 7e4
    with pytest.raises(UserError, match=r"a\.safetensors: 'head\.weight' reaches 7e\+04.*65504"):
        save_checkpoint(tmp_path / "a.safetensors", checkpoint, half=True)
    assert not list(tmp_path.iterdir())


def test_a_new_classifier_is_part_of_the_architecture(tmp_path: Path) -> None:
    network = create_model("mobilevit_xxs", num_classes=10)
    network.reset_classifier(2)
    contract = Contract("classification", ("a", "b"), (32, 32), 36)
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, Checkpoint(network, contract, architecture("mobilevit_xxs", network)))
    assert load_checkpoint(path).network.num_classes == 2


def test_training_state_is_read_on_request(tmp_path: Path) -> None:
    saved, path = make(training=True), tmp_path / "last.safetensors"
    save_checkpoint(path, saved)  # the training weights are the network's own tensors
    assert load_checkpoint(path).training == {}
    loaded = load_checkpoint(path, training=True)
    assert loaded.progress == saved.progress
    assert loaded.training.keys() == saved.training.keys()
    assert all(torch.equal(v, loaded.training[k]) for k, v in saved.training.items())
    assert same_weights(saved.network, loaded.network)


def test_others_can_read_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, make())
    with safe_open(path, framework="np") as file:
        header = file.metadata()
        assert "stem.conv.weight" in file.keys()  # noqa: SIM118
    assert header["format"] == "mobilevit-1"
    assert json.loads(header["architecture"])["model"] == "mobilevit_xxs"
    assert json.loads(header["contract"])["class_names"] == list(NAMES)
    assert json.loads(header["metrics"])["top1"] == 0.5


def test_a_run_folder_means_its_best(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best.safetensors", make())
    assert find_model(tmp_path) == tmp_path / "best.safetensors"
    assert load_checkpoint(str(tmp_path)).contract.class_names == NAMES


def test_missing_files_are_answered_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").touch()
    with pytest.raises(UserError, match=r"no such model. Did you mean 'best.safetensors'"):
        find_model(tmp_path / "bset.safetensors")
    with pytest.raises(UserError, match="there is no such model"):
        find_model(tmp_path / "nowhere" / "best.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no best.safetensors"):
        find_model(tmp_path / "empty")


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_truncated_files_are_named(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "cut.safetensors"
    save_checkpoint(path, make())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep == 0.5 else int(keep)])
    with pytest.raises(UserError, match=r"cut\.safetensors: it cannot be read as safetensors"):
        load_checkpoint(path)


def test_other_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"other\.safetensors: .* no checkpoint of this package"):
        load_checkpoint(path)


def rewritten(path: Path, drop: str = "", **header: str) -> Path:
    """Change a checkpoint's header, or take a tensor away."""
    with safe_open(path, framework="pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys() if k != drop}  # noqa: SIM118
        old = file.metadata()
    save_file(tensors, path, {k: v for k, v in (old | header).items() if v})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "stem.conv.weight"}, "do not fit its description.*stem.conv.weight"),
        ({"architecture": '{"model": "mobilevit_xs"}'}, "do not fit its description"),
        ({"architecture": '{"num_classes": 3}'}, "do not fit its description"),
        ({"architecture": "[]"}, "do not fit its description"),
        ({"architecture": ""}, "do not fit its description"),
        ({"metrics": "{"}, "do not fit its description"),
        ({"contract": ""}, "its contract cannot be read"),
        ({"contract": '{"version": 99}'}, "pip install -U mobilevit"),
    ],
)
def test_damaged_descriptions_are_named(
    tmp_path: Path, change: dict[str, str], message: str
) -> None:
    path = tmp_path / "odd.safetensors"
    save_checkpoint(path, make())
    with pytest.raises(UserError, match=rf"(?s)odd\.safetensors: .*{message}"):
        load_checkpoint(rewritten(path, **change))


NUMBERS = st.one_of(st.integers(-3, 10**12), st.floats(), st.text(max_size=5), st.none())


@given(
    key=st.sampled_from([field.name for field in fields(MobileViTConfig)]),
    value=st.one_of(NUMBERS, st.lists(NUMBERS, max_size=6)),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_descriptions_that_lie_are_refused_before_they_take_memory(
    tmp_path: Path, key: str, value: object
) -> None:
    path = tmp_path / "lie.safetensors"
    save_checkpoint(path, make())
    with safe_open(path, framework="pt") as file:
        told = json.loads(file.metadata()["architecture"])
    rewritten(path, architecture=json.dumps(told | {key: value}))
    with contextlib.suppress(UserError):
        loaded = load_checkpoint(path).network.state_dict()
        expected = make().network.state_dict()
        assert {k: v.shape for k, v in loaded.items()} == {k: v.shape for k, v in expected.items()}


def test_a_weight_that_is_no_number_is_named(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    checkpoint = make()
    with torch.no_grad():
        checkpoint.network.head.weight[0, 0] = float("nan")
    save_checkpoint(path, checkpoint)
    with pytest.raises(UserError, match=r"odd\.safetensors: .*'head\.weight'.*NaN"):
        load_checkpoint(path)


def test_an_interrupted_save_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, make(3))
    before = path.read_bytes()

    def half(tensors: object, file: Path, header: object) -> None:
        Path(file).write_bytes(before[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mobilevit.checkpoints.files, "save_file", half)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, make(2))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_save_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, make(3))
    save_checkpoint(path, make(2))
    assert load_checkpoint(path).network.num_classes == 2
    assert list(tmp_path.iterdir()) == [path]


@torch.no_grad()
def test_a_segmenter_of_torchvision_comes_back(tmp_path: Path) -> None:
    network = TorchvisionLRASPP(3).eval()
    contract = Contract("segmentation", NAMES, (64, 96), None, output="pixel_logits")
    saved = Checkpoint(network, contract, architecture(LRASPP, network))
    save_checkpoint(tmp_path / "a.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert (title(loaded.architecture), outputs(loaded.architecture)) == (LRASPP, 3)
    assert loaded.contract == contract
    x = torch.rand(1, 3, 64, 96)  # its mean and deviation are not saved, and there all the same
    assert torch.equal(loaded.network(x), network(x))


@pytest.mark.parametrize(
    ("name", "network", "head", "other"),
    [
        (LRASPP, TorchvisionLRASPP, "deeplabv3", "ssdlite"),
        (SSDLITE, TorchvisionSSDLite, "ssdlite", "deeplabv3"),
    ],
)
def test_a_whole_network_of_torchvision_stands_in_for_one_head(
    name: str, network: type, head: str, other: str
) -> None:
    assert type(build({"model": name, "head": {"type": head, "num_classes": 4}})) is network
    for wrong in ({}, {"head": {"type": other, "num_classes": 4}}):
        with pytest.raises(UserError, match=f"{name} is trained with --head {head}"):
            build({"model": name, **wrong})


def test_a_path_may_be_a_string_and_its_folder_new(tmp_path: Path) -> None:
    save_checkpoint(f"{tmp_path}/new/net.safetensors", make())
    assert load_checkpoint(tmp_path / "new" / "net.safetensors").contract == make().contract
    with pytest.raises(UserError, match="it is a folder"):
        save_checkpoint(tmp_path, make())


def test_a_number_newer_than_the_file_has_its_default(tmp_path: Path) -> None:
    ours = make()
    told = {key: value for key, value in ours.architecture.items() if key != "skip"}
    save_checkpoint(tmp_path / "old.safetensors", replace(ours, architecture=told))
    assert load_checkpoint(tmp_path / "old.safetensors").architecture["skip"] is True


def test_widths_of_ones_own_for_a_network_of_timms_come_back(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    told = {"model": "timm:convnext_atto", "num_classes": 3}
    told |= {"dims": [16, 32, 64, 256], "depths": [1, 1, 1, 1]}
    ours = Checkpoint(build(told), make().contract, told)
    save_checkpoint(tmp_path / "net.safetensors", ours)
    theirs = load_checkpoint(tmp_path / "net.safetensors").network.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in ours.network.state_dict().items())
    save_checkpoint(
        tmp_path / "deep.safetensors",
        replace(ours, architecture={**told, "depths": [1, 1, 1, 9999]}),
    )
    sides = ((16, 32), (64, 256), (9999, 0), (9999,))  # no proof of such a depth
    tensors = {str(shape): torch.zeros(shape) for shape in sides}
    header = {"format": "mobilevit-1", "contract": ours.contract.to_json()}
    deep = header | {"architecture": json.dumps({**told, "depths": [1, 1, 1, 9999]})}
    save_file(tensors, tmp_path / "sides.safetensors", deep)
    for name in ("deep", "sides"):
        with pytest.raises(UserError, match=r"do not fit its description \(depths"):
            load_checkpoint(tmp_path / f"{name}.safetensors")
