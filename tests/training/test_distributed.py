"""Two processes that torchrun starts do what one does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mobilevit import Recipe, load_checkpoint
from mobilevit.data.folders import read_folders
from mobilevit.data.transforms import EvalDataset
from mobilevit.training.run_folder import RunFolder
from tiny import SETTINGS, fit_tiny, python, resume_tiny, rows, tensors

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

PROGRAM = """
import json, os, sys
from pathlib import Path
from mobilevit import train
from mobilevit.data.transforms import TrainDataset

folder, data = sys.argv[1:]
seen = []
get = TrainDataset.__getitem__

def spy(self, key):
    seen.append((int(key), key.size, key.seed))
    return get(self, key)

TrainDataset.__getitem__ = spy
if __name__ == "__main__":
    run = train(data, recipe=Path(folder) / "recipe.yaml", output=Path(folder) / "run")
    rank = os.environ["RANK"]
    (Path(folder) / f"seen-{rank}.json").write_text(json.dumps([seen, run.metrics]))
"""

EPOCHS = 2


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both runs: of two processes, and of one that computes each step in two parts."""
    folder = tmp_path_factory.mktemp("distributed")
    settings = {
        "epochs": EPOCHS,
        "size": 48,
        "sizes": (32, 48),
        "batch_size": 9,  # odd parts, and no rest that two processes would join to a step
        "dropout": 0.0,
        "head_dropout": 0.0,
        "clip_norm": 1.0,
        "save_steps": 2,
        "freeze": 2,
        "head_lr": 2,
        "layer_lr": 0.9,
    }
    recipe = Recipe().override(**(SETTINGS | settings))
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert python(PROGRAM, str(folder), str(tiny), launcher=TORCHRUN) == 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    fit_tiny(tiny, folder / "alone", accumulate=2, **settings)
    torch.set_num_threads(threads)
    return folder


def test_processes_share_the_pictures(folder: Path) -> None:
    zero, one = (json.loads((folder / f"seen-{rank}.json").read_text())[0] for rank in (0, 1))
    for epoch in range(EPOCHS):
        parts = [seen[len(seen) // EPOCHS * epoch :][: len(seen) // EPOCHS] for seen in (zero, one)]
        assert sorted(key[0] for part in parts for key in part) == list(range(24))
    assert {key[1] for key in zero} <= {32, 48}


def test_losses_are_those_of_one_process(folder: Path) -> None:
    two, alone = rows(RunFolder(folder / "run")), rows(RunFolder(folder / "alone"))
    assert len(two) == len(alone) == EPOCHS
    for one, other in zip(two, alone, strict=True):
        for key in ("epoch", "updates", "samples", "lr"):
            assert one[key] == other[key]
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert one["train_top1"] == pytest.approx(other["train_top1"])


def test_weights_are_those_of_one_process(folder: Path) -> None:
    """All but batch-norm's statistics, which each process has of its own pictures."""
    two, alone = (tensors(folder / name / "last.safetensors") for name in ("run", "alone"))
    assert two.keys() == alone.keys()
    for name, tensor in two.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-4, msg=name)


def test_frozen_blocks_stay_as_they_are_in_both(folder: Path) -> None:
    """Batch-norm's statistics too, which began as zeros and ones."""
    two, alone = (tensors(folder / name / "last.safetensors") for name in ("run", "alone"))
    frozen = [name for name in alone if name.startswith(("stem.", "stages.0.0."))]
    assert all(torch.equal(two[name], alone[name]) for name in frozen)
    assert not any(two[name].any() for name in frozen if name.endswith("running_mean"))
    assert two["stages.1.0.expand.norm.running_mean"].any()


def test_what_is_measured_is_what_is_saved(folder: Path, tiny: Path) -> None:
    """The metrics of all processes together are those of the network that the first saves."""
    last = load_checkpoint(folder / "run" / "last.safetensors")
    samples = read_folders(tiny).val
    dataset = EvalDataset(samples, last.contract)
    pictures = torch.stack([dataset[i][0] for i in range(len(dataset))])
    labels = torch.tensor([sample.label for sample in samples])
    with torch.no_grad():
        loss = F.cross_entropy(last.network(pictures), labels).item()
    row = rows(RunFolder(folder / "run"))[-1]
    assert row["val_loss"] == pytest.approx(loss, abs=1e-5)
    metrics = [json.loads((folder / f"seen-{rank}.json").read_text())[1] for rank in (0, 1)]
    assert metrics[0] == metrics[1]
    assert metrics[0]["samples"] == len(samples)


def test_one_process_can_go_on_with_a_run_of_two(folder: Path, tiny: Path) -> None:
    run = RunFolder.existing(folder / "run")
    before = rows(run)
    resume_tiny(tiny, run)  # it is finished: nothing changes
    assert rows(run) == before
