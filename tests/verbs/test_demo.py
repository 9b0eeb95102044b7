"""What the demo refuses; `make demo` runs it whole."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mobilevit import UserError, demo
from mobilevit.deployment import formats


@pytest.mark.parametrize(
    ("library", "extra"),
    [("sklearn", "demo"), ("matplotlib", "train"), ("tensorboard", "train")],
)
def test_a_library_that_is_missing_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf'{library}.*pip install "mobilevit\[{extra}\]"'):
        demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
def test_what_it_exports_with_is_asked_for_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    is_here = formats._is_here
    monkeypatch.setattr(formats, "_is_here", lambda name: name != library and is_here(name))
    with pytest.raises(UserError, match=rf'{library}.*pip install "mobilevit\[onnx\]"'):
        demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
