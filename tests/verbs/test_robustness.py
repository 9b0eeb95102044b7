from __future__ import annotations

import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from torch import nn

from mobilevit.data.corruptions import STRENGTHS, corrupt
from mobilevit.deployment.preprocess import load_batch
from mobilevit.deployment.runtimes import load_predictor
from mobilevit.deployment.runtimes.pytorch import TorchPredictor
from mobilevit.errors import UserError
from mobilevit.verbs.evaluate import evaluate
from mobilevit.verbs.labelled import find_labelled
from mobilevit.verbs.robustness import Robustness, measure_robustness, robustness


@pytest.fixture(scope="module")
def measured(run: Path, photos: Path) -> Robustness:
    return robustness(run, photos, sizes=(48, 64, 96), batch_size=7, threads=1)


def test_it_is_the_share_of_right_answers_under_each_corruption(measured, run, photos):
    predictor = load_predictor(run)
    paths = sorted(photos.glob("val/*/*.jpg"))
    names = predictor.contract.class_names
    labels = np.array([names.index(path.parent.name) for path in paths])
    images = load_batch(paths, predictor.contract)

    def share(images: np.ndarray) -> float:
        return float((predictor.run(images).argmax(axis=1) == labels).mean())

    assert measured.samples == 24
    assert measured.clean == pytest.approx(share(images))
    assert list(measured.sizes) == [48, 64, 96]
    assert measured.sizes[64] == measured.clean
    assert measured.sizes_left_out == {}
    assert list(measured.corrupted) == list(STRENGTHS)
    for name in STRENGTHS:
        for strength in (1, 5):
            worse = [
                corrupt(image, name, strength, path.relative_to(photos).as_posix())
                for image, path in zip(images, paths, strict=True)
            ]
            assert measured.corrupted[name][strength - 1] == pytest.approx(share(np.stack(worse)))


class Recorder(TorchPredictor):
    """Keeps what it is run on."""

    def __init__(self, predictor: TorchPredictor) -> None:
        super().__init__(predictor.network, predictor.contract, predictor.path)
        self.seen: list[np.ndarray] = []

    def run(self, images: np.ndarray) -> np.ndarray:
        self.seen.append(images)
        return super().run(images)


def test_what_the_network_is_given(run, photos):
    """The run's contract is 64 px out of 72; at 96 px that is 96 out of 108."""
    predictor = Recorder(load_predictor(run))
    labelled = find_labelled(predictor, photos)
    measure_robustness(predictor, labelled, sizes=(96,))
    clean, *corrupted = predictor.seen[:21]
    assert np.array_equal(clean, load_batch(labelled.paths, predictor.contract))
    conditions = [(name, strength) for name in STRENGTHS for strength in range(1, 6)]
    for images, condition in zip(corrupted, conditions, strict=True):
        for image, before, path in zip(images, clean, labelled.paths, strict=True):
            name = path.relative_to(photos).as_posix()
            assert np.array_equal(image, corrupt(before, *condition, name))
    larger = replace(predictor.contract, size=(96, 96), resize=108)
    assert np.array_equal(predictor.seen[-1], load_batch(labelled.paths, larger))


def test_a_network_of_one_size_is_not_run_at_others(run, photos):
    contract = load_predictor(run).contract
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4))
    predictor = TorchPredictor(network, contract, run)
    labelled = find_labelled(predictor, photos)
    found = measure_robustness(predictor, labelled, sizes=(32, 64), limit=3)
    assert found.sizes == {64: found.clean}
    assert list(found.sizes_left_out) == [32]
    assert "does not run on 32 × 32" in found.sizes_left_out[32]


def test_an_artefact_is_as_robust_and_has_one_size(measured, artefact, photos):
    found = robustness(artefact, photos, sizes=(48, 64, 96), threads=1)
    assert found.corrupted == measured.corrupted
    assert found.sizes == {64: measured.clean}
    assert list(found.sizes_left_out) == [48, 96]
    assert "takes 64 × 64 pixels only" in found.sizes_left_out[48]


def test_mean_and_relative():
    shares = {"noise": (0.5, 0.5, 0.4, 0.3, 0.3), "blur": (0.8, 0.7, 0.6, 0.5, 0.4)}
    found = Robustness("top1", 0.8, shares, {}, {}, 100, {})
    assert found.mean == pytest.approx(0.5)
    assert found.relative == pytest.approx(0.625)
    assert Robustness("top1", 0.0, shares, {}, {}, 100, {}).relative is None


def test_a_limit_takes_part_of_the_pictures(run, photos):
    assert robustness(run, photos, limit=6, sizes=()).samples == 6


def test_unreadable_pictures_are_named(run, photos, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(photos / "val", data)
    (data / "disc" / "0.jpg").write_bytes(b"x")
    found = robustness(run, data, sizes=())
    assert found.samples == 23
    assert list(found.unreadable) == [str(data / "disc" / "0.jpg")]
    for path in data.glob("*/*.jpg"):
        path.write_bytes(path.name.encode())
    with pytest.raises(UserError, match="none of its 24 pictures can be read"):
        robustness(run, data)


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"batch_size": 0}, {"sizes": (64, -1)}])
def test_numbers_that_it_refuses(run, photos, wrong):
    with pytest.raises(UserError, match=r"(limit|batch_size|size) is (0|-1); it must be 1"):
        robustness(run, photos, **wrong)


def test_evaluate_measures_prints_and_writes_it(run, photos, tmp_path, measured):
    output = tmp_path / "result.json"
    result = evaluate(run, photos, output=output, robustness=True)
    told = json.loads(output.read_text(encoding="utf-8"))["robustness"]
    assert told["corrupted"] == {name: list(s) for name, s in measured.corrupted.items()}
    assert (told["clean"], told["samples"]) == (result.metrics["top1"], 24)
    assert list(told["sizes"]) == ["48", "64", "80"]
    text = StringIO()
    result.print(Console(file=text, width=200))
    for word in ("clean", *STRENGTHS, "24 corrupted pictures", "resized: 48 px"):
        assert word in text.getvalue()


def test_evaluate_alone_does_without_it(run, photos):
    assert evaluate(run, photos).to_dict()["robustness"] is None
