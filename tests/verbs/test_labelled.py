from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from mobilevit.data.masks import MaskFile
from mobilevit.deployment.contract import Contract
from mobilevit.deployment.manifest import Origin
from mobilevit.errors import UserError
from mobilevit.verbs.labelled import Labelled, find_labelled, with_bar

SIZES = {"ant": 40, "bee": 3, "cat": 20}
PATHS = [Path("data", name, f"{i}.jpg") for name, count in SIZES.items() for i in range(count)]


def labelled(source: str = "data", known: tuple[str, ...] = ("ant", "bee", "cat")) -> Labelled:
    paths = tuple(Path(source, *path.parts[1:]) for path in PATHS)
    return Labelled(Path(source), "val", paths, tuple(known.index(p.parts[-2]) for p in paths))


def names(found: Labelled) -> list[str]:
    return [found.name(position) for position in range(len(found))]


@pytest.mark.parametrize(
    ("limit", "counts"), [(3, (1, 1, 1)), (9, (3, 3, 3)), (23, (10, 3, 10)), (53, (30, 3, 20))]
)
def test_a_limit_is_shared_evenly_by_the_classes(limit, counts):
    found = labelled().limited(limit)
    assert Counter(found.labels) == dict(enumerate(counts))
    assert [("ant", "bee", "cat").index(p.parts[-2]) for p in found.paths] == list(found.labels)


def test_the_same_pictures_for_every_network_and_machine():
    chosen = names(labelled().limited(17))
    assert len(chosen) == 17
    assert names(labelled("/elsewhere/data").limited(17)) == chosen
    assert names(labelled(known=("cat", "dog", "bee", "ant")).limited(17)) == chosen


def test_a_smaller_limit_gives_a_part_of_a_larger_one_and_not_the_first():
    smaller, larger = (names(labelled().limited(limit)) for limit in (8, 21))
    assert set(smaller) < set(larger)
    assert larger != names(labelled())[:21]
    ants = [name for name in larger if name.startswith("ant")]
    assert ants != [f"ant/{i}.jpg" for i in range(len(ants))]


@pytest.mark.parametrize("limit", [None, 63, 100])
def test_a_limit_that_is_not_reached_changes_nothing(limit):
    assert labelled().limited(limit) == labelled()


def test_none_readable_is_an_error_that_names_the_first():
    found = labelled().limited(2)
    found.check_readable({"data/a.jpg": "empty"})
    with pytest.raises(UserError, match=r"data: none of its 2 pictures.*data/a.jpg: empty"):
        found.check_readable({"data/a.jpg": "empty", "data/b.jpg": "gone"})


def test_a_limit_takes_masks_by_their_pictures_names():
    labels = tuple(MaskFile(path.with_suffix(".png"), {0: 0, 1: 1}, 4, 3) for path in PATHS)
    found = Labelled(Path("data"), "val", tuple(PATHS), labels)
    chosen = found.limited(17)
    assert len(chosen) == 17
    assert set(names(found.limited(9))) < set(names(chosen))
    assert [label.path.stem for label in chosen.labels] == [path.stem for path in chosen.paths]


def test_a_name_that_means_two_classes_is_refused(tmp_path):
    for name in ("bee", "crane"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    contract = Contract("classification", ("bee", "crane", "cat", "crane"), (8, 8), None)
    network = SimpleNamespace(contract=contract, origin=Origin(), path=Path("net.onnx"))
    with pytest.raises(
        UserError, match=r"class 'crane', which net\.onnx knows several of\. It knows"
    ):
        find_labelled(network, tmp_path, "all")


def test_a_bar_shows_any_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take a file for a terminal
    batch = SimpleNamespace(positions=(0,), unreadable={})
    assert list(with_bar(iter([batch]), 1, "a{b}[i]{1}.onnx")) == [batch]
    assert "a{b}[i]{1}.onnx" in capsys.readouterr().err
