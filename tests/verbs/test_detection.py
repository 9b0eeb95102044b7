"""All verbs, one after the other, on pictures with boxes."""

from __future__ import annotations

import json
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

from mobilevit.data.box_sets import read_boxes
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.runtimes import load_predictor
from mobilevit.errors import UserError
from mobilevit.networks import SSDLite, SSDLiteConfig, create_model
from mobilevit.tasks import get_task
from mobilevit.verbs.evaluate import evaluate
from mobilevit.verbs.export import export
from mobilevit.verbs.predict import predict
from mobilevit.verbs.train import Run, train, usual_recipe

COLOURS = {7: (200, 60, 40), 42: (50, 80, 210)}
NAMES = {7: "brick", 42: "pool"}
SETTINGS: dict[str, Any] = {
    "numbers": {"layers": (1, 1, 1)},
    "size": 96,
    "epochs": 16,
    "batch_size": 8,
    "lr": 1e-2,
    "warmup_epochs": 1,
    "ema_decay": 0.6,
    "iou_crop": 0.0,
    "distort": 0.0,
    "workers": 0,
    "device": "cpu",
    "precision": "fp32",
}


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write COCO files of bricks and pools, 32 pictures to train and 8 to validate on."""
    folder = tmp_path_factory.mktemp("boxes")
    random = np.random.default_rng(0)
    for split, count in (("train", 32), ("val", 8)):
        (folder / split).mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(count):
            image_id = 100 * (split == "val") + 3 * index + 1
            pixels = random.normal(120, 12, (96, 144, 3))
            for number, column in zip(random.permutation([7, 42]), (0, 3), strict=True):
                left = 24 * (column + int(random.integers(2)))
                top = 16 * int(random.integers(5))
                pixels[top : top + 32, left : left + 48] = COLOURS[int(number)]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": int(number),
                        "bbox": [left, top, 48, 32],
                        "area": 48 * 32,
                        "iscrowd": 0,
                    }
                )
            name = f"{image_id:06d}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / split / name)
            images.append({"id": image_id, "file_name": name, "width": 144, "height": 96})
        categories = [{"id": number, "name": name} for number, name in NAMES.items()]
        told = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(boxes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    output = tmp_path_factory.mktemp("runs") / "run"
    return train(boxes, output=output, progress=False, **SETTINGS)


@pytest.fixture(scope="module")
def artefact(run: Run) -> Path:
    return export(run.folder).path


@pytest.fixture(scope="module")
def raw(run: Run) -> Path:
    path = export(run.folder, raw=True, dynamic_batch=True).path
    assert path == run.folder / "best-raw.onnx"
    return path


def test_it_learns_to_find_boxes(run: Run) -> None:
    assert run.metrics["ap50"] > 0.4
    assert run.metrics["per_class"].keys() == {"brick", "pool"}
    assert run.primary == "map"


def test_the_run_folder_holds_pictures_of_it(run: Run) -> None:
    for name in ("batch", "curves", "predictions", "precision_recall"):
        with Image.open(run.folder / f"{name}.png") as picture:
            assert min(picture.size) > 100, name
            assert np.asarray(picture.convert("L")).std() > 5, name


def test_the_recipe_is_found_by_the_data(boxes: Path, photos: Path) -> None:
    assert usual_recipe(boxes, None) == "boxes"
    assert usual_recipe(boxes, "imagenette") == "boxes"
    assert usual_recipe(photos, "imagenette") == "finetune"
    assert usual_recipe(photos, None) == "photos"


def test_the_contract_says_how_to_feed_and_read_it(run: Run) -> None:
    contract = load_predictor(run.folder).contract
    assert (contract.task, contract.resize, contract.size) == ("detection", None, (96, 96))
    assert (contract.class_names, contract.class_ids) == (("brick", "pool"), (7, 42))
    assert contract.output == "detections"


def test_evaluation_gives_what_training_saw(run: Run, boxes: Path) -> None:
    result = evaluate(run.folder, boxes)
    for name in ("map", "ap50", "recall"):
        assert result.metrics[name] == pytest.approx(run.metrics[name], abs=1e-3)
    assert result.metrics["samples"] == 8
    text = StringIO()
    result.print(Console(file=text, width=100))
    assert "brick" in text.getvalue()
    assert f"map: {result.metrics['map']:.1%}" in text.getvalue()


def test_both_artefacts_are_as_good_as_the_checkpoint(
    run: Run, artefact: Path, raw: Path, boxes: Path
) -> None:
    ours = evaluate(run.folder, boxes).metrics
    for path, output in ((artefact, "detections"), (raw, "candidates")):
        assert load_predictor(path).contract.output == output
        theirs = evaluate(path, boxes, threads=1).metrics
        for name in ("map", "ap50", "ap75"):
            assert theirs[name] == pytest.approx(ours[name], abs=0.002), (output, name)


def test_the_raw_heads_of_several_pictures_come_at_once(raw: Path) -> None:
    predictor = load_predictor(raw)
    images = np.random.default_rng(0).random((3, 3, 96, 96), np.float32)
    together = predictor.run(images)
    assert together.shape[0] == 3
    assert together.shape[2] == 4 + 2
    one = np.concatenate([predictor.run(images[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(together, one, atol=1e-5)


def test_boxes_come_in_pixels_with_the_users_own_names_and_numbers(
    run: Run, artefact: Path, boxes: Path
) -> None:
    truth = {str(sample.path): sample.label for sample in read_boxes(boxes).val}
    hits = 0
    for prediction in predict(artefact, boxes / "val", threshold=0.2):
        for found in prediction.boxes:
            assert NAMES[found.class_id] == found.name
            for true in truth[prediction.path].items:
                same = ["brick", "pool"][true.label] == found.name
                hits += same and np.abs(np.subtract(found.box, true[:4])).max() < 12
    assert hits >= 4  # of 16


def test_boxes_for_pictures_of_another_shape_are_not_measured(
    artefact: Path, boxes: Path, tmp_path: Path
) -> None:
    shutil.copytree(boxes, tmp_path / "data")
    turned = next((tmp_path / "data" / "val").glob("*.*g"))
    with Image.open(turned) as picture:
        picture.transpose(Image.Transpose.ROTATE_90).save(turned)
    with pytest.raises(UserError, match=r"1 picture .*for a picture of another shape.*doctor"):
        evaluate(artefact, tmp_path / "data")
    turned.write_bytes(b"broken")
    assert list(evaluate(artefact, tmp_path / "data").unreadable) == [str(turned)]


def test_two_pictures_of_one_image_id_are_refused(
    artefact: Path, boxes: Path, tmp_path: Path
) -> None:
    source = next((boxes / "val").glob("*.*g"))
    for name in ("a/1.jpg", "b/01.jpg"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(source, tmp_path / name)
    with pytest.raises(UserError, match=r"b/01\.jpg.*the image_id of .*a/1\.jpg, 1, which"):
        predict(artefact, tmp_path, coco=tmp_path / "found.json")
    assert not (tmp_path / "found.json").exists()


def test_results_are_written_as_coco_has_them(artefact: Path, boxes: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    file = tmp_path / "results.json"
    predict(artefact, boxes / "val", threshold=0.01, coco=file)
    truth = COCO(str(boxes / "val.json"))
    judge = COCOeval(truth, truth.loadRes(str(file)), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    expected = evaluate(artefact, boxes).metrics
    assert judge.stats[0] == pytest.approx(expected["map"], abs=2e-3)
    assert judge.stats[1] == pytest.approx(expected["ap50"], abs=2e-3)


def test_answers_are_drawn_on_the_pictures(artefact: Path, boxes: Path, tmp_path: Path) -> None:
    found = predict(artefact, boxes / "val", draw=tmp_path / "drawn")
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert [path.name for path in drawn] == [f"{Path(item.path).name}.png" for item in found]
    with Image.open(drawn[0]) as picture, Image.open(found[0].path) as original:
        assert picture.size == original.size
        assert np.any(np.asarray(picture) != np.asarray(original))
    with pytest.raises(UserError, match="not empty"):
        predict(artefact, boxes / "val", draw=tmp_path / "drawn")


def test_top_and_threshold_say_how_many_boxes_come(artefact: Path, boxes: Path) -> None:
    many = predict(artefact, boxes / "val", threshold=0.0)
    assert all(len(item.boxes) > 2 for item in many)
    assert [len(item.boxes) for item in predict(artefact, boxes / "val", top=1)] == [1] * 8
    sure = predict(artefact, boxes / "val", threshold=0.6)
    assert all(found.score >= 0.6 for item in sure for found in item.boxes)


def test_training_is_taken_up_again(boxes: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"epochs": 1, "size": 64}
    whole = train(boxes, output=tmp_path / "run", progress=False, **settings)
    assert train(resume=whole.folder, progress=False).metrics == whole.metrics


def test_a_detector_for_other_classes_keeps_all_but_its_last_layers(
    run: Run, boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = read_boxes(boxes)
    from mobilevit.data.box_sets import write_boxes

    other = replace(folders, class_names=("wall", "lake"), class_ids=())
    write_boxes(other, tmp_path / "other", "voc")
    settings = SETTINGS | {"epochs": 1}
    train(
        tmp_path / "other", weights=run.folder, output=tmp_path / "next", progress=False, **settings
    )
    told = capsys.readouterr().err
    assert "heads" in told
    assert "extras" not in told  # they are loaded


def test_what_is_not_for_boxes_is_said(run: Run, boxes: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--recipe boxes"):
        train(boxes, recipe="photos", output=tmp_path / "a")
    with pytest.raises(UserError, match=r"dynamic_batch with raw"):
        export(run.folder, dynamic_batch=True, output=tmp_path / "x.onnx")
    with pytest.raises(UserError):
        train(photos, recipe="boxes", output=tmp_path / "b")


def test_a_classifier_gives_no_boxes(make_run: Any, photos: Path, tmp_path: Path) -> None:
    classifier = make_run(tmp_path / "run", photos, ("disc", "square", "stripes"), {})
    with pytest.raises(UserError, match="finds no boxes"):
        predict(classifier, photos / "val", coco=tmp_path / "x.json")
    with pytest.raises(UserError, match="raw is for detectors"):
        export(classifier, raw=True, output=tmp_path / "x.onnx", data=photos)


def test_boxes_that_would_teach_nothing_are_refused(boxes: Path, tmp_path: Path) -> None:
    told = json.loads((boxes / "train.json").read_text(encoding="utf-8"))
    told["annotations"][0]["bbox"][2] = float("nan")
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "train.json").write_text(json.dumps(told), encoding="utf-8")
    (tmp_path / "boxes" / "train").symlink_to(boxes / "train")
    with pytest.raises(UserError, match=r"(?s)NaN|nan"):
        train(tmp_path / "boxes", output=tmp_path / "run", progress=False, **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_a_val_split_without_boxes_is_said_before_training(boxes: Path, tmp_path: Path) -> None:
    (tmp_path / "boxes").mkdir()
    for split in ("train", "val"):
        told = json.loads((boxes / f"{split}.json").read_text(encoding="utf-8"))
        told["annotations"] = told["annotations"] if split == "train" else []
        (tmp_path / "boxes" / f"{split}.json").write_text(json.dumps(told), encoding="utf-8")
        (tmp_path / "boxes" / split).symlink_to(boxes / split)
    with pytest.raises(UserError, match="none of the pictures to validate on can be used"):
        train(tmp_path / "boxes", output=tmp_path / "run", check=False, progress=False, **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_labels_with_errors_are_never_trained_nor_judged_on(
    run: Run, boxes: Path, tmp_path: Path
) -> None:
    (tmp_path / "boxes").mkdir()
    for split in ("train", "val"):
        told = json.loads((boxes / f"{split}.json").read_text(encoding="utf-8"))
        told["annotations"][0]["category_id"] = 99
        (tmp_path / "boxes" / f"{split}.json").write_text(json.dumps(told), encoding="utf-8")
        (tmp_path / "boxes" / split).symlink_to(boxes / split)
    with pytest.raises(UserError, match=r"(?s)99.*mobilevit doctor"):
        train(tmp_path / "boxes", output=tmp_path / "run", check=False, **SETTINGS)
    with pytest.raises(UserError, match=r"(?s)99.*mobilevit doctor"):
        evaluate(run.folder, tmp_path / "boxes")


def test_one_picture_is_too_few(boxes: Path, tmp_path: Path) -> None:
    told = json.loads((boxes / "train.json").read_text(encoding="utf-8"))
    first = told["images"][0]["id"]
    told["annotations"] = [a for a in told["annotations"] if a["image_id"] == first]
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "train.json").write_text(json.dumps(told), encoding="utf-8")
    (tmp_path / "boxes" / "val.json").write_bytes((boxes / "val.json").read_bytes())
    for split in ("train", "val"):
        (tmp_path / "boxes" / split).symlink_to(boxes / split)
    with pytest.raises(UserError, match="1 pictures to train on are too few"):
        train(tmp_path / "boxes", output=tmp_path / "run", progress=False, **SETTINGS)


def test_a_file_of_results_is_not_overwritten(artefact: Path, boxes: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"mine\.json: it exists"):
        predict(artefact, boxes / "val", coco=tmp_path / "mine.json")
    assert (tmp_path / "mine.json").read_text(encoding="utf-8") == "{}"


def test_it_is_measured_at_other_sizes_too(run: Run, boxes: Path) -> None:
    found = evaluate(run.folder, boxes, robustness=True).robustness
    assert found is not None
    assert found.metric == "map"
    assert len(found.sizes) >= 2


def test_the_data_need_not_come_first(boxes: Path, run: Run) -> None:
    from mobilevit.cli import _train

    for words in ([str(boxes)], ["--weights", str(run.folder), str(boxes), "--epochs", "2"]):
        parameters = signature(_train(["train", *words])).parameters
        assert parameters["recipe"].default == "boxes"


def test_a_network_on_an_accelerator_finds_its_anchors_there() -> None:
    network = create_model("mobilevit_xxs", num_classes=0)
    detector = SSDLite(network, SSDLiteConfig(num_classes=3)).to("meta")
    contract = Contract("detection", ("a", "b"), (64, 64), None, output="candidates")
    deployed = get_task("detection").deploy(detector, contract, "fp32")
    assert deployed(torch.empty(1, 3, 64, 64, device="meta")).shape[2] == 6
