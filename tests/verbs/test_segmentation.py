"""All verbs, one after the other, on pictures with masks."""

from __future__ import annotations

import shutil
from dataclasses import replace
from inspect import signature
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from mobilevit.checkpoints.files import architecture
from mobilevit.data.class_lists import read_list
from mobilevit.data.mask_sets import read_masks
from mobilevit.data.scan import check_label_numbers
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.runtimes import load_predictor
from mobilevit.errors import UserError
from mobilevit.tasks.segmentation.predictions import Prediction
from mobilevit.verbs.evaluate import evaluate
from mobilevit.verbs.export import export
from mobilevit.verbs.predict import predict
from mobilevit.verbs.train import Run, train, usual_recipe

COLOURS = {0: (120, 120, 120), 7: (200, 60, 40), 42: (50, 80, 210)}
SETTINGS: dict[str, Any] = {
    "numbers": {"layers": (1, 1, 1)},
    "size": 64,
    "eval_shape": (64, 96),
    "scale": (0.8, 1.2),
    "epochs": 12,
    "batch_size": 8,
    "lr": 4e-3,
    "warmup_epochs": 1,
    "ema_decay": 0.6,
    "distort": 0.0,
    "workers": 0,
    "device": "cpu",
    "precision": "fp32",
}


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write bricks and pools on a road, 24 pictures to train and 6 to validate on."""
    folder = tmp_path_factory.mktemp("masks")
    random = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 6)):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            numbers = np.zeros((70, 105), np.uint8)
            for number, column in zip(random.permutation([7, 42]), (0, 53), strict=True):
                left, top = column + int(random.integers(12)), int(random.integers(30))
                numbers[top : top + 32, left : left + 36] = number
            colours = np.zeros((256, 3))
            colours[list(COLOURS)] = list(COLOURS.values())
            pixels = colours[numbers] + random.normal(0, 10, (70, 105, 3))
            numbers[:3] = 255
            picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            picture.save(folder / "images" / split / f"{index}.png")
            Image.fromarray(numbers).save(folder / "masks" / split / f"{index}.png")
    (folder / "classes.txt").write_text("0 road\n7 brick\n42 pool\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(masks: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(masks, output=tmp_path_factory.mktemp("runs") / "run", progress=False, **SETTINGS)


@pytest.fixture(scope="module")
def artefact(run: Run) -> Path:
    return export(run.folder, dynamic_batch=True).path


@pytest.fixture(scope="module")
def raw(run: Run) -> Path:
    return export(run.folder, output=run.folder / "raw.onnx", raw=True).path


def test_it_learns_to_name_pixels(run: Run) -> None:
    assert run.metrics["miou"] > 0.6
    assert run.metrics["pixel_accuracy"] > 0.8
    assert run.metrics["per_class"].keys() == {"road", "brick", "pool"}
    assert run.primary == "miou"


def test_the_run_folder_holds_pictures_of_it(run: Run) -> None:
    for name in ("batch", "curves", "predictions", "confusion"):
        with Image.open(run.folder / f"{name}.png") as picture:
            assert min(picture.size) > 100, name
            assert np.asarray(picture.convert("L")).std() > 5, name


def test_the_recipe_is_found_by_the_data(masks: Path, photos: Path) -> None:
    from mobilevit.cli import _train

    assert usual_recipe(masks, None) == "masks"
    assert usual_recipe(masks, "imagenette") == "masks"
    assert usual_recipe(photos, None) == "photos"
    parameters = signature(_train(["train", "--epochs", "2", str(masks)])).parameters
    assert parameters["recipe"].default == "masks"


def test_the_contract_says_how_to_feed_and_read_it(run: Run) -> None:
    contract = load_predictor(run.folder).contract
    assert (contract.task, contract.resize, contract.size) == ("segmentation", None, (64, 96))
    assert contract.class_names == ("road", "brick", "pool")
    assert contract.class_ids == (0, 7, 42)
    assert contract.output == "pixel_logits"


def test_evaluation_gives_what_training_saw(run: Run, masks: Path) -> None:
    result = evaluate(run.folder, masks)
    for name in ("miou", "pixel_accuracy"):
        assert result.metrics[name] == pytest.approx(run.metrics[name], abs=2e-3)
    assert result.metrics["samples"] == 6
    text = StringIO()
    result.print(Console(file=text, width=100))
    assert "brick" in text.getvalue()
    assert f"miou: {result.metrics['miou']:.1%}" in text.getvalue()


def test_both_artefacts_are_as_good_as_the_checkpoint(
    run: Run, artefact: Path, raw: Path, masks: Path
) -> None:
    ours = evaluate(run.folder, masks).metrics
    for path, output in ((artefact, "pixel_logits"), (raw, "coarse_logits")):
        assert load_predictor(path).contract.output == output
        theirs = evaluate(path, masks, threads=1).metrics
        for name in ("miou", "pixel_accuracy"):
            assert theirs[name] == pytest.approx(ours[name], abs=0.002), (output, name)


def test_the_export_is_proven_pixel_by_pixel(run: Run, tmp_path: Path) -> None:
    report = export(run.folder, output=tmp_path / "proven.onnx")
    assert report.comparison.agreement > 0.999
    assert report.comparison.pictures == 6
    predictor = load_predictor(report.path)
    assert predictor.run(np.zeros((1, 3, 64, 96), np.float32)).shape == (1, 3, 64, 96)


def test_a_raw_export_leaves_the_upsampling(raw: Path) -> None:
    predictor = load_predictor(raw)
    assert predictor.run(np.zeros((1, 3, 64, 96), np.float32)).shape == (1, 3, 4, 6)


def test_masks_come_at_the_pictures_size_with_the_users_own_numbers(
    artefact: Path, masks: Path, tmp_path: Path
) -> None:
    found = predict(artefact, masks / "images" / "val", masks=tmp_path / "out")
    truth = {sample.path: sample.label for sample in read_masks(masks).val}
    right = 0.0
    for item in found:
        with Image.open(tmp_path / "out" / f"{Path(item.path).stem}.png") as mask:
            numbers = np.asarray(mask)
        assert numbers.shape == (70, 105)
        assert set(np.unique(numbers)) <= {0, 7, 42}
        expected = np.array([0, 7, 42, *[255] * 253])[truth[Path(item.path)].read()]
        right += float((numbers == expected)[3:].mean()) / len(found)
        told = item.to_dict()
        assert sum(one["pixels"] for one in told["classes"]) == 70 * 105
        assert {one["class_id"] for one in told["classes"]} <= {0, 7, 42}
    assert right > 0.8
    with pytest.raises(UserError, match="not empty"):
        predict(artefact, masks / "images" / "val", masks=tmp_path / "out")


def test_answers_are_drawn_on_the_pictures(artefact: Path, masks: Path, tmp_path: Path) -> None:
    found = predict(artefact, masks / "images" / "val", draw=tmp_path / "drawn", tile=True)
    assert len(found) == len(list((tmp_path / "drawn").iterdir())) == 6


def test_a_large_picture_is_segmented_in_tiles(artefact: Path, masks: Path, tmp_path: Path) -> None:
    sample = read_masks(masks).val[0]
    with Image.open(sample.path) as picture:
        wide = Image.new("RGB", (105 * 3, 70 * 2))
        for left in range(3):
            for top in range(2):
                wide.paste(picture, (105 * left, 70 * top))
    wide.save(tmp_path / "wide.png")
    expected = np.tile(sample.label.read(), (2, 3))
    labelled = expected != 255
    shares = []
    for tile in (False, True):
        (found,) = predict(artefact, tmp_path / "wide.png", tile=tile)
        shares.append(float((found.mask == expected)[labelled].mean()))
    assert shares[1] > max(0.8, shares[0])


def test_a_picture_that_cannot_be_read_is_left_out_of_the_tiles(
    artefact: Path, masks: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    found = predict(
        artefact, [masks / "images" / "val" / "0.png", tmp_path / "broken.png"], tile=True
    )
    assert len(found) == 1
    assert [Path(path).name for path in found.unreadable] == ["broken.png"]


def test_training_is_taken_up_again(masks: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"epochs": 1, "aux_weight": 0.4, "output_stride": 8, "size": 32}
    whole = train(masks, output=tmp_path / "run", progress=False, **settings)
    assert train(resume=whole.folder, progress=False).metrics == whole.metrics
    again = evaluate(whole.folder, masks)
    assert again.metrics["miou"] == pytest.approx(whole.metrics["miou"], abs=2e-3)


def test_a_segmenter_for_other_classes_keeps_all_but_its_last_layer(
    run: Run, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for kind in ("images", "masks"):
        (other / kind).symlink_to(masks / kind)
    (other / "classes.txt").write_text("0 ground\n7 wall\n42 lake\n", encoding="utf-8")
    settings = SETTINGS | {"epochs": 1}
    train(other, weights=run.folder, output=tmp_path / "next", progress=False, **settings)
    told = capsys.readouterr().err
    assert "head" in told
    assert "aspp" not in told  # it is loaded
    with pytest.raises(UserError, match=r"class 'ground', which .* does not know"):
        evaluate(run.folder, other)


def test_torchvisions_lraspp_is_trained_alike(masks: Path, tmp_path: Path) -> None:
    settings = {key: value for key, value in SETTINGS.items() if key != "numbers"} | {"epochs": 1}
    model = "torchvision:lraspp_mobilenet_v3_large"
    done = train(masks, model=model, output=tmp_path / "run", progress=False, **settings)
    found = evaluate(done.folder, masks).metrics
    assert found["miou"] == pytest.approx(done.metrics["miou"], abs=2e-3)
    assert export(done.folder).comparison.agreement > 0.999


def test_it_is_measured_at_other_sizes_too(run: Run, masks: Path) -> None:
    found = evaluate(run.folder, masks, robustness=True).robustness
    assert found is not None
    assert found.metric == "miou"
    assert len(found.sizes) >= 2


def test_what_is_not_for_masks_is_said(
    run: Run, masks: Path, make_run: Any, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="it finds no boxes"):
        predict(run.folder, masks / "images", coco=tmp_path / "x.json")
    with pytest.raises(UserError, match="mixup is for classification"):
        train(masks, output=tmp_path / "a", mixup=0.2)
    with pytest.raises(UserError, match=r"holds masks, .* --recipe masks"):
        train(masks, recipe="photos", output=tmp_path / "c")
    with pytest.raises(UserError, match="holds no masks"):
        train(photos, recipe="masks", output=tmp_path / "b")
    classifier = make_run(tmp_path / "run", photos, ("disc", "square", "stripes"), {})
    for option in ({"masks": tmp_path / "y"}, {"tile": True}):
        with pytest.raises(UserError, match="it makes no masks"):
            predict(classifier, photos / "val", **option)


def test_what_a_recipe_leaves_open_is_that_of_the_weights() -> None:
    from mobilevit import Recipe
    from mobilevit.checkpoints import Checkpoint
    from mobilevit.training.fit import make_network

    fine = Recipe().override(head="deeplabv3", output_stride=8, aux_weight=0.4)
    plain = Recipe().override(head="deeplabv3")
    with torch.device("meta"):
        network = make_network(fine, 5)
        contract = Contract("segmentation", tuple("abcde"), (64, 64), None, output="pixel_logits")
        told = architecture("mobilevit_xxs", network)
        again = make_network(plain, 5, Checkpoint(network, contract, told))
        assert again.eval()(torch.empty(1, 3, 64, 64)).shape == (1, 5, 8, 8)
        assert again.config == replace(network.config, aux=False)
        coarse = make_network(plain, 5).eval()(torch.empty(1, 3, 64, 64))
        assert coarse.shape == (1, 5, 4, 4)
        small = plain.override(model="timm:mobilenetv2_050")
        timm = make_network(small, 5).eval()
        with pytest.raises(UserError, match="timm:mobilenetv2_050 has no dropout to set"):
            make_network(small.override(dropout=0.2), 5)
        assert timm(torch.empty(1, 3, 64, 64)).shape == (1, 5, 4, 4)


def test_torchvisions_network_has_no_second_head(masks: Path, tmp_path: Path) -> None:
    model = "torchvision:lraspp_mobilenet_v3_large"
    for setting, message in (
        ({"aux_weight": 0.4}, "aux_weight and output_stride"),
        ({"output_stride": 8}, "aux_weight and output_stride"),
        ({"numbers": {"layers": (1,)}}, "leave numbers out"),
        ({"patch_sizes": (8, 4, 2)}, "has no patch_sizes to set"),
    ):
        with pytest.raises(UserError, match=message):
            train(masks, model=model, output=tmp_path / "run", progress=False, epochs=1, **setting)


def test_a_head_that_is_asked_for_decides_the_recipe(photos: Path) -> None:
    assert usual_recipe(photos, None, "deeplabv3") == "masks"
    assert usual_recipe(photos, "imagenette", "ssdlite") == "boxes"


def test_predicted_masks_are_read_as_labels(artefact: Path, masks: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(masks / "images" / "val")
    predict(artefact, masks / "images" / "val", masks=tmp_path / "masks")
    (tmp_path / "classes.txt").write_text("0 road\n7 brick\n42 pool\n", encoding="utf-8")
    found = read_masks(tmp_path, None)
    assert len(found.train) == 6
    assert not found.findings


@pytest.mark.parametrize("listed", ["road 9 9 9\nbrick 1 2 3", "7 road\n300 brick"])
def test_unsure_pixels_and_classes_of_any_list_are_read_as_labels(
    tmp_path: Path, listed: str
) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "classes.txt").write_text(listed, encoding="utf-8")
    classes = read_list(tmp_path / "classes.txt")
    contract = Contract("segmentation", classes.names, (2, 3), None, class_ids=classes.numbers)
    mask = np.array([[0, 1, 255], [1, 1, 0]], np.uint8)
    Image.new("RGB", (3, 2)).save(tmp_path / "images" / "a.png")
    Prediction.of("a.png", mask, contract).save_mask(tmp_path / "masks" / "a.png")
    found = read_masks(tmp_path, None)
    np.testing.assert_array_equal(found.train[0].label.read(), mask)
    assert not list(check_label_numbers(sample.label for sample in found.train))


def test_drawings_and_masks_need_a_folder_each(artefact: Path, masks: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for drawings, numbers in ((out, out), (out, out / "masks"), (out / "seen", out)):
        with pytest.raises(UserError, match="a folder each"):
            predict(artefact, masks / "images" / "val", draw=drawings, masks=numbers)
    assert not out.exists()


def test_masks_of_another_size_are_not_measured(
    artefact: Path, masks: Path, tmp_path: Path
) -> None:
    shutil.copytree(masks, tmp_path / "data")
    for file in (tmp_path / "data" / "masks" / "val").iterdir():
        with Image.open(file) as mask:
            mask.transpose(Image.Transpose.ROTATE_90).save(file)
    with pytest.raises(UserError, match="6 masks of another size than the picture"):
        evaluate(artefact, tmp_path / "data")
    assert evaluate(artefact, tmp_path / "data", split="train").metrics["samples"] == 24


def test_masks_with_a_number_in_no_class_are_not_measured(
    artefact: Path, masks: Path, tmp_path: Path
) -> None:
    shutil.copytree(masks, tmp_path / "data")
    (tmp_path / "data" / "classes.txt").write_text("0 road\n7 brick\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"in no class: 42 \(.* pixels of 6 masks\)"):
        evaluate(artefact, tmp_path / "data")


def test_pictures_of_one_name_keep_their_folders(
    artefact: Path, masks: Path, tmp_path: Path
) -> None:
    first, second, *_ = sorted((masks / "images" / "val").iterdir())
    for place, source in (("a/x.png", first), ("b/x.png", second), ("c/x-2.png", first)):
        (tmp_path / "in" / place).parent.mkdir(parents=True)
        shutil.copy(source, tmp_path / "in" / place)
    out, drawn = tmp_path / "out", tmp_path / "drawn"
    found = predict(artefact, tmp_path / "in", masks=out, draw=drawn)
    written = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert written == {"a/x.png", "b/x.png", "c/x-2.png"}
    assert len(list(drawn.rglob("x*.png.png"))) == 3
    predict(artefact, second, masks=tmp_path / "alone")
    assert (tmp_path / "alone" / f"{second.stem}.png").read_bytes() == (
        out / "b/x.png"
    ).read_bytes()
    assert len(found) == 3


def test_an_export_is_compared_on_pictures_and_not_on_masks(
    run: Run, masks: Path, tmp_path: Path
) -> None:
    report = export(run.folder, data=masks, output=tmp_path / "x.onnx")
    assert report.comparison.pictures == 6


def test_broken_pictures_and_masks_are_left_out_of_training(masks: Path, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            (tmp_path / kind / split).mkdir(parents=True)
            for index in range(3):
                file = masks / kind / split / f"{index}.png"
                (tmp_path / kind / split / file.name).write_bytes(file.read_bytes())
    (tmp_path / "classes.txt").write_bytes((masks / "classes.txt").read_bytes())
    broken = [tmp_path / "images" / "train" / "1.png", *tmp_path.glob("masks/*/2.png")]
    for file in broken:
        file.write_bytes(file.read_bytes()[:-300])
    settings = SETTINGS | {"epochs": 1, "batch_size": 2, "balance": 0.5}
    with pytest.warns(UserWarning, match="left out"):
        done = train(tmp_path, output=tmp_path / "run", progress=False, check=False, **settings)
    assert done.metrics["samples"] == 2
