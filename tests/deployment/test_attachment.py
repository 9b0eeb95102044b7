from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilevit.deployment.attachment import attach, read_attached
from mobilevit.errors import UserError

CONTENT = bytes(range(256)) * 50


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.tflite"
    path.write_bytes(CONTENT)
    return path


def test_what_was_there_stays_the_first_part_of_the_file(file):
    attach(file, {"a": "1", "b": "Dögel"})
    assert read_attached(file) == {"a": "1", "b": "Dögel"}
    assert file.read_bytes().startswith(CONTENT)


def test_entries_are_added_and_replaced_and_the_file_does_not_grow_for_it(file):
    attach(file, {"a": "1", "b": "2"})
    length = file.stat().st_size
    for _ in range(3):
        attach(file, {"b": "3"})
    assert read_attached(file) == {"a": "1", "b": "3"}
    assert file.stat().st_size == length
    attach(file, {"c": "4"})
    assert read_attached(file) == {"a": "1", "b": "3", "c": "4"}


@given(st.binary(max_size=2000), st.dictionaries(st.text(), st.text()))
def test_any_content_and_any_text(tmp_path_factory, content, entries):
    file = tmp_path_factory.mktemp("any") / "x"
    file.write_bytes(content)
    if zipfile.is_zipfile(file):
        return
    attach(file, entries)
    assert read_attached(file) == entries
    assert file.read_bytes()[: len(content)] == content


def test_a_file_without_entries_or_cut_off_is_refused(file):
    with pytest.raises(UserError, match=r"x\.tflite: it holds no contract, or was cut off"):
        read_attached(file)
    attach(file, {"a": "1"})
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match="holds no contract, or was cut off"):
        read_attached(file)


def test_the_entries_of_another_file_are_refused(file, tmp_path):
    attach(file, {"a": "1"})
    mixed = tmp_path / "mixed.tflite"
    mixed.write_bytes(bytes(len(CONTENT)) + file.read_bytes()[len(CONTENT) :])
    with pytest.raises(UserError, match=r"mixed\.tflite: its contract was made for another file"):
        read_attached(mixed)


def test_a_zip_of_something_else_is_refused(file):
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("labels.txt", "cat")
    with pytest.raises(UserError, match="its contract cannot be read"):
        read_attached(file)
