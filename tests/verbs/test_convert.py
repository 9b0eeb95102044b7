"""From one library to another with one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mobilevit import UserError, convert, load_pretrained
from mobilevit.cli import main
from peers import timm_saved, transformers_network, transformers_saved


def test_between_two_other_libraries(tmp_path: Path) -> None:
    saved = transformers_saved(tmp_path / "theirs", "mobilevit_xxs")
    done = convert(saved.folder, tmp_path / "timm", to="timm")
    assert (done.report.library, done.report.channel_order, done.library) == (
        *("transformers", "BGR"),
        "timm",
    )
    back = load_pretrained(done.path)
    assert (back.report.library, back.report.channel_order) == ("timm", "RGB")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        logits = back.checkpoint.network(x)
        torch.testing.assert_close(logits, saved.run(x), atol=1e-4, rtol=0)


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = timm_saved(tmp_path / "theirs", "mobilevitv2_050")
    target = tmp_path / "ours.safetensors"
    assert main(["convert", str(saved.folder), str(target)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for words in ("mobilevitv2_050", "timm", "RGB in the file", "tensors", "read back the same"):
        assert words in told
    assert load_pretrained(target).report.library == "mobilevit"

    command = ["convert", str(target), str(tmp_path / "x.pt"), "--to", "cvnets", "--json"]
    assert main([*command, "--from", "mobilevit"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["library"], facts["loaded"]["library"]) == ("cvnets", "mobilevit")
    assert facts["loaded"]["transfer"]["new"] == []


def test_the_channel_order_can_be_given(tmp_path: Path) -> None:
    saved = timm_saved(tmp_path / "theirs", "mobilevit_xxs")
    done = convert(saved.folder, tmp_path / "bgr.safetensors", channel_order="BGR")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        logits = load_pretrained(done.path).checkpoint.network(x)
        torch.testing.assert_close(logits, saved.run(x.flip(1)), atol=1e-4, rtol=0)


def test_boxes_are_told_from_weights_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(
        UserError, match=r"with boxes, as coco has them.*\(--to\): coco, yolo or voc"
    ):
        convert(tmp_path / "boxes.json", tmp_path / "made")


@pytest.mark.parametrize("kind", ["Model", "ForSemanticSegmentation"])
def test_what_is_no_whole_network_is_not_converted(kind: str, tmp_path: Path) -> None:
    whole = transformers_network("mobilevit_xxs", kind).state_dict()
    kept = {k: v for k, v in whole.items() if not k.startswith("segmentation_head")}
    torch.save(kept, tmp_path / "theirs.bin")
    if kind == "Model":  # whole, but for the classifier
        done = convert(tmp_path / "theirs.bin", tmp_path / "timm", to="timm")
        assert load_pretrained(done.path).checkpoint.architecture["num_classes"] == 0
    else:
        with pytest.raises(UserError, match=r"theirs\.bin: it has no final.*mobilevit train"):
            convert(tmp_path / "theirs.bin", tmp_path / "timm", to="timm")
        assert not (tmp_path / "timm").exists()


def test_a_source_is_never_overwritten(tmp_path: Path) -> None:
    folder = timm_saved(tmp_path / "theirs", "mobilevit_xxs").folder
    before = (folder / "model.safetensors").read_bytes()
    for target in (folder, folder / "model.safetensors"):
        with pytest.raises(UserError, match=r"it exists|not empty"):
            convert(target, target, to="transformers")
    assert (folder / "model.safetensors").read_bytes() == before
