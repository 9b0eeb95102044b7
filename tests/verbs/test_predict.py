from __future__ import annotations

import json
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from mobilevit.errors import UserError
from mobilevit.verbs.predict import predict, split_words


def test_a_checkpoint_and_its_artefact_say_the_same(run, artefact, photos):
    paths = sorted(photos.glob("val/*/*.jpg"))[:5]
    ours, theirs = predict(run, paths, batch_size=2), predict(artefact, paths, threads=1)
    assert len(ours) == len(theirs) == 5
    for a, b, path in zip(ours, theirs, paths, strict=True):
        assert a.path == b.path == str(path)
        assert [label.name for label in a.labels] == [label.name for label in b.labels]
        assert len(a.labels) == 4  # of 5 asked for
        assert sum(label.probability for label in a.labels) == pytest.approx(1)
        for mine, its in zip(a.labels, b.labels, strict=True):
            assert mine.probability == pytest.approx(its.probability, abs=1e-4)
    assert ours[0] == next(iter(ours))
    assert ours[1:3] == (ours[1], ours[2])


def test_folders_and_top(run, photos):
    found = predict(run, [photos / "val"], top=1)
    assert len(found) == 24
    assert {len(item.labels) for item in found} == {1}
    assert len(predict(run, photos / "val" / "disc")) == 8  # one path is as good as a list


def test_an_unreadable_picture_stops_nothing(artefact, photos, tmp_path):
    broken = tmp_path / "[bold]broken.jpg"
    broken.write_bytes(b"x")
    found = predict(artefact, [broken, photos / "val" / "disc" / "0.jpg"])
    assert len(found) == 1
    assert list(found.unreadable) == [str(broken)]
    json.dumps(found.to_dict())
    text = StringIO()
    found.print(Console(file=text, width=50))
    lines = text.getvalue().splitlines()
    assert len(lines) == 2
    assert "0.jpg: " in lines[0]
    assert "%" in lines[0]
    assert "[bold]broken.jpg: left out" in lines[1]


def test_nothing_readable_is_an_empty_result(artefact, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert len(predict(artefact, [tmp_path])) == 0


def test_photos_that_are_not_read_are_named(artefact, photos, tmp_path):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "notes.txt").write_text("mine")
    shutil.copy(photos / "val" / "disc" / "0.jpg", tmp_path)
    for found in (predict(artefact, tmp_path), predict(artefact, f"{tmp_path}/*")):
        assert [Path(item.path).name for item in found] == ["0.jpg"]
        assert list(found.unreadable) == [str(tmp_path / "IMG_1.HEIC")]
    assert split_words([tmp_path / "IMG_1.HEIC"])[0] is None


def test_what_it_refuses(run, photos):
    with pytest.raises(UserError, match="top is 0"):
        predict(run, [photos], top=0)
    with pytest.raises(UserError, match="Did you mean 'disc'"):
        predict(run, [photos / "val" / "dics"])


def test_without_a_model_the_one_that_comes_with_the_package_answers(shared_data, capsys):
    tench = sorted((shared_data / "imagenette" / "val" / "tench").iterdir())[0]
    for arguments in ({"model": tench}, {"model": str(tench)}, {"pictures": [tench]}):
        found = predict(**arguments)
        assert Path(found.model).name == "imagenette_xxs.safetensors"
        assert found[0].labels[0].name == "tench"
        told = capsys.readouterr().err
        assert told.startswith("imagenette_xxs answers, for no model is named. It knows 10 classes")
        assert "golf_ball" in told
    assert predict("imagenette", tench)[0] == found[0]
    assert capsys.readouterr().err == ""


def test_the_first_word_is_a_model_unless_it_can_only_be_pictures(run, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    Path("imagenette").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save("no-ending", "png")
    Path("best.mlpackage").mkdir()
    pictures = (photos.name, "photos/*", "there/is-none.jpg", "./imagenette")
    for word in (*pictures, Path("imagenette")):
        assert split_words([word]) == (None, [word])
        assert split_words([word, "a.jpg"]) == (None, [word, "a.jpg"])
    models = (str(run), "x.onnx", "apple/mobilevit-small", "imagenette", "imagenette_xxs", "typo")
    for word in (*models, run, run / "best.safetensors", "no-ending", "best.mlpackage"):
        assert split_words([word, "a.jpg", "b"]) == (word, ["a.jpg", "b"])
        with pytest.raises(UserError, match=r"no pictures are named after it.*\[MODEL\] PICTURES"):
            split_words([word])
    with pytest.raises(UserError, match=r"\./imagenette for the folder"):
        split_words(["imagenette"])
    with pytest.raises(UserError, match="Did you mean 'photos"):
        split_words(["phtos"])


def test_pictures_must_be_named(run):
    with pytest.raises(UserError, match="the list of them is empty"):
        predict(run, [])
    with pytest.raises(UserError, match="predict needs pictures"):
        predict()
    with pytest.raises(UserError, match="no pictures are named after it"):
        predict(run)


def test_with_an_artefact_no_verb_needs_torch(artefact: Path, photos: Path):
    code = (
        "import sys\n"
        "from mobilevit.verbs.benchmark import benchmark\n"
        "from mobilevit.verbs.evaluate import evaluate\n"
        "from mobilevit.verbs.predict import predict\n"
        "model, photos = sys.argv[1:]\n"
        "found = predict(model, [photos + '/val/disc'])\n"
        "result = evaluate(model, photos)\n"
        "speed = benchmark([model], repeats=1, warmup=0)\n"
        "print(len(found), result.metrics['samples'], len(speed.timings))\n"
        "assert not {'torch', 'onnx', 'torchvision'} & sys.modules.keys()\n"
    )
    command = [sys.executable, "-c", code, str(artefact), str(photos)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["8", "24", "1"], done.stderr


def test_the_verbs_are_light_to_import():
    heavy = "{'torch', 'numpy', 'PIL', 'onnxruntime', 'rich'}"
    code = (
        "import sys, mobilevit.verbs.predict, mobilevit.verbs.evaluate, mobilevit.verbs.export\n"
        f"import mobilevit.verbs.benchmark\nprint({heavy} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
