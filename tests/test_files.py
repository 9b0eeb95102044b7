from __future__ import annotations

import json
import tempfile

import pytest

from mobilevit.errors import UserError
from mobilevit.files import (
    check_writable,
    choose_weights,
    making,
    read_json,
    replacing,
    write_text,
)


@pytest.mark.parametrize("text", ['{"data": ', "[1]", None])
def test_what_is_no_json_object_is_named(tmp_path, text):
    path = tmp_path / "facts.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"facts\.json: it (cannot be read|must be)"):
        read_json(path)


def test_all_or_nothing(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(TypeError), replacing(path) as beside:
        beside.write_bytes("half")  # creates the file, then fails
    assert path.read_text() == "old"
    with replacing(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_made_whole_or_not_at_all(tmp_path):
    empty = tmp_path / "mounted"  # where a disk is mounted, a folder cannot be replaced
    empty.mkdir()
    before = empty.stat().st_ino
    for folder in (empty, tmp_path / "above" / "new"):
        with pytest.raises(TypeError), making(folder) as made:
            (made / "a").write_bytes("half")  # creates the file, then fails
        assert not folder.exists() or not list(folder.iterdir())
        with making(folder) as made:
            (made / "sub").mkdir()
            (made / "sub" / "a").write_text("whole")
        assert [path.name for path in folder.iterdir()] == ["sub"]
        assert (folder / "sub" / "a").read_text() == "whole"
        with pytest.raises(UserError, match="not empty"), making(folder):
            pass
    assert empty.stat().st_ino == before
    (empty / "sub" / "a").unlink()
    (empty / "sub").rmdir()
    with pytest.raises(UserError, match=r"not empty \(mine\)"), making(empty):
        (empty / "mine").write_text("mine")  # another program's, meanwhile
    assert (empty / "mine").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"mounted", "above"}


def test_a_name_in_another_encoding_is_escaped_as_json_has_it(tmp_path):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    write_text(tmp_path / "x.json", json.dumps(name, ensure_ascii=False))
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == name


def test_what_openvino_leaves_beside_its_graph_is_no_pickle():
    assert choose_weights(["mine.safetensors", "mine.xml", "mine.bin"]) == "mine.safetensors"
    assert choose_weights(["mine.bin"]) == "mine.bin"
    assert choose_weights(["mine.xml", "mine.bin"]) is None


def test_a_file_in_the_way_of_a_folder_is_said(tmp_path):
    write_text(tmp_path / "a", "mine")
    with pytest.raises(UserError, match="a file is in the way"):
        write_text(tmp_path / "a" / "b.txt", "x")


def test_folders_are_made(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "ä")
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "ä"


def test_what_cannot_be_written_is_said_before_any_work(tmp_path, monkeypatch):
    check_writable(tmp_path / "new" / "x.json")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a file is in the way"):
        check_writable(tmp_path / "file" / "x.json")

    def refuse(**_):
        raise PermissionError(13, "Permission denied", "/somewhere/hidden")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match=r"x\.json: it cannot be written \(Permiss") as told:
        check_writable(tmp_path / "x.json")
    assert "hidden" not in str(told.value)
