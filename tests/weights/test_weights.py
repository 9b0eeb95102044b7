"""What comes with the package: how it is found, and that it is what its card says."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from mobilevit import (
    Recipe,
    UserError,
    create_model,
    load_checkpoint,
    load_predictor,
    load_pretrained,
    load_recipe,
)
from mobilevit.checkpoints import save_checkpoint
from mobilevit.checkpoints.pretrained import find_weights
from mobilevit.data.folders import read_folders
from mobilevit.deployment.preprocess import batches
from mobilevit.weights import FOLDER, list_weights, network_of, shipped
from mobilevit.weights.ship import card, ship

CLASSES = (
    *("cassette_player", "chain_saw", "church", "english_springer", "french_horn"),
    *("garbage_truck", "gas_pump", "golf_ball", "parachute", "tench"),
)
PICTURES = 200
XXS = FOLDER / "imagenette_xxs.safetensors"


def test_the_smallest_network_comes_with_the_package_and_all_of_them_stay_small() -> None:
    assert "imagenette_xxs" in list_weights()
    assert shipped() == shipped("imagenette") == shipped("imagenette_xxs") == XXS
    assert sum(shipped(name).stat().st_size for name in list_weights()) < 12.5e6


@pytest.mark.parametrize("name", list_weights())
def test_a_file_is_what_its_name_and_its_card_say(name: str) -> None:
    checkpoint = load_checkpoint(shipped(name))
    assert checkpoint.architecture["model"] == network_of(name)
    assert checkpoint.contract.class_names == CLASSES
    assert (checkpoint.contract.task, checkpoint.contract.size) == ("classification", (128, 128))
    assert checkpoint.training == checkpoint.progress == checkpoint.provenance == {}
    assert shipped(name).with_suffix(".md").read_text("utf-8") == card(checkpoint, shipped(name))


@pytest.mark.parametrize("name", list_weights())
def test_a_file_names_no_folder_of_the_machine_it_was_made_on(name: str) -> None:
    with safe_open(shipped(name), framework="np") as file:
        header = file.metadata()
        types = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    assert types == {"F16", "F32", "I64"}
    words = [word for text in header.values() for word in re.findall(r'"([^"]*)"', text)]
    assert "classification" in words
    assert not [word for word in words if "/" in word or "\\" in word]
    assert not re.search(
        r"(?m)(^|[\s`(\"])/\w", shipped(name).with_suffix(".md").read_text("utf-8")
    )


@pytest.mark.parametrize("name", list_weights())
def test_it_knows_most_of_imagenettes_photos(name: str, shared_data: Path) -> None:
    samples = read_folders(shared_data / "imagenette").val
    samples = samples[:: len(samples) // PICTURES][:PICTURES]
    predictor = load_predictor(name, threads=1)
    answers = [
        predictor.run(batch.images).argmax(1)
        for batch in batches([sample.path for sample in samples], predictor.contract, 25)
    ]
    right = np.concatenate(answers) == [sample.label for sample in samples]
    assert len(right) == PICTURES
    assert right.mean() > 0.7  # of 200 pictures a standard error is 3 points


def test_a_name_is_loaded_and_told_as_it_was_given() -> None:
    for name in ("imagenette", "imagenette_xxs"):
        found = load_pretrained(name)
        assert found.path == XXS
        assert (found.report.source, found.report.model) == (name, "mobilevit_xxs")
        assert {p.dtype for p in found.checkpoint.network.parameters()} == {torch.float32}


def test_a_network_starts_from_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    network = create_model("mobilevit_xxs", pretrained="imagenette", num_classes=3)
    told = capsys.readouterr().err
    assert "mobilevit_xxs from imagenette" in told
    assert "head, 2 tensors" in told
    expected = load_checkpoint(XXS).network
    assert torch.equal(network.final.conv.weight, expected.final.conv.weight)


def test_the_data_s_name_means_the_network_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("imagenette_s", "imagenette_xxs"):
        (tmp_path / f"{name}.safetensors").touch()
    monkeypatch.setattr("mobilevit.weights.FOLDER", tmp_path)
    assert find_weights("imagenette", "mobilevit_s").name == "imagenette_s.safetensors"
    assert find_weights("imagenette").name == "imagenette_xxs.safetensors"
    assert find_weights("imagenette_s", "mobilevit_xxs").name == "imagenette_s.safetensors"


def test_what_does_not_come_with_the_package_is_answered_with_what_does() -> None:
    with pytest.raises(UserError, match=r"mobilevitv2_100.*imagenette_xxs"):
        create_model("mobilevitv2_100", pretrained="imagenette")
    with pytest.raises(
        UserError, match=r"Did you mean 'imagenette_xxs'.*package: imagenette, .*xxs"
    ):
        load_pretrained("imagenete_xxs")
    with pytest.raises(UserError, match="weights of mobilevit_xxs, not of mobilevit_s"):
        create_model("mobilevit_s", pretrained="imagenette_xxs")


def test_a_model_of_one_s_own_comes_first_and_pictures_of_that_name_do_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenette" / "train").mkdir(parents=True)
    assert find_weights("imagenette") == XXS
    with pytest.raises(UserError, match=r"no best\.safetensors"):
        find_weights(Path("imagenette"))  # a path is never a name
    (tmp_path / "imagenette" / "best.safetensors").touch()
    assert find_weights("imagenette") == Path("imagenette", "best.safetensors")


class TestShip:
    def test_a_run_becomes_a_file_and_its_card(self, tmp_path: Path, photos: Path) -> None:
        data = tmp_path / "data"
        for name in CLASSES:
            shutil.copytree(photos / "val" / "disc", data / name)
        run = load_checkpoint(XXS)
        run = replace(run, metrics={"top1": 2.0, "epoch": 7}, progress={"epoch": 7})
        save_checkpoint(tmp_path / "run.safetensors", run)
        path = ship(tmp_path / "run.safetensors", data, "imagenette_xxs", tmp_path)
        assert path == tmp_path / "imagenette_xxs.safetensors"
        made = load_checkpoint(path)
        assert (made.progress, made.metrics["epoch"], made.metrics["samples"]) == ({}, 7, 80)
        assert 0 <= made.metrics["top1"] <= 1  # measured, not as it was told
        assert made.recipe == run.recipe
        told = path.with_suffix(".md").read_text("utf-8")
        assert f"| top-1 | {made.metrics['top1']:.1%} |" in told
        recipe = told.split("```yaml\n")[1].split("```")[0]
        (tmp_path / "recipe.yaml").write_text(recipe, "utf-8")
        assert load_recipe(tmp_path / "recipe.yaml") == Recipe.from_dict(run.recipe, "the run")

    def test_what_it_refuses(self, tmp_path: Path, photos: Path) -> None:
        with pytest.raises(UserError, match="is a mobilevit_xxs, but imagenette_s is"):
            ship(XXS, photos, "imagenette_s", tmp_path)
        tuned = replace(load_checkpoint(XXS), provenance={"source": "apple/mobilevit-small"})
        save_checkpoint(tmp_path / "tuned.safetensors", tuned)
        with pytest.raises(UserError, match="it began with weights of apple/mobilevit-small"):
            ship(tmp_path / "tuned.safetensors", photos, "imagenette_xxs", tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["tuned.safetensors"]
        (tmp_path / "imagenette_xxs.safetensors").write_text("the one of before")
        with pytest.raises(UserError):
            ship(XXS, tmp_path / "nowhere", "imagenette_xxs", tmp_path)
        assert (tmp_path / "imagenette_xxs.safetensors").read_text() == "the one of before"
