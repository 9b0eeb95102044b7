from __future__ import annotations

import json
from pathlib import Path

import pytest

from mobilevit import Recipe, UserError, load_recipe
from mobilevit.training.curves import draw_curves
from mobilevit.training.run_folder import RunFolder, free_folder

PNG = b"\x89PNG\r\n"


def row(epoch: int) -> dict[str, float]:
    names = ("train_loss", "val_loss", "train_top1", "val_top1", "lr")
    return {"epoch": epoch, **dict.fromkeys(names, 1 / epoch)}


def test_names_count_up_where_a_run_is_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for expected in ("photos", "photos-2", "photos-3"):
        path = free_folder(None, "photos")
        assert path == Path("runs") / expected
        RunFolder(path).begin(Recipe(), tmp_path, 0)


def test_nothing_that_exists_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert free_folder(tmp_path / "empty", "photos") == tmp_path / "empty"
    assert free_folder(str(tmp_path / "new"), "photos") == tmp_path / "new"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    (tmp_path / "file").touch()
    for name in ("full", "file"):
        with pytest.raises(UserError, match=r"exists and is not empty.*another output\.$"):
            free_folder(tmp_path / name, "photos")
    (tmp_path / "full" / "last.safetensors").touch()
    with pytest.raises(UserError, match=r"exists and is not empty.*--resume"):
        free_folder(tmp_path / "full", "photos")


def test_what_is_known_before_training(tmp_path: Path) -> None:
    data = tmp_path / "Bäume"
    data.mkdir()
    recipe = Recipe().override(epochs=7)
    folder = RunFolder(tmp_path / "deep" / "run")
    folder.begin(recipe, data, 0)
    assert load_recipe(folder.path / "recipe.yaml") == recipe
    facts = json.loads((folder.path / "run.json").read_text(encoding="utf-8"))
    assert {"data", "started", "python", "machine", "mobilevit", "torch"} <= facts.keys()
    assert folder.data == data
    link = tmp_path / "link"
    link.symlink_to(data)
    folder.begin(recipe, link, 0)  # its pictures are hashed by the names they were found under
    assert folder.data == link
    assert folder.rows() == []


def test_epochs_to_be_done_again_are_forgotten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(Recipe(), tmp_path, 0)
    for epoch in (1, 2, 3):
        folder.append(row(epoch))
    with folder.metrics.open("a", encoding="utf-8") as file:
        file.write('{"epoch": 4, "train_l')  # the machine went down here
    folder.begin(Recipe(), tmp_path, 2)
    assert [r["epoch"] for r in folder.rows()] == [1, 2]
    folder.append(row(3))
    assert folder.rows() == [row(1), row(2), row(3)]


def test_a_run_taken_up_again_began_when_it_began(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(Recipe(), tmp_path, 0)
    told = folder.facts()
    folder.info.write_text(json.dumps(told | {"started": "2026-01-01T00:00:00+00:00"}))
    folder.begin(Recipe(), tmp_path / "moved", 1)
    assert folder.facts()["started"] == "2026-01-01T00:00:00+00:00"
    assert folder.data == tmp_path / "moved"
    folder.info.write_text("{")
    folder.begin(Recipe(), tmp_path, 1)
    assert folder.facts()["started"] >= told["started"]


def test_a_folder_without_training_state_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no last\.safetensors"):
        RunFolder.existing(tmp_path)
    (tmp_path / "last.safetensors").touch()
    assert RunFolder.existing(tmp_path).last == tmp_path / "last.safetensors"


@pytest.mark.parametrize("facts", ["{}", '{"data": null}', '{"data": '])
def test_a_run_that_forgot_its_pictures_says_so(tmp_path: Path, facts: str) -> None:
    (tmp_path / "run.json").write_text(facts)
    with pytest.raises(UserError, match=r"run\.json"):
        _ = RunFolder(tmp_path).data


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with (
        folder.locked(new=True),
        pytest.raises(UserError, match="another process trains into it"),
        RunFolder(tmp_path / "run").locked(new=True),
    ):
        pass
    assert list(folder.path.iterdir()) == []
    folder.last.touch()
    with folder.locked(new=False):
        pass
    with pytest.raises(UserError, match="has trained into it"), folder.locked(new=True):
        pass


@pytest.mark.parametrize("epochs", [1, 30])
def test_curves(tmp_path: Path, epochs: int) -> None:
    draw_curves(tmp_path / "curves.png", [row(e + 1) for e in range(epochs)], "top1")
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
