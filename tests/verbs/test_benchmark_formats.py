from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path

import onnx
import pytest
import torch
from PIL import Image
from rich.console import Console

from mobilevit.checkpoints.files import load_checkpoint, save_checkpoint
from mobilevit.cli import main
from mobilevit.deployment.manifest import CONTRACT
from mobilevit.errors import UserError
from mobilevit.verbs.benchmark_formats import benchmark_formats
from mobilevit.verbs.evaluate import evaluate


@pytest.fixture(scope="module")
def measured(run, artefact, tmp_path_factory) -> Path:
    """A run with its ONNX file, and a file of another's making."""
    folder = tmp_path_factory.mktemp("measured") / "run"
    shutil.copytree(run, folder)
    (folder / "notes.xml").write_text("<notes/>")
    return folder


def test_one_table_of_all_that_was_exported(measured, photos):
    table = benchmark_formats(measured, repeats=2, warmup=1)
    assert [row.model for row in table.rows] == ["best.safetensors", "best.onnx"]
    assert set(table.absent) == {"coreml", "executorch", "litert", "openvino"}
    for row in table.rows:
        assert row.metrics == evaluate(measured / row.model, photos).metrics
        assert [timing.threads for timing in row.timings] == [1, 2]
        assert 20e6 < row.peak_memory < 20e9
    stored = json.loads((measured / "formats.json").read_text())
    assert stored == json.loads(json.dumps(table.to_dict()))
    with Image.open(measured / "formats.png") as plot:
        assert plot.width > 500
    text = StringIO()
    table.print(Console(file=text, width=200))
    for word in ("best.onnx", "top1", "p90", "--format litert"):
        assert word in text.getvalue()


def test_fewer_pictures_and_one_format(measured):
    table = benchmark_formats(measured, ["onnx"], threads=(1,), limit=5, repeats=1, warmup=0)
    assert (table.pictures, table.absent) == (5, {})


def test_the_command_measures_with_one_thread_and_with_two(measured, capsys):
    command = ["benchmark", str(measured), "--formats", "onnx", "--repeats", "1", "--warmup", "0"]
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [[timing["threads"] for timing in row["timings"]] for row in rows] == [[1, 2], [1, 2]]
    assert main(["benchmark", str(measured), "--threads"]) == 2
    assert "threads is empty" in capsys.readouterr().err


def test_what_it_refuses(measured, tmp_path, make_run, photos):
    with pytest.raises(UserError, match=r"nothing was exported here as litert.*--format all"):
        benchmark_formats(measured, ["litert"])
    with pytest.raises(UserError, match="unknown format 'lite'"):
        benchmark_formats(measured, ["lite"])
    with pytest.raises(UserError, match="repeats is 0"):
        benchmark_formats(measured, repeats=0)
    alone = make_run(tmp_path / "alone", None, ("stripes", "moon", "disc", "square"), {})
    shutil.copy(measured / "best.onnx", alone)
    with pytest.raises(UserError, match="does not name the data"):
        benchmark_formats(alone)
    other = make_run(tmp_path / "other", photos, ("disc", "square", "stripes", "x"), {})
    shutil.copy(measured / "best.onnx", other)
    with pytest.raises(UserError, match="exported from another network"):
        benchmark_formats(other)
    for numbers in ({"warmup": -1}, {"limit": 0}):
        with pytest.raises(UserError, match=r"is -1; it must be 0|limit is 0"):
            benchmark_formats(measured, **numbers)
    with pytest.raises(UserError, match="Name a run folder of your own"):
        benchmark_formats("imagenette")


def test_a_file_of_an_earlier_checkpoint_is_left_out(measured, photos, tmp_path):
    folder = shutil.copytree(measured, tmp_path / "run")
    found = load_checkpoint(folder / "best.safetensors")
    with torch.no_grad():
        found.network.get_classifier().bias.zero_()
    save_checkpoint(folder / "best.safetensors", found)
    with pytest.raises(UserError, match=r"best\.onnx: its checkpoint is not that of"):
        benchmark_formats(folder, ["onnx"], photos)


def test_a_file_that_cannot_be_opened_costs_its_line_alone(measured, photos, tmp_path):
    folder = shutil.copytree(measured, tmp_path / "run")
    shutil.copy(folder / "best.onnx", folder / "net $5_$^.onnx")  # no formula, a name
    newer = onnx.load(folder / "best.onnx")
    for entry in newer.metadata_props:
        if entry.key == CONTRACT:
            entry.value = json.dumps({**json.loads(entry.value), "version": 99})
    onnx.save(newer, folder / "newer.onnx")
    data = shutil.copytree(photos, tmp_path / "photos")
    (data / "val" / "disc" / "broken.jpg").write_bytes(b"no picture")
    table = benchmark_formats(folder, ["onnx"], data, (1,), None, repeats=1, warmup=0)
    assert [row.model for row in table.rows[1:]] == ["best.onnx", "net $5_$^.onnx"]
    assert list(table.refused) == ["newer.onnx"]
    (broken,) = table.unreadable
    assert Path(broken).name == "broken.jpg"
    assert table.pictures == table.rows[0].metrics["samples"]
    text = StringIO()
    table.print(Console(file=text, width=300))
    assert "newer.onnx: its contract has version 99" in text.getvalue()
    assert "broken.jpg" in text.getvalue()
