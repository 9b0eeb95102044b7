from __future__ import annotations

import subprocess
import sys
import typing
from collections import Counter
from dataclasses import FrozenInstanceError, fields
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mobilevit import Recipe, UserError, list_recipes, load_recipe
from mobilevit.networks import list_models


def test_defaults_are_the_papers() -> None:
    recipe = Recipe()
    assert (recipe.optimizer.lr, recipe.min_lr) == (2e-3, 2e-4)
    assert recipe.optimizer.weight_decay == 0.01
    assert recipe.optimizer.decay_norms is True
    assert recipe.optimizer.label_smoothing == 0.1
    assert recipe.optimizer.ema_decay == 0.9995
    assert (recipe.training.epochs, recipe.training.batch_size) == (300, 1024)
    assert recipe.augmentation.crop_scale == (0.08, 1.0)
    assert recipe.augmentation.crop_ratio == pytest.approx((3 / 4, 4 / 3))
    augmentation = recipe.augmentation
    assert augmentation.flip == 0.5
    assert augmentation.mixup == augmentation.cutmix == augmentation.erase == 0
    assert augmentation.randaugment == 0
    assert (recipe.data.size, recipe.eval_resize, recipe.train_sizes) == (256, 288, (256,))


def test_flat_names_are_unique_over_the_sections() -> None:
    sections = typing.get_type_hints(Recipe)
    names = Counter(field.name for section in sections.values() for field in fields(section))
    names += Counter(sections.keys() - {"model"})  # `model.model` is meant
    assert [name for name, count in names.items() if count > 1] == []


def test_every_setting_is_explained() -> None:
    """Each field is followed by a sentence, from which the help of the command line is made."""
    import ast
    import inspect

    import mobilevit.training.recipe as module

    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
            for line, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(line, ast.AnnAssign):
                    assert isinstance(after, ast.Expr), ast.unparse(line)
                    assert isinstance(after.value, ast.Constant)


def test_recipes_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Recipe().training.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.model_name in list_models()
    assert all(size % 32 == 0 for size in recipe.train_sizes)
    copy = tmp_path / "copy.yaml"
    copy.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(copy) == recipe
    text = (resources.files("mobilevit.recipes") / f"{name}.yaml").read_text(encoding="utf-8")
    header = [line for line in text.splitlines() if line.startswith("#")]
    for word in ("expected", "cost", "command"):
        assert any(line.startswith(f"# {word}") for line in header), f"{word} is not told"


recipes = st.builds(
    lambda **values: Recipe().override(**values),
    model=st.none() | st.sampled_from(list_models()),
    patch_sizes=st.none() | st.tuples(*[st.sampled_from((1, 2, 4, 8))] * 3),
    dropout=st.none() | st.floats(0, 0.5),
    size=st.integers(32, 512),
    sizes=st.lists(st.integers(32, 512)).map(tuple),
    anchor=st.sampled_from(("base", "largest")),
    lr=st.floats(1e-8, 10),
    head_lr=st.floats(0, 100),
    freeze=st.integers(0, 12),
    decay_norms=st.booleans(),
    crop_scale=st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1)),
    workers=st.none() | st.integers(0, 9),
    precision=st.sampled_from(("auto", "fp32", "bf16", "fp16")),
    seed=st.integers(0, 2**63 - 1),
)


@given(recipe=recipes)
def test_there_and_back(recipe: Recipe) -> None:
    assert Recipe.from_dict(recipe.to_dict(), "here") == recipe
    assert Recipe.from_dict(yaml.safe_load(recipe.to_yaml()), "here") == recipe


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({"size": 256}, (192, 256, 320)),
        ({"size": 160}, (128, 160, 192)),
        ({"size": 32}, (32,)),
        ({"size": 256, "sizes": (64, 96)}, (64, 96)),
        ({"size": 256, "sizes": ()}, (256,)),
        ({"epochs": 3}, (96, 128, 160)),
    ],
)
def test_the_sizes_to_train_on_follow_the_size(settings, sizes):
    """The recipe has 96, 128 and 160 pixels around 128."""
    assert load_recipe("photos").override(**settings).train_sizes == sizes


def test_the_shape_that_masks_are_judged_in_follows_the_size() -> None:
    """The recipe has 384 x 384 pixels beside 256."""
    masks = load_recipe("masks")
    assert masks.override(size=512).eval_size == (768, 768)
    assert masks.override(size=512, eval_shape=(352, 480)).eval_size == (352, 480)
    assert masks.override(eval_shape=(352, 480)).override(size=128).eval_size == (192, 256)
    assert load_recipe("photos").override(size=64).segmentation.eval_shape is None


@pytest.mark.parametrize("name", ["imagenet_s", "digits"])
@pytest.mark.parametrize("size", [64, 128, 320])
def test_the_share_that_is_cropped_in_evaluation_stays(name: str, size: int) -> None:
    recipe = load_recipe(name)
    changed = recipe.override(size=size)
    before = recipe.data.size / recipe.eval_resize
    assert changed.data.size / changed.eval_resize == pytest.approx(before, abs=0.01)
    assert recipe.override(size=size, resize=400).eval_resize == 400


def test_override_changes_what_is_named_and_checks_it() -> None:
    recipe = Recipe()
    other = recipe.override(epochs=3, lr=1, sizes=[32, 64], dropout=0.2)
    assert (other.training.epochs, other.optimizer.lr) == (3, 1.0)
    assert isinstance(other.optimizer.lr, float)
    assert other.data.sizes == (32, 64)
    assert other.model.dropout == 0.2
    assert other.override(dropout=None).model.dropout is None
    assert recipe == Recipe()
    assert other.augmentation == recipe.augmentation


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "unknown setting 'epoch'.*Did you mean 'epochs'"),
        ({"batchsize": 3}, "Did you mean 'batch_size'"),
        ({"epochs": 2.5}, "training.epochs is 2.5, it must be of type int"),
        ({"epochs": True}, "training.epochs is True"),
        ({"epochs": "3"}, "training.epochs is '3'"),
        ({"lr": "fast"}, "optimizer.lr is 'fast', it must be of type float"),
        ({"lr": None}, "optimizer.lr is None"),
        ({"anchor": "biggest"}, "data.anchor is 'biggest', it must be one of base, largest"),
        ({"precision": "int8"}, "one of auto, fp32, bf16, fp16"),
        ({"sizes": 128}, "data.sizes is 128, it must be a list of numbers"),
        ({"sizes": (128, "x")}, "data.sizes is 'x'"),
        ({"patch_sizes": (2, 2)}, "must be a list of 3 numbers"),
        ({"decay_norms": "yes"}, "must be of type bool"),
        ({"epochs": 0}, "epochs is 0, it must be at least 1"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"size": 31}, "size is 31"),
        ({"size": 100_000}, "size is 100000, it must be from 32 to 16384"),
        ({"sizes": (64, 16)}, "sizes is 16"),
        ({"resize": 100}, "resize is 100, it must be from 256 to 16384"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0, it must be from 0.01 to 0.9"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr": float("inf")}, "lr is inf, it must be at least 0"),
        ({"min_lr": 1.0}, "min_lr is 1.0"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"crop_scale": (0.9, 0.5)}, "crop_scale is 0.9"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio is 2.0"),
        ({"flip": 1.5}, "flip is 1.5"),
        ({"randaugment": 31}, "randaugment is 31"),
        ({"mixup": -1.0}, "mixup is -1.0"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"freeze": -1}, "freeze is -1, it must be at least 0"),
        ({"head_lr": "ten"}, "optimizer.head_lr is 'ten', it must be a number like 10 or 10x"),
        ({"head_lr": "x"}, "head_lr is 'x'"),
        ({"head_lr": None}, "head_lr is None"),
        ({"head_lr": True}, "head_lr is True"),
        ({"head_lr": "-1x"}, "head_lr is -1x, it must be at least 0"),
        ({"lr": "10x"}, "optimizer.lr is '10x', it must be of type float"),
        ({"layer_lr": 1.1}, "layer_lr is 1.1, it must be from 0 to 1"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1"),
        ({"workers": -1}, "workers is -1"),
        ({"seed": -1}, "seed is -1, it must be from 0"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"patch_sizes": (2, 0, 2)}, "patch_sizes is 0"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe().override(**values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimiser:\n  lr: 1", "unknown section 'optimiser'.*Did you mean 'optimizer'"),
        ("training:\n  epoch: 1", "unknown key 'training.epoch'.*Did you mean 'epochs'"),
        ("epochs: 1", "unknown section 'epochs'"),
        ("training:\n  lr: 1", "unknown key 'training.lr'"),
        ("model: mobilevit_s", "'model' is 'mobilevit_s', it must be a section of keys: model"),
        ("training: [epochs]", ".*must be a section of keys"),
        ("training:\n  epochs: many", "training.epochs is 'many', it must be of type int"),
        ("- 1\n- 2", "a recipe is sections of keys, not list"),
        ("false", "a recipe is sections of keys, not bool"),
        ("a: [", "this is no YAML"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"(?s)mine\.yaml: {message}"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "training:\n  epochs: 3\ntraining:\n  seed: 1",
            "line 3: the key 'training' is there twice",
        ),
        ("training: {epochs: 3, epochs: 4}", "line 1: the key 'epochs' is there twice"),
        ("training:\n  on: 2", "line 2: YAML reads the key 'on' as no word"),
        ("1: 2", "line 1: YAML reads the key '1' as no word"),
        ("a: [{true: 2}]", "line 1: YAML reads the key 'true' as no word"),
    ],
)
def test_keys_that_yaml_itself_would_take_for_others(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"mine\.yaml, {message}"):
        load_recipe(path)


def test_keys_may_be_merged(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("data: &a {size: 64}\naugmentation: {<<: {flip: 0.0}, erase: 0.1}\n")
    recipe = load_recipe(path)
    assert (recipe.augmentation.flip, recipe.augmentation.erase) == (0.0, 0.1)


def test_short_files_and_yamls_own_spelling_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text("optimizer:\n  lr: 1e-3\ntraining:\n", encoding="utf-8")
    assert load_recipe(path) == Recipe().override(lr=0.001)
    path.write_text("", encoding="utf-8")
    assert load_recipe(str(path)) == Recipe()


@pytest.mark.parametrize("written", ["10x", "10", "10.0", "1e1x"])
def test_a_multiple_is_written_with_or_without_its_x(tmp_path: Path, written: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"optimizer:\n  head_lr: {written}\n", encoding="utf-8")
    optimizer = load_recipe(path).optimizer
    assert optimizer.head_lr == 10
    assert str(optimizer.head_lr) == "10x"
    assert Recipe().override(head_lr=written).optimizer == optimizer
    assert "head_lr: 10.0\n" in Recipe().override(head_lr=written).to_yaml()


def test_only_recipes_that_start_from_weights_leave_the_network_open() -> None:
    open_ = [name for name in list_recipes() if load_recipe(name).model.model is None]
    assert open_ == ["boxes", "deeplabv3_voc", "finetune", "masks", "ssdlite_coco"]
    assert Recipe().model_name == "mobilevit_xxs"
    assert Recipe().override(model="mobilevit_s").model_name == "mobilevit_s"


def test_names_that_are_no_recipe() -> None:
    with pytest.raises(UserError, match=r"unknown recipe 'photo'.*Did you mean 'photos'"):
        load_recipe("photo")
    with pytest.raises(UserError, match=r"none\.yaml: there is no such recipe file"):
        load_recipe("none.yaml")


def test_needs_no_torch() -> None:
    code = (
        "import sys, mobilevit; mobilevit.load_recipe('photos'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_key_in_the_wrong_section_is_sent_to_its_own() -> None:
    with pytest.raises(UserError, match=r"'detection\.distort'\. It is 'augmentation\.distort'"):
        Recipe.from_dict({"detection": {"distort": 0.5}}, "old.yaml")


@pytest.mark.parametrize(
    ("head", "settings", "message"),
    [
        ("ssdlite", {"mixup": 0.2}, "mixup is for classification.*boxes for detection"),
        ("classifier", {"iou_crop": 0.5}, "iou_crop is for detection"),
        ("ssdlite", {"balance": 0.5}, "balance is for segmentation"),
        ("deeplabv3", {"crop_scale": (0.5, 1.0)}, "masks for segmentation"),
    ],
)
def test_what_another_task_is_trained_with_is_refused(head, settings, message) -> None:
    with pytest.raises(UserError, match=message):
        Recipe().override(head=head, **settings)
