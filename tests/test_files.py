from __future__ import annotations

import pytest

from mobilevit.files import replacing, write_text


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


def test_folders_are_made(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "ä")
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "ä"
