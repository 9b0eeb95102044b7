"""A run that is interrupted and taken up again is the run that never was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from mobilevit import UserError, load_checkpoint, save_checkpoint, train
from mobilevit.training.display import Display
from mobilevit.training.run_folder import RunFolder
from tiny import assert_same_run, fit_tiny, make_pictures, python, resume_tiny

SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "save_steps": 2,
    "size": 48,
    "sizes": (32, 48, 64),
    "dropout": 0.1,
    "mixup": 0.2,
    "randaugment": 5,
    "clip_norm": 1.0,
    "lr": 3e-3,
}
FINETUNING = SETTINGS | {"freeze": 4, "head_lr": 10, "layer_lr": 0.8, "decay_norms": False}


@pytest.fixture(scope="module")
def uninterrupted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fit_tiny(tiny, tmp_path_factory.mktemp("whole") / "run", **SETTINGS)


@pytest.fixture(scope="module")
def uninterrupted_finetuning(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fit_tiny(tiny, tmp_path_factory.mktemp("finetuned") / "run", **FINETUNING)


class Interruption(BaseException):
    """What a test throws into a run."""


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let the display, which is told of every step, end the run."""
    count = 0

    def step(self: Display, *args: object) -> None:
        nonlocal count
        count += 1
        if count == steps:
            raise Interruption

    monkeypatch.setattr(Display, "step", step)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(
    ("settings", "whole"),
    [(SETTINGS, "uninterrupted"), (FINETUNING, "uninterrupted_finetuning")],
    ids=["training", "finetuning"],
)
def test_interrupted_at_any_step(
    tiny: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    whole: str,
    steps: int,
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps)
        with pytest.raises(Interruption):
            fit_tiny(tiny, tmp_path / "run", **settings)
    run = RunFolder.existing(tmp_path / "run")
    saved = load_checkpoint(run.last, training=True).progress
    assert saved["updates"] == (steps - 1) // 2 * 2  # the step's own save comes after its display
    resume_tiny(tiny, run)
    assert_same_run(run, request.getfixturevalue(whole))


def test_interrupted_between_the_last_step_and_the_evaluation(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS | {"save_steps": 1, "epochs": 2}
    whole = fit_tiny(tiny, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:

        def evaluate(*args: object) -> None:
            raise Interruption

        patch.setattr("mobilevit.training.fit._evaluate", evaluate)
        with pytest.raises(Interruption):
            fit_tiny(tiny, tmp_path / "run", **settings)
    run = RunFolder.existing(tmp_path / "run")
    resume_tiny(tiny, run)
    assert_same_run(run, whole)


@pytest.mark.parametrize("when", ["append", "last"])
def test_interrupted_while_an_epoch_is_written(
    tiny: Path, tmp_path: Path, uninterrupted: RunFolder, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Best is written already, the row of the epoch perhaps, the training state not yet."""
    with monkeypatch.context() as patch:
        append = RunFolder.append

        def broken(self: RunFolder, row: dict[str, Any]) -> None:
            append(self, row)
            if when == "append":  # half a line on the disk
                text = self.metrics.read_text(encoding="utf-8")
                self.metrics.write_text(text[:-20], encoding="utf-8")
            raise Interruption

        patch.setattr(RunFolder, "append", broken)
        with pytest.raises(Interruption):
            fit_tiny(tiny, tmp_path / "run", **SETTINGS)
    run = RunFolder.existing(tmp_path / "run")
    resume_tiny(tiny, run)
    assert_same_run(run, uninterrupted)


KILLED = """
import os, signal, sys
from pathlib import Path
import safetensors.torch
import mobilevit.checkpoints.files as files
from mobilevit import train
from mobilevit.training.display import Display

folder, data, when, how = sys.argv[1:]
count = 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def step(self, *args):
    global count
    count += 1
    if how == "step" and count == int(when):
        die()

def save_file(tensors, path, header):
    global count
    safetensors.torch.save_file(tensors, path, header)
    count += 1
    if how == "save" and count == int(when):
        data = Path(path).read_bytes()
        Path(path).write_bytes(data[: len(data) // 2])
        die()

Display.step = step
if how == "save":
    Display.step = lambda self, *args: None
    files.save_file = save_file
if __name__ == "__main__":
    run = Path(folder) / "run"
    if run.exists():
        train(resume=run, progress=False)
    else:
        train(data, recipe=Path(folder) / "recipe.yaml", output=run, progress=False)
"""


def test_killed_twice(tiny: Path, tmp_path: Path) -> None:
    """kill -9 of real processes with workers: at a step, then in the middle of a save."""
    from mobilevit import Recipe
    from tiny import SETTINGS as BASE

    settings = BASE | SETTINGS | {"workers": 1}
    whole = train(tiny, recipe=Recipe(), output=tmp_path / "whole", progress=False, **settings)
    recipe = Recipe().override(**settings)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    epochs = []
    for when, how in ((3, "step"), (2, "save")):
        assert python(KILLED, str(tmp_path), str(tiny), str(when), how) == -9
        run = RunFolder.existing(tmp_path / "run")
        epochs.append(load_checkpoint(run.last, training=True).progress["updates"])
    assert epochs == sorted(set(epochs)), "each time it got further"
    resumed = train(resume=tmp_path / "run", progress=False)
    assert_same_run(RunFolder(resumed.folder), RunFolder(whole.folder))
    assert resumed.metrics["confusion"] == whole.metrics["confusion"]
    left = {path.name for path in whole.folder.iterdir()}
    assert {p.name for p in resumed.folder.iterdir() if not p.name.startswith(".")} == left
    assert train(resume=tmp_path / "run", progress=False).metrics == resumed.metrics  # it is done


def test_other_pictures_are_refused(tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data", train=4, val=1)
    run = fit_tiny(data, tmp_path / "run")
    before = run.last.read_bytes()
    moved = shutil.copytree(data, tmp_path / "moved")
    resume_tiny(moved, run)  # the same pictures at another place are the same
    (data / "train" / "red" / "0.png").rename(data / "train" / "red" / "new.png")
    with pytest.raises(UserError, match=r"(?s)trained on other pictures.*--weights"):
        resume_tiny(data, run)
    assert run.last.read_bytes() == before


def test_what_cannot_be_resumed(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(UserError, match=r"no last\.safetensors in it to resume from"):
        train(resume=tmp_path)
    for other in ({"epochs": 3}, {"output": "x"}, {"recipe": "photos"}, {"channel_order": "BGR"}):
        with pytest.raises(UserError, match="leave the other settings"):
            train(resume=tmp_path, **other)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="leave the other settings"):
        train(resume=tmp_path, weights="x")
    with pytest.raises(UserError, match="needs a folder of pictures, or resume=RUN"):
        train()


def test_another_number_of_processes_is_refused(tiny: Path, tmp_path: Path) -> None:
    run = fit_tiny(tiny, tmp_path / "run")
    saved = load_checkpoint(run.last, training=True)
    saved.progress.update(processes=2, step=1)
    save_checkpoint(run.last, saved)
    with pytest.raises(UserError, match="2 processes share; resume with as many, not 1"):
        resume_tiny(tiny, run)


def test_the_rest_of_an_interrupted_save_is_removed(tiny: Path, tmp_path: Path) -> None:
    run = fit_tiny(tiny, tmp_path / "run")
    rest = run.path / ".last.safetensors.12345"
    rest.write_bytes(b"half")
    resume_tiny(tiny, run)
    assert not rest.exists()
