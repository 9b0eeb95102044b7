"""Training that starts from weights, by the verb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mobilevit import Recipe, UserError, create_model, load_checkpoint, load_recipe, train
from mobilevit.checkpoints import Checkpoint, architecture, save_checkpoint
from mobilevit.deployment.contract import Contract
from mobilevit.verbs.train import Run

QUICK: dict[str, Any] = {
    "progress": False,
    "size": 32,
    "sizes": (),
    "epochs": 1,
    "batch_size": 8,
    "workers": 0,
    "precision": "fp32",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of another network than the default one, and of other classes."""
    network = create_model("mobilevit_xs", num_classes=2, patch_sizes=(8, 4, 2))
    contract = Contract("classification", ("cat", "dog"), (32, 32), 36)
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    save_checkpoint(path, Checkpoint(network, contract, architecture("mobilevit_xs", network)))
    return path


@pytest.fixture(scope="module")
def finetuned(tiny: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    output = tmp_path_factory.mktemp("finetuned") / "run"
    return train(tiny, weights=weights, output=output, freeze=12, **QUICK)


def test_without_a_recipe_it_is_finetune(finetuned: Run) -> None:
    expected = load_recipe("finetune").optimizer
    optimizer = load_recipe(finetuned.folder / "recipe.yaml").optimizer
    assert (optimizer.lr, optimizer.head_lr) == (expected.lr, expected.head_lr) == (5e-4, 10)
    assert (optimizer.freeze, expected.freeze) == (12, 0)


def test_the_network_is_that_of_the_weights(finetuned: Run, weights: Path) -> None:
    checkpoint = load_checkpoint(finetuned.folder)
    assert checkpoint.architecture["model"] == "mobilevit_xs"
    assert checkpoint.network.config.patch_sizes == (8, 4, 2)
    recipe = load_recipe(finetuned.folder / "recipe.yaml")
    assert (recipe.model.model, recipe.model.patch_sizes) == ("mobilevit_xs", (8, 4, 2))
    assert Recipe.from_dict(checkpoint.recipe, "checkpoint") == recipe
    theirs = load_checkpoint(weights).network.state_dict()
    changed = {k for k, v in checkpoint.network.state_dict().items() if not v.equal(theirs[k])}
    assert changed == {"head.weight", "head.bias"}


def test_it_can_be_resumed_without_the_weights(
    finetuned: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(resume=finetuned.folder, progress=False).metrics == finetuned.metrics
    assert "nothing is left to train" in capsys.readouterr().err


def test_patches_of_ones_own_are_kept(tiny: Path, weights: Path, tmp_path: Path) -> None:
    run = train(
        tiny, weights=weights, output=tmp_path / "run", freeze=12, patch_sizes=(2, 2, 2), **QUICK
    )
    assert load_checkpoint(run.folder).network.config.patch_sizes == (2, 2, 2)


@pytest.mark.parametrize(
    "settings", [{"recipe": "photos"}, {"model": "mobilevit_xxs"}], ids=["recipe", "setting"]
)
def test_weights_of_another_network_than_the_recipe_names(
    tiny: Path, weights: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    says = (
        r"mine\.safetensors: these weights are of mobilevit_xs, but the recipe names "
        r"mobilevit_xxs\. .*--model mobilevit_xs.*finetune"
    )
    with pytest.raises(UserError, match=says):
        train(tiny, weights=weights, output=tmp_path / "run", **(QUICK | settings))
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_names_the_network_of_the_weights(
    tiny: Path, weights: Path, tmp_path: Path
) -> None:
    run = train(
        tiny, recipe="photos", model="mobilevit_xs", weights=weights, output=tmp_path / "run",
        freeze=12, **QUICK,
    )  # fmt: skip
    recipe = load_recipe(run.folder / "recipe.yaml")
    assert (recipe.optimizer.lr, recipe.optimizer.head_lr) == (2e-3, 1)


def test_without_weights_the_default_network_is_written_down(tiny: Path, tmp_path: Path) -> None:
    run = train(tiny, recipe=Recipe(), output=tmp_path / "run", **QUICK)
    assert load_recipe(run.folder / "recipe.yaml").model.model == "mobilevit_xxs"


def test_too_many_frozen_blocks_are_refused_before_anything_is_written(
    tiny: Path, weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="freeze is 13, but the network has 12 blocks"):
        train(tiny, weights=weights, output=tmp_path / "run", freeze=13, **QUICK)
    assert not (tmp_path / "run").exists()


def test_a_network_of_an_unknown_name(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown model 'mobilevit_xx'.*Did you mean 'mobilevit_"):
        train(tiny, model="mobilevit_xx", output=tmp_path / "run", **QUICK)
