from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mobilevit.data.folders import read_folders
from mobilevit.deployment.preprocess import load_batch
from mobilevit.deployment.runtimes import load_predictor
from mobilevit.errors import UserError
from mobilevit.verbs.evaluate import evaluate


def test_it_is_the_share_of_right_answers(run, photos):
    predictor = load_predictor(run)
    paths = sorted(photos.glob("val/*/*.jpg"))
    answers = predictor.run(load_batch(paths, predictor.contract)).argmax(axis=1)
    names = np.array(predictor.contract.class_names)[answers]
    result = evaluate(run, photos, batch_size=5)
    expected = np.mean([name == path.parent.name for name, path in zip(names, paths, strict=True)])
    assert result.metrics["top1"] == pytest.approx(expected)
    assert result.metrics["samples"] == 24
    assert result.metrics["per_class"]["disc"]["support"] == 8
    assert result.metrics["per_class"]["moon"]["recall"] is None
    assert np.sum(result.metrics["confusion"]) == 24


def test_a_checkpoint_and_its_artefact_are_equally_good(run, artefact, photos):
    ours, theirs = evaluate(run, photos).metrics, evaluate(artefact, photos, threads=1).metrics
    assert ours["confusion"] == theirs["confusion"]
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)


@pytest.mark.parametrize(("split", "samples"), [("val", 24), ("train", 48), ("all", 72)])
def test_splits(run, photos, split, samples):
    assert evaluate(run, photos, split=split).metrics["samples"] == samples


def test_a_foreign_folder_without_a_split_is_evaluated_whole(run, photos):
    result = evaluate(run, photos / "val")
    assert result.metrics["samples"] == 24
    assert result.split == "all of a folder without a split"
    with pytest.raises(UserError, match="which pictures are to train on is not known"):
        evaluate(run, photos / "val", split="train")


def test_in_the_folder_it_was_trained_on_only_what_was_held_out(make_run, photos, tmp_path):
    data = photos / "train"
    recipe = {"data": {"val_fraction": 0.4}}
    run = make_run(tmp_path / "run", data, ("disc", "square", "stripes"), recipe)
    folders = read_folders(data, 0.4)
    assert evaluate(run, data).metrics["samples"] == len(folders.val)
    assert evaluate(run, data, split="train").metrics["samples"] == len(folders.train)
    assert evaluate(run, data, split="all").metrics["samples"] == 48


def test_a_class_that_the_network_does_not_know(run, photos, tmp_path):
    shutil.copytree(photos / "val" / "disc", tmp_path / "data" / "disc")
    shutil.copytree(photos / "val" / "square", tmp_path / "data" / "squares")
    with pytest.raises(
        UserError, match=r"class 'squares'.*Did you mean 'square'.*It knows: stripes"
    ):
        evaluate(run, tmp_path / "data")


def test_unreadable_pictures_are_named(run, photos, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(photos / "val", data)
    (data / "disc" / "0.jpg").write_bytes(b"x")
    result = evaluate(run, data)
    assert result.metrics["samples"] == 23
    assert list(result.unreadable) == [str(data / "disc" / "0.jpg")]
    for path in data.glob("*/*.jpg"):
        path.write_bytes(path.name.encode())
    with pytest.raises(UserError, match="none of its 24 pictures can be read"):
        evaluate(run, data)


def test_it_is_written_and_printed(run, photos, tmp_path):
    output = tmp_path / "new" / "result.json"
    result = evaluate(run, photos, output=output)
    assert json.loads(output.read_text()) == json.loads(json.dumps(result.to_dict()))
    assert result.to_dict()["images_per_second"] > 0
    text = StringIO()
    result.print(Console(file=text, width=200))
    for word in ("top1", "disc", "moon", "recall", "24 pictures"):
        assert word in text.getvalue()
    for there in (output, output.parent):
        with pytest.raises(UserError, match="it exists"):
            evaluate(run, photos, output=there)
    with pytest.raises(UserError, match="a file is in the way"):
        evaluate(tmp_path / "no model", photos, output=output / "x.json")
    assert json.loads(output.read_text()) == json.loads(json.dumps(result.to_dict()))


def test_what_it_refuses(run, photos, tmp_path: Path):
    with pytest.raises(UserError, match=r"unknown split 'vall'\. Did you mean 'val'"):
        evaluate(run, photos, split="vall")
    with pytest.raises(UserError, match="batch_size is 0"):
        evaluate(run, photos, batch_size=0)
    with pytest.raises(UserError, match="no such folder"):
        evaluate(run, tmp_path / "nowhere")


def test_synonyms_and_spellings_are_the_same_class(make_run, run, photos, tmp_path):
    """Published weights know "disc, disk"; folders are called as people call them."""
    names = ("stripes, bars", "moon", "full Disc, disc", "big square, SQUARE")
    other = make_run(tmp_path / "run", None, names, {})
    ours = evaluate(run, photos).metrics
    assert evaluate(other, photos).metrics["confusion"] == ours["confusion"]

    twice = make_run(tmp_path / "twice", None, ("disc, bars", "stripes, bars", "square"), {})
    (photos_ := tmp_path / "photos").mkdir()
    for old, new in (("disc", "disc"), ("stripes", "bars"), ("square", "square")):
        shutil.copytree(photos / "val" / old, photos_ / new)
    with pytest.raises(UserError, match="class 'bars'"):
        evaluate(twice, photos_)
