"""What the README tells its readers to type works, on a tiny data set called ``photos``.

The code blocks run in order, in one folder: python blocks as programs of their own, of bash blocks
the lines that start with ``mobilevit``. Two things are changed, to save time: a number of epochs
becomes 1, and commands about anything else than ``photos`` are parsed and not run.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mobilevit.cli import main

README = Path(__file__).parents[1] / "README.md"
VERBS = (
    *("train", "evaluate", "predict", "export", "convert", "benchmark"),
    *("sensitivity", "starter", "compare", "doctor", "models", "demo"),
)
OTHERS = {"export": ("export_all",), "benchmark_formats": ("benchmark_formats",)}
"""What else the commands call, by its module."""


def code_blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """Return the arguments of every ``mobilevit`` command of the bash blocks."""
    lines = "\n".join(code_blocks("bash")).replace("\\\n", " ").splitlines()
    words = (shlex.split(line.removeprefix("$ "), comments=True) for line in lines)
    return [line[1:] for line in words if line[:1] == ["mobilevit"]]


def shortened(arguments: list[str]) -> list[str]:
    """Train for one epoch, compare one training each."""
    if arguments[0] == "compare":
        arguments = [*arguments, "--seeds", "1", "--no-measure"]
    elif arguments[0] != "train" or "--resume" in arguments:
        return arguments
    if "--epochs" in arguments:
        place = arguments.index("--epochs")
        arguments = arguments[:place] + arguments[place + 2 :]
    return [*arguments, "--epochs", "1"]


@pytest.fixture(scope="module")
def folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``photos/`` in it, where the reader stands."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(photos, folder / "photos")
    shutil.copy(next(photos.glob("val/*/*.jpg")), folder / "photo.jpg")
    return folder


def test_there_is_something_to_type():
    assert len(code_blocks("python")) >= 1
    assert {"train", "evaluate", "export", "predict"} <= {words[0] for words in commands()}


def test_every_command_is_parsed(monkeypatch):
    for arguments in commands():
        for module, names in [*((verb, (verb,)) for verb in VERBS), *OTHERS.items()]:
            home = importlib.import_module(f"mobilevit.verbs.{module}")
            for name in names:
                monkeypatch.setattr(home, name, lambda *_, **__: Nothing())
        assert main(arguments) == 0, arguments


class Nothing:
    """What a verb returns that did not run."""

    ok = True
    findings = ()

    def print(self, console: object) -> None: ...

    def to_dict(self) -> dict[str, object]:
        return {}


def test_the_commands_about_photos_run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    ran = []
    for arguments in commands():
        if any("photos" in word for word in arguments[1:]):
            if {"--format", "--formats", "starter"} & set(arguments):
                code, out, err = as_a_program(arguments)
            else:
                code, (out, err) = main(shortened(arguments)), capsys.readouterr()
            assert code == 0, err
            assert out, f"mobilevit {shlex.join(arguments)} printed nothing"
            ran.append(arguments[0])
    assert {"train", "evaluate", "export", "predict"} <= set(ran)


def as_a_program(arguments: list[str]) -> tuple[int, str, str]:
    """Run a command that brings converters with it, which this process can do without."""
    command = [sys.executable, "-m", "mobilevit", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", range(len(code_blocks("python"))))
def test_the_python_runs(folder, number):
    code = re.sub(r"\bepochs\s*=\s*\d+", "epochs=1", code_blocks("python")[number])
    if "train(" in code:
        assert "epochs=1" in code, "a test of 40 epochs would take too long: name the epochs"
    program = folder / f"program{number}.py"
    program.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program.name],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
