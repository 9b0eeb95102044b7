"""The command line: what it shows, what it answers, and the five commands on a tiny data set."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mobilevit.cli import main
from mobilevit.training.recipe import Multiple, load_recipe

VERBS = (
    *("train", "evaluate", "predict", "export", "convert", "benchmark"),
    *("sensitivity", "starter", "compare", "doctor", "models", "demo"),
)
TINY = ("--epochs", "1", "--size", "32", "--sizes", "--workers", "0", "--device", "cpu")
FAST = ("--batch-size", "8", "--precision", "fp32", "--no-progress")

Command = Callable[..., tuple[int, str, str]]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Return the exit code and what was printed."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as leaving:  # --help, and what the parser refuses
        code = int(leaving.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def command(capsys, monkeypatch) -> Command:
    monkeypatch.setenv("COLUMNS", "110")
    return lambda *arguments: run(capsys, *arguments)


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that the command line made."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", str(photos), "--output", str(folder), *TINY, *FAST]) == 0
    return folder


@pytest.fixture(scope="module")
def artefact(trained: Path) -> Path:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["export", str(trained)]) == 0
    assert "Next: mobilevit predict" in printed.getvalue()
    assert (trained / "best.onnx.json").is_file()
    return trained / "best.onnx"


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_help_lists_every_verb(command, words):
    code, out, _ = command(*words)
    assert code == 0
    for verb in VERBS:
        assert re.search(rf"\W {verb} +[A-Z]", out)


@pytest.mark.parametrize("verb", VERBS)
def test_help_explains_every_option_and_shows_its_default(command, verb):
    code, out, err = command(verb, "--help")
    assert (code, err) == (0, "")
    assert "--json" in out
    entries = re.split(r"\n\W{1,3}(?=--[a-z])", out.partition("-h, --help")[2])[1:]
    assert len(entries) >= (40 if verb == "train" else 2)
    for entry in entries:
        words = " ".join(entry.replace("│", " ").split())
        assert re.search(r"\w\S?\. \((default: [^)]+|required)\)", words), words


def test_a_recipe_changes_the_defaults(command, tmp_path):
    def epochs(*arguments: object) -> int:
        _, out, _ = command("train", *arguments, "--help")
        found = re.search(r"--epochs INT\s.*?\(default: (\d+)\)", out, re.DOTALL)
        assert found
        return int(found[1])

    assert epochs() == load_recipe("photos").training.epochs
    other = load_recipe("digits").training.epochs
    assert epochs("--recipe", "digits") == epochs("--recipe=digits") == other != epochs()
    mine = tmp_path / "mine.yaml"
    mine.write_text("training:\n  epochs: 77\n", encoding="utf-8")
    assert epochs("--recipe", mine) == 77


def test_weights_change_the_defaults_too(command):
    def recipe(*arguments: object) -> str:
        _, out, _ = command("train", *arguments, "--help")
        found = re.search(r"--head-lr FLOAT\[x\]\s.*?\(default: (\w+)\)", out, re.DOTALL)
        assert found
        return found[1]

    assert recipe() == recipe("--weights", "run", "--recipe", "photos") == "1x"
    assert recipe("--weights", "run") == recipe("--weights=run") == "10x"


def test_finetuning(command, photos, trained, tmp_path):
    """The two spellings of a multiple mean the same, and all other settings are finetune's."""
    recipes = []
    for multiple in ("20x", "20"):
        folder = tmp_path / multiple
        options = ("--output", folder, "--freeze", "10", "--head-lr", multiple)
        assert command("train", photos, "--weights", trained, *options, *TINY, *FAST)[0] == 0
        recipes.append(load_recipe(folder / "recipe.yaml"))
    assert recipes[0] == recipes[1]
    optimizer, expected = recipes[0].optimizer, load_recipe("finetune").optimizer
    assert optimizer == replace(expected, freeze=10, head_lr=Multiple(20))
    assert recipes[0].model.model == "mobilevit_xxs"


def test_a_multiple_is_a_number(command):
    code, out, err = command("train", "photos", "--head-lr", "10y")
    assert (code, out) == (2, "")
    assert "--head-lr" in err
    assert "10y" in err


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (("train", "photos", "--epoch", "3"), "--epochs"),
        (("train", "photos", "--batchsize", "3"), "--batch-size"),
        (("evaluate", "run", "photos", "--splt", "val"), "--split"),
        (("predict", "run", "photo.jpg", "--thread", "1"), "--threads"),
        (("export", "run", "--dynamic", "--json"), "--dynamic-batch"),
        (("export", "run", "--format", "onx"), "onnx"),
        (("benchmark", "run", "--batch-size", "3"), "--batch-sizes"),
        (("doctor", "--stric"), "--strict"),
        (("trian", "photos"), "train"),
    ],
)
def test_an_unknown_word_is_answered_with_the_right_one(command, wrong, right):
    code, out, err = command(*wrong)
    assert (code, out) == (2, "")
    assert re.search(rf"(?<![\w-]){right}(?![\w-])", err), err


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("train", "photos", "--recipe", "digit"), "Did you mean 'digits'"),
        (("train", "photos", "--recipe", "mine.yaml"), "mine.yaml: there is no such recipe file"),
        (("train", "no-photos"), "no-photos"),
        (("train",), "needs a folder of pictures, or resume=RUN"),
        (("train", "--resume", "no-run"), "no last.safetensors in it to resume from"),
        (("evaluate", "no-run", "photos"), "no-run: there is no such model"),
        (("predict", "no-run", "a.jpg"), "a.jpg"),
        (("export", "no-run"), "no-run: there is no such model"),
        (("benchmark", "mobilevit_xx"), "Did you mean 'mobilevit_xxs'"),
        (("models", "mobilevit_m"), "Did you mean 'mobilevit_"),
        (("models", "--size", "0"), "size is 0; it must be from 1 to 16384"),
        (("compare", "photos", "--model", "mobilevit_xxs"), "model is another in each entry"),
        (("compare", "photos", "--models", "a", "--study", "ablations"), "leave one of the two"),
        (("export", "run", "--float-blocks"), "--float-blocks needs names"),
        (("predict", "", "a.jpg"), "one of the words is empty"),
        (("train", ""), "one of the words is empty"),
        (("train", "photos", "--output", ""), "one of the words is empty"),
        (("benchmark", "run", "--formats"), "--formats names formats, or all"),
        (("compare", "photos", "--models"), "--models needs names"),
        (("compare", "photos", "--only"), "--only needs names"),
    ],
)
def test_an_error_names_what_and_the_way_out(command, tmp_path, monkeypatch, wrong, says):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*wrong)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert says in " ".join(err.split())
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_setting_out_of_range_is_refused_before_anything_is_written(
    command, photos, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, _, err = command("train", photos, "--epochs", "0")
    assert code == 2
    assert "epochs is 0, it must be at least 1" in err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(command, photos, trained):
    before = (trained / "best.safetensors").read_bytes()
    code, _, err = command("train", photos, "--output", trained, *TINY, *FAST)
    assert code == 2
    assert f"--resume {trained}" in err
    assert (trained / "best.safetensors").read_bytes() == before


def test_interruption(command, monkeypatch):
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mobilevit.verbs.models.models", interrupted)
    assert command("models") == (130, "", "interrupted\n")


def test_a_disk_that_is_full_is_no_traceback(command, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "best.onnx")

    monkeypatch.setattr("mobilevit.verbs.models.models", full)
    assert command("models") == (2, "", "error: best.onnx: No space left on device\n")


def test_a_file_whose_name_is_no_utf8_is_answered(photos, artefact, tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    shutil.copy(next(photos.glob("val/*/*.jpg")), name)
    for options in ((), ("--json",)):
        program = [sys.executable, "-m", "mobilevit", "predict", artefact, name, *options]
        utf8 = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
        done = subprocess.run(program, capture_output=True, env=utf8, check=False)
        assert done.returncode == 0, done.stderr
        assert b"caf\\udce9.jpg" in done.stdout
        done.stdout.decode()


def test_train_leaves_the_run_folder(trained):
    names = {path.name for path in trained.iterdir()}
    assert names >= {
        *("best.safetensors", "last.safetensors", "recipe.yaml", "run.json", "metrics.jsonl"),
        *("tensorboard", "batch.png", "curves.png", "confusion.png", "mistakes.png"),
    }
    recipe = load_recipe(trained / "recipe.yaml")
    assert (recipe.training.epochs, recipe.data.size, recipe.data.sizes) == (1, 32, ())


@pytest.mark.parametrize(
    ("sizes", "expected"), [((), (32, 64)), (("--sizes", "96", "128", "160"), (96, 128, 160))]
)
def test_the_sizes_to_train_on_follow_the_size(command, photos, tmp_path, sizes, expected):
    """They are 96, 128 and 160 pixels around 128 in the recipe."""
    short = ("--epochs", "1", "--workers", "0", "--device", "cpu", *FAST)
    code, _, _ = command(
        "train", photos, "--output", tmp_path / "run", *short, "--size", "48", *sizes
    )
    assert code == 0
    recipe = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert (recipe.data.size, recipe.data.sizes) == (48, expected)


def test_of_several_processes_one_speaks(command, photos, tmp_path, monkeypatch):
    """As torchrun starts them: each has a RANK."""
    monkeypatch.setenv("RANK", "1")
    code, out, _ = command("train", photos, "--output", tmp_path / "run", *TINY, *FAST, "--json")
    assert (code, out) == (0, "")


def test_train_for_machines(command, photos, tmp_path):
    folder = tmp_path / "run"
    code, out, _ = command("train", photos, "--output", folder, *TINY, *FAST, "--json")
    assert code == 0
    result = json.loads(out)
    assert result["folder"] == str(folder)
    assert 0 <= result["metrics"]["top1"] <= 1


def test_no_answer_is_told_by_the_exit_code(command, artefact, tmp_path):
    (tmp_path / "a.jpg").write_text("no picture")
    code, out, _ = command("predict", artefact, tmp_path / "a.jpg")
    assert code == 1
    assert "left out, it is not a picture" in out


def test_the_next_command_can_be_pasted(command, trained, tmp_path):
    folder = tmp_path / "my run"
    shutil.copytree(trained, folder)
    _, out, _ = command("export", folder)
    assert f"Next: mobilevit predict '{folder / 'best.onnx'}' PICTURES\n" in out


def test_evaluate_export_predict_agree(command, photos, trained, artefact):
    results = []
    for model in (trained, artefact):
        code, out, _ = command("evaluate", model, photos, "--json", "--threads", "1")
        assert code == 0
        results.append(json.loads(out)["metrics"])
    assert results[0]["top1"] == results[1]["top1"]
    assert results[0]["samples"] == 24
    picture = photos / "val" / "disc" / "0.jpg"
    answers = []
    for model in (trained, artefact):
        code, out, _ = command("predict", model, picture, "--top", "2", "--json")
        assert code == 0
        (prediction,) = json.loads(out)["predictions"]
        answers.append([label["name"] for label in prediction["labels"]])
    assert answers[0] == answers[1]
    assert len(answers[0]) == 2


def test_what_people_read(command, photos, artefact, tmp_path):
    code, out, _ = command("evaluate", artefact, photos, "--output", tmp_path / "result.json")
    assert code == 0
    assert "top1" in out
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["split"]
    code, out, _ = command("predict", artefact, photos / "val" / "disc", "--top", "1")
    assert (code, len(out.splitlines())) == (0, 8)


def test_benchmark_and_models_for_machines(command, artefact):
    code, out, _ = command(
        "benchmark", artefact, "--repeats", "2", "--batch-sizes", "1", "2", "--json"
    )
    assert code == 0
    assert [timing["batch_size"] for timing in json.loads(out)["timings"]] == [1, 2]
    code, out, _ = command("models", "*_xxs", "--size", "128", "--json")
    assert code == 0
    (row,) = json.loads(out)["models"]
    assert row["parameters"] == 1_272_024


def test_options_may_stand_anywhere_among_the_words(command, photos, artefact):
    first, second = (photos / "val" / "disc" / name for name in ("0.jpg", "1.jpg"))
    asked = ("predict", artefact, first, second, "--top", "2", "--json")
    mixed = ("predict", "--json", artefact, first, "--top", "2", second)
    ended = ("predict", "--top=2", "--json", "--", artefact, first, second)
    answers = [json.loads(command(*words)[1])["predictions"] for words in (asked, mixed, ended)]
    assert [len(answer[1]["labels"]) for answer in answers] == [2, 2, 2]
    assert answers[0] == answers[1] == answers[2]
    few = ("--repeats", "2", "--warmup", "0")
    code, out, _ = command("benchmark", *few, artefact, "--json", artefact, "--threads", "1", "2")
    assert code == 0
    assert [timing["threads"] for timing in json.loads(out)["timings"]] == [1, 1, 2, 2]


def test_resume_goes_on_with_its_own_settings_only(command, trained):
    for other in (("--epochs", "2"), ("--recipe", "digits"), ("--output", "x"), ("--weights", "x")):
        code, _, err = command("train", "--resume", trained, *other)
        assert code == 2
        assert "--resume goes on with the run's own recipe" in err
    weights = (trained / "best.safetensors").read_bytes()
    assert command("train", "--resume", trained, "--no-progress")[0] == 0  # it is done already
    assert (trained / "best.safetensors").read_bytes() == weights


def test_doctor_exit_codes(command, photos, tmp_path):
    assert command("doctor")[0] == 0
    code, out, _ = command("doctor", photos, "--json")
    assert code == 0
    assert json.loads(out)["ok"] is True
    warned = shutil.copytree(photos, tmp_path / "photos")
    (warned / "train" / "disc" / "copy.jpg").write_bytes(
        (warned / "val" / "disc" / "0.jpg").read_bytes()
    )
    code, out, _ = command("doctor", warned)
    assert code == 0
    assert "warning" in out
    assert command("doctor", warned, "--strict")[0] == 1
    assert command("doctor", tmp_path / "nowhere")[0] == 1


@pytest.mark.parametrize("arguments", [[], ["--help"], ["train", "--help"], ["predict", "--help"]])
def test_help_and_import_need_no_torch(arguments):
    code = (
        "import sys\n"
        "import mobilevit\n"
        "from mobilevit.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:]) if sys.argv[1:] else None\n"
        "except SystemExit as leaving:\n"
        "    assert not leaving.code\n"
        "assert not {'torch', 'torchvision', 'onnxruntime', 'matplotlib'} & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_as_a_program():
    command = [sys.executable, "-m", "mobilevit"]
    done = subprocess.run([*command, "models", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown model 'x'")


def test_json_is_json_in_any_encoding_of_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bee😀"
    folder.mkdir()
    for encoding in ("cp1252", "utf-8"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        assert main(["doctor", str(folder), "--json"]) == 1
        sys.stdout.flush()
        text = raw.getvalue().decode(encoding)
        assert "bee😀" in json.dumps(json.loads(text), ensure_ascii=False)
