from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn

from mobilevit import Recipe, UserError, create_model, load_checkpoint, load_recipe, train
from mobilevit.checkpoints import Checkpoint, architecture
from mobilevit.data.folders import data_hash, read_folders
from mobilevit.data.transforms import EvalDataset
from mobilevit.deployment.contract import Contract
from mobilevit.tasks import get_task
from mobilevit.training.display import Display
from mobilevit.training.run_folder import RunFolder
from mobilevit.verbs.train import Run, fabric_precision, train_folders
from tiny import assert_same_run, fit_tiny, make_pictures, rows, tensors

EPOCHS = 14


@pytest.fixture(scope="module")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run by the verb, whole; do not change its folder."""
    return train(
        tiny,
        recipe=Recipe(),
        output=tmp_path_factory.mktemp("finished") / "run",
        progress=False,
        size=64,
        epochs=EPOCHS,
        batch_size=4,
        workers=0,
        precision="fp32",
        device="cpu",
        lr=2e-3,
        warmup_epochs=1,
        ema_decay=0.8,
        crop_scale=(0.5, 1.0),
    )


def val_loss_and_top1(data: Path, network: nn.Module, contract: Contract) -> tuple[float, float]:
    samples = read_folders(data).val
    dataset = EvalDataset(samples, contract)
    pictures = torch.stack([dataset[i][0] for i in range(len(dataset))])
    labels = torch.tensor([sample.label for sample in samples])
    with torch.no_grad():
        logits = network(pictures)
    top1 = (logits.argmax(1) == labels).float().mean()
    return F.cross_entropy(logits, labels).item(), top1.item()


# --- a run as a whole ---


def test_it_learns(finished: Run) -> None:
    losses = [row["train_loss"] for row in rows(RunFolder(finished.folder))]
    assert finished.metrics["top1"] >= 0.9
    assert losses[-1] < 0.7 * losses[0]


def test_the_run_folder_is_what_is_promised(finished: Run, tiny: Path) -> None:
    assert {path.name for path in finished.folder.iterdir()} == {
        *("best.safetensors", "last.safetensors", "recipe.yaml", "run.json", "metrics.jsonl"),
        *("tensorboard", "batch.png", "curves.png", "confusion.png", "mistakes.png"),
    }
    assert any((finished.folder / "tensorboard").iterdir())
    recipe = load_recipe(finished.folder / "recipe.yaml")
    assert (recipe.training.epochs, recipe.train_sizes) == (EPOCHS, (64,))
    assert json.loads((finished.folder / "run.json").read_text())["data"] == str(tiny.resolve())


def test_every_row_is_complete(finished: Run) -> None:
    lines = (finished.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    table = [json.loads(line) for line in lines]
    for epoch, row in enumerate(table, 1):
        assert list(row) == [
            *("epoch", "updates", "samples", "seconds", "lr"),
            *("train_loss", "train_top1", "val_top1", "val_loss"),
        ]
        assert row["epoch"] == epoch
        assert row["samples"] == 24 * epoch
        assert 0 <= row["train_top1"] <= 1
    assert table[-1]["lr"] == pytest.approx(2e-4)
    assert [row["updates"] for row in table] == sorted({row["updates"] for row in table})
    assert [row["seconds"] for row in table] == sorted(row["seconds"] for row in table)


def test_best_is_the_first_of_the_best_epochs(finished: Run, tiny: Path) -> None:
    table = rows(RunFolder(finished.folder))
    best = max(table, key=lambda row: row["val_top1"])
    assert finished.metrics["epoch"] == best["epoch"]
    checkpoint = load_checkpoint(finished.folder)
    assert checkpoint.metrics == finished.metrics
    assert checkpoint.metrics["top1"] == best["val_top1"]
    assert checkpoint.contract.class_names == ("blue", "green", "red")
    assert (checkpoint.contract.size, checkpoint.contract.resize) == ((64, 64), 72)
    loss, top1 = val_loss_and_top1(tiny, checkpoint.network, checkpoint.contract)
    assert loss == pytest.approx(best["val_loss"], abs=1e-4)
    assert top1 == pytest.approx(best["val_top1"])


def test_only_last_can_be_resumed(finished: Run) -> None:
    best = load_checkpoint(finished.folder / "best.safetensors", training=True)
    last = load_checkpoint(finished.folder / "last.safetensors", training=True)
    assert best.progress == best.training == {}
    assert last.progress["epoch"] == EPOCHS
    assert Recipe.from_dict(last.recipe, "last") == load_recipe(finished.folder / "recipe.yaml")
    sizes = [(finished.folder / f"{name}.safetensors").stat().st_size for name in ("best", "last")]
    assert sizes[1] > 3 * sizes[0]


# --- the parts of the recipe ---


def test_averaged_weights_are_evaluated_and_saved(tiny: Path, tmp_path: Path) -> None:
    run = fit_tiny(tiny, tmp_path / "run", epochs=2, ema_decay=0.9)
    last = load_checkpoint(run.last, training=True)
    saved = last.network.state_dict()
    trained = {k[8:]: v for k, v in last.training.items() if k.startswith("network.")}
    assert not any(torch.equal(saved[k], trained[k]) for k in saved if k.endswith(".weight"))
    loss, _ = val_loss_and_top1(tiny, last.network, last.contract)
    assert loss == pytest.approx(rows(run)[-1]["val_loss"], abs=1e-4)


def test_without_averaging_the_weights_themselves(tiny: Path, tmp_path: Path) -> None:
    run = fit_tiny(tiny, tmp_path / "run", ema_decay=0.0)
    last = load_checkpoint(run.last, training=True)
    saved = last.network.state_dict()
    assert all(torch.equal(last.training[f"network.{k}"], v) for k, v in saved.items())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_gradients_are_clipped(
    precision: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = []
    clip = Fabric.clip_gradients

    def spy(self: Fabric, module: nn.Module, *args: Any, **options: Any) -> Any:
        before = clip(self, module, *args, **options)
        squares = sum(p.grad.square().sum() for p in module.parameters())
        norms.append((float(before), float(squares) ** 0.5))
        return before

    monkeypatch.setattr(Fabric, "clip_gradients", spy)
    fit_tiny(tiny, tmp_path / "run", clip_norm=0.01, precision=precision)
    assert len(norms) == 3
    assert all(before > 0.1 and after == pytest.approx(0.01, 1e-3) for before, after in norms)


def first_gradients(
    monkeypatch: pytest.MonkeyPatch, *args: Any, **settings: Any
) -> tuple[RunFolder, list[torch.Tensor]]:
    grads: list[torch.Tensor] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *a: Any, **k: Any) -> Any:
        if not grads:
            grads.extend(p.grad.clone() for g in self.param_groups for p in g["params"])
        return step(self, *a, **k)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        return fit_tiny(*args, **settings), grads


def test_parts_of_a_step_add_up(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With frozen batch-norms, which would see smaller batches, nothing else changes."""

    def stay(self: nn.Module, mode: bool = True) -> nn.Module:
        return nn.Module.train(self, False)

    monkeypatch.setattr(nn.BatchNorm2d, "train", stay)
    settings = {"dropout": 0.0, "head_dropout": 0.0, "clip_norm": 1.0, "batch_size": 9}
    runs = [
        first_gradients(monkeypatch, tiny, tmp_path / str(parts), accumulate=parts, **settings)
        for parts in (1, 2, 4)
    ]
    (run, grads), *others = runs
    for other, gradients in others:
        for one, two in zip(grads, gradients, strict=True):
            assert (one - two).norm() <= 1e-4 * one.norm() + 1e-7
        assert rows(other)[0]["train_loss"] == pytest.approx(rows(run)[0]["train_loss"], rel=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"mixup": 0.2, "cutmix": 1.0, "randaugment": 9, "erase": 0.5, "precision": "bf16"},
        {"accumulate": 7, "batch_size": 3, "decay_norms": False, "save_steps": 1, "clip_norm": 1.0},
        {"patch_sizes": (8, 4, 2), "size": 64, "interpolation": "bicubic", "anchor": "largest"},
    ],
    ids=["augmentation", "many-parts", "patches"],
)
def test_everything_can_be_switched_on(
    tiny: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    run = fit_tiny(tiny, tmp_path / "run", **settings)
    assert rows(run)[0]["samples"] == 24
    assert 0.3 < rows(run)[0]["train_loss"] < 3
    network = load_checkpoint(run.best).network
    assert network.config.patch_sizes == settings.get("patch_sizes", (2, 2, 2))
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_the_same_seed_gives_the_same_run(tiny: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = fit_tiny(tiny, tmp_path / "one", mixup=0.2)
    torch.manual_seed(2)
    assert_same_run(fit_tiny(tiny, tmp_path / "two", mixup=0.2, workers=1), one)
    other = fit_tiny(tiny, tmp_path / "three", mixup=0.2, seed=1)
    assert rows(other) != rows(one)


def test_precision_names() -> None:
    assert fabric_precision("fp32", "cpu") == "32-true"
    assert fabric_precision("bf16", "cuda") == "bf16-mixed"
    assert fabric_precision("fp16", "cuda") == "16-mixed"
    assert fabric_precision("auto", "cpu") in ("32-true", "bf16-mixed")


# --- when something is wrong ---


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_loss_that_is_not_finite_ends_the_run(
    tiny: Path, tmp_path: Path, clip_norm: float
) -> None:
    with pytest.raises(UserError, match=r"loss is not finite in epoch 1.*lower lr"):
        fit_tiny(tiny, tmp_path / "run", lr=1e30, clip_norm=clip_norm)
    saved = load_checkpoint(tmp_path / "run" / "last.safetensors", training=True)
    assert saved.progress["updates"] == 0
    assert all(torch.isfinite(v).all() for v in saved.network.state_dict().values())
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_a_picture_becomes_unreadable_in_mid_training(tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data")
    folders = read_folders(data)
    folders.train[3].path.unlink()
    folders.val[5].path.write_bytes(b"overwritten")
    with pytest.warns(UserWarning, match="left out") as caught:
        run = fit_tiny(folders, tmp_path / "run")
    named = " ".join(str(warning.message) for warning in caught)
    assert str(folders.train[3].path) in named
    assert str(folders.val[5].path) in named
    assert rows(run)[0]["samples"] == 24
    assert load_checkpoint(run.best).metrics["samples"] == 11


@pytest.mark.filterwarnings("ignore:left out")
def test_a_val_batch_of_unreadable_pictures_is_left_out(tmp_path: Path) -> None:
    folders = read_folders(make_pictures(tmp_path / "data", val=3))
    folders.val[8].path.unlink()  # alone in the second batch of eight
    run = fit_tiny(folders, tmp_path / "run")
    assert load_checkpoint(run.best).metrics["samples"] == 8


@pytest.mark.filterwarnings("ignore:left out")
def test_training_ends_where_no_picture_can_be_read_any_more(tmp_path: Path) -> None:
    folders = read_folders(make_pictures(tmp_path / "data"))
    for sample in folders.train:
        sample.path.unlink()
    with pytest.raises(UserError, match="none of a batch's pictures can be read"):
        fit_tiny(folders, tmp_path / "run")


def test_unreadable_pictures_are_left_out_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_pictures(tmp_path / "data")
    broken = data / "train" / "red" / "0.png"
    broken.write_bytes(broken.read_bytes()[:100])
    run = train(
        data, recipe=Recipe(), output=tmp_path / "run", progress=False, size=32, epochs=1,
        batch_size=8, workers=0, precision="fp32", device="cpu",
    )  # fmt: skip
    assert "0.png" in "".join(capsys.readouterr().err.split())
    assert rows(RunFolder(run.folder))[0]["samples"] == 23


def test_a_class_without_pictures_is_said_before_training(tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data", train=2, val=1)
    shutil.rmtree(data / "train" / "red")
    (data / "train" / "red").mkdir()
    with pytest.raises(UserError, match=r"(?s)red.*mobilevit doctor"):
        train(data, recipe=Recipe(), output=tmp_path / "run", progress=False, device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("check", [True, False])
def test_nothing_to_validate_on_is_said_before_training(tmp_path: Path, check: bool) -> None:
    data = make_pictures(tmp_path / "data", train=4, val=1)
    for path in data.glob("val/*/*"):
        path.write_bytes(b"broken")
    if not check:  # boxes without any that can be used, say
        folders = replace(read_folders(data), val=())
        with pytest.raises(UserError, match="none of the pictures to validate on can be used"):
            train_folders(
                *(get_task("classification"), folders, Recipe().override(device="cpu")),
                *(RunFolder(tmp_path / "run"), None, None),
                check=False,
            )
    else:
        with pytest.raises(UserError, match=r"no picture to validate on can be read.*doctor"):
            train(data, recipe=Recipe(), output=tmp_path / "run", progress=False, device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_library_that_is_missing_is_said_before_training(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"tensorboard.*pip install \"mobilevit\[train\]\""):
        train(tiny, output=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_val_pictures_that_go_away_end_in_a_sentence(tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data", train=4, val=1)
    folders = read_folders(data)
    shutil.rmtree(data / "val")
    with pytest.raises(UserError, match="none of the pictures to validate on can be read"):
        fit_tiny(folders, tmp_path / "run")
    assert (tmp_path / "run" / "last.safetensors").is_file()


def test_a_device_that_is_not_there_is_said(tiny: Path, tmp_path: Path) -> None:
    for device, there in (("cuda", torch.cuda), ("mps", torch.mps)):
        if there.is_available():
            continue
        with pytest.raises(UserError, match=f"device is {device}, and torch finds none here"):
            train(tiny, output=tmp_path / "run", device=device, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_among_the_pictures_is_not_learnt_from(tiny: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny / "train", data)
    before = read_folders(data)
    run = fit_tiny(data, data / "runs" / "first")
    assert run.batch.is_file()
    assert read_folders(data) == before


def test_an_existing_output_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is not empty"):
        train(tiny, output=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_data_hash_takes_any_name_of_a_file(tmp_path: Path) -> None:
    from mobilevit.data.folders import Sample

    odd = Sample(tmp_path / "a\udcff.jpg", 0)  # how Python reads a name that is no UTF-8
    assert data_hash([odd], tmp_path) != data_hash([Sample(tmp_path / "a.jpg", 0)], tmp_path)
    assert data_hash([odd], tmp_path) != data_hash([Sample(odd.path, 1)], tmp_path)


# --- starting from weights ---


class Interruption(BaseException):
    """Ends a run after its first step, when the state before it was saved."""


def start_weights(
    monkeypatch: pytest.MonkeyPatch, data: Path, output: Path, weights: Checkpoint, **settings: Any
) -> dict[str, torch.Tensor]:
    def stop(*args: object) -> None:
        raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(Display, "step", stop)
        with pytest.raises(Interruption):
            fit_tiny(data, output, weights=weights, **settings)
    named = tensors(output / "last.safetensors")
    return {k[17:]: v for k, v in named.items() if k.startswith("training.network.")}


def checkpoint(name: str, *classes: str) -> Checkpoint:
    network = create_model(name, num_classes=len(classes))
    contract = Contract("classification", classes, (64, 64), 72)
    return Checkpoint(network, contract, architecture(name, network))


@pytest.mark.parametrize(
    ("classes", "kept"),
    [
        (("blue", "green", "red"), True),
        (("red", "green", "blue"), False),
        (("a", "b", "c", "d", "e"), False),
    ],
    ids=["same", "other-order", "more"],
)
def test_the_classifier_is_kept_if_the_classes_are_the_same(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    classes: tuple[str, ...],
    kept: bool,
) -> None:
    weights = checkpoint("mobilevit_xxs", *classes)
    theirs = weights.network.state_dict()
    started = start_weights(monkeypatch, tiny, tmp_path / "run", weights)
    assert started["head.weight"].shape == (3, 320)
    differing = {
        k for k, v in started.items() if v.shape != theirs[k].shape or not torch.equal(v, theirs[k])
    }
    assert differing - {"head.bias"} == (set() if kept else {"head.weight"})


def test_weights_of_another_network_are_refused(tiny: Path, tmp_path: Path) -> None:
    weights = checkpoint("mobilevit_xs", "blue", "green", "red")
    with pytest.raises(UserError, match="weights are of mobilevit_xs, not of mobilevit_xxs"):
        fit_tiny(tiny, tmp_path / "run", weights=weights)


def test_training_goes_on_from_a_run_by_weights(finished: Run, tiny: Path, tmp_path: Path) -> None:
    before = (finished.folder / "best.safetensors").read_bytes()
    run = fit_tiny(
        tiny,
        tmp_path / "run",
        weights=load_checkpoint(finished.folder),
        size=64,
        lr=1e-5,
        warmup_epochs=0,
    )
    assert rows(run)[0]["val_top1"] >= 0.9
    assert rows(run)[0]["updates"] == 3
    assert (finished.folder / "best.safetensors").read_bytes() == before


def test_dilated_filters_learn_from_true_gradients_in_bf16() -> None:
    from mobilevit.training.fit import exact_depthwise

    torch.manual_seed(0)
    layer = torch.nn.Conv2d(64, 64, 3, padding=2, dilation=2, groups=64, bias=False)
    x, wanted = torch.randn(4, 64, 40, 40), torch.randn(4, 64, 40, 40)
    layer(x).backward(wanted)
    expected = layer.weight.grad.clone()
    layer.weight.grad = None
    exact_depthwise(layer.to(memory_format=torch.channels_last))
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x.bfloat16().contiguous(memory_format=torch.channels_last))
        assert (
            torch.nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype == torch.bfloat16
        )
    out.backward(wanted.to(out.dtype).contiguous(memory_format=torch.channels_last))
    error = (layer.weight.grad - expected).abs().max() / expected.abs().max()
    assert float(error) < 0.02


def test_filters_beyond_a_map_of_one_pixel_learn_nothing_in_bf16() -> None:
    from mobilevit.training.fit import exact_depthwise

    torch.manual_seed(0)
    for attempt in range(20):
        layer = torch.nn.Conv2d(128, 128, 3, stride=2, padding=1, groups=128, bias=False)
        exact_depthwise(layer.to(memory_format=torch.channels_last))
        x = torch.randn(2, 128, 1, 1).contiguous(memory_format=torch.channels_last)
        del_me = torch.full((200_000,), float("nan") if attempt % 2 else 3e5)  # memory to be reused
        del del_me
        with torch.autocast("cpu", torch.bfloat16):
            layer(x).float().square().sum().backward()
        assert layer.weight.grad is not None
        gradient = layer.weight.grad.clone()
        assert gradient[:, :, 1, 1].abs().sum() > 0
        gradient[:, :, 1, 1] = 0
        assert not gradient.any()


def test_weights_that_are_not_finite_end_the_run(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = torch.optim.AdamW.step

    def spoil(self: torch.optim.AdamW, *a: Any, **k: Any) -> Any:
        step(self, *a, **k)
        self.param_groups[0]["params"][0].data[0] = torch.nan

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with pytest.raises(UserError, match=r"the weight \S+ is not finite in epoch 1 \(step 1\)"):
        fit_tiny(tiny, tmp_path / "run", save_steps=1)
