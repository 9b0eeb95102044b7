from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilevit.data.folders import Folders, fingerprint, pictures, read_folders, spread
from mobilevit.errors import UserError

PIXEL = b"not decoded here "
RUN = ("run.json", "recipe.yaml")
STUDY = ("pictures.json", "results.json")


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(PIXEL + name.encode())
        else:
            path.mkdir(exist_ok=True)
    return root


def many(folder: str, count: int) -> list[str]:
    return [f"{folder}/{index}.jpg" for index in range(count)]


def names(samples: tuple, folders: Folders) -> set[tuple[str, str]]:
    return {(sample.path.name, folders.class_names[sample.label]) for sample in samples}


def test_train_and_val(tmp_path):
    make(tmp_path, "train/b/1.jpg", "train/a/2.PNG", "train/a/deep/er/3.webp", "val/a/4.jpg")
    folders = read_folders(tmp_path)
    assert folders.class_names == ("a", "b")
    assert names(folders.train, folders) == {("1.jpg", "b"), ("2.PNG", "a"), ("3.webp", "a")}
    assert names(folders.val, folders) == {("4.jpg", "a")}
    assert folders.source == tmp_path
    assert folders.ignored == ()


@pytest.mark.parametrize("name", ["valid", "validation", "test", "Val", "Testing", "val2017"])
@pytest.mark.parametrize("train", ["Train", "Training"])
def test_other_names_of_splits(tmp_path, train, name):
    make(tmp_path, f"{train}/a/1.jpg", f"{train}/b/2.jpg", f"{name}/a/3.jpg")
    folders = read_folders(tmp_path)
    assert folders.class_names == ("a", "b")
    assert [sample.path.name for sample in folders.val] == ["3.jpg"]
    assert folders.test == ()


def test_beside_val_a_test_split_is_kept_apart(tmp_path):
    make(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "test/b/3.jpg", "val/a/4.jpg")
    folders = read_folders(tmp_path)
    assert names(folders.val, folders) == {("4.jpg", "a")}
    assert names(folders.test, folders) == {("3.jpg", "b")}
    assert folders.ignored == ()


@pytest.mark.parametrize("file", ["test/3.jpg", "test/unknown/3.jpg", "more/a/3.jpg"])
def test_pictures_beside_the_splits_that_cannot_be_used_are_kept_in_sight(tmp_path, file):
    make(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "val/a/4.jpg", file)
    folders = read_folders(tmp_path)
    assert folders.test == ()
    assert folders.ignored == (tmp_path / file,)


@pytest.mark.parametrize("where", ["", "train/"])
def test_trainings_and_studies_in_the_folder_are_no_pictures(tmp_path, where):
    make(tmp_path, f"{where}a/1.jpg", f"{where}b/2.jpg", "val/a/3.jpg" if where else "a/3.jpg")
    before = read_folders(tmp_path, None)
    for run, files in (("runs/x", RUN), ("runs/y", STUDY), ("own", RUN)):
        make(tmp_path, *(f"{run}/{name}" for name in (*files, "curves.png", "entry/batch.png")))
    make(tmp_path, *(f"{where}a/inside/{name}" for name in (*RUN, "batch.png")))
    assert read_folders(tmp_path, None) == before


def test_without_a_share_to_hold_out_all_is_one_split(tmp_path):
    make(tmp_path / "one", "a/1.jpg")
    make(tmp_path / "two", "a/1.jpg", "b/2.jpg")
    make(tmp_path / "split", "train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg")
    for name, counts in (("one", (1, 0)), ("two", (2, 0)), ("split", (2, 1))):
        folders = read_folders(tmp_path / name, None)
        assert (len(folders.train), len(folders.val)) == counts


def test_hidden_files_are_passed_over_and_others_kept_in_sight(tmp_path):
    make(
        tmp_path,
        "train/a/1.jpg",
        "train/b/2.jpg",
        "val/b/3.jpg",
        "train/a/.4.jpg",
        "train/.cache/5.jpg",
        "__MACOSX/a/6.jpg",
        "train/a/Thumbs.db",
        "train/a/@eaDir/7.jpg",
        "train/a/notes.txt",
        "val/loose.jpg",
        "README.md",
    )
    folders = read_folders(tmp_path)
    assert len(folders.train) == 2
    assert {path.name for path in folders.ignored} == {"notes.txt", "loose.jpg", "README.md"}


def test_links_are_followed_but_not_in_circles(tmp_path):
    make(tmp_path, "elsewhere/1.jpg", "data/a/2.jpg", "data/b/3.jpg", "val/a/4.jpg")
    (tmp_path / "data/b/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/b/loop").symlink_to(tmp_path / "data/b")
    (tmp_path / "train").symlink_to(tmp_path / "data")
    folders = read_folders(tmp_path)
    assert names(folders.train, folders) == {("1.jpg", "b"), ("2.jpg", "a"), ("3.jpg", "b")}


def test_a_class_without_pictures_keeps_its_name(tmp_path):
    make(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "train/empty/", "val/a/3.jpg")
    assert read_folders(tmp_path).class_names == ("a", "b", "empty")


def test_train_alone_is_split(tmp_path):
    make(tmp_path, *many("train/a", 40), *many("train/b", 40))
    folders = read_folders(tmp_path)
    assert folders.class_names == ("a", "b")
    assert len(folders.train) + len(folders.val) == 80
    assert folders.val


@settings(max_examples=25, deadline=None)
@given(
    first=st.sets(st.binary(min_size=1, max_size=8), min_size=40, max_size=60),
    later=st.sets(st.binary(min_size=9, max_size=12), max_size=30),
    fraction=st.sampled_from([0.1, 0.2, 0.5]),
)
def test_a_new_picture_moves_no_other(tmp_path_factory, first, later, fraction):
    root = tmp_path_factory.mktemp("split")

    def split() -> tuple[set[Path], set[Path]] | None:
        try:
            folders = read_folders(root, fraction)
        except UserError:
            return None
        return {s.path for s in folders.train}, {s.path for s in folders.val}

    def add(contents: set[bytes]) -> None:
        for content in contents:
            path = root / "ab"[content[0] % 2] / f"{content.hex()}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)

    (root / "a").mkdir()
    (root / "b").mkdir()
    add(first)
    before = split()
    add(later)
    after = split()
    if before and after:
        assert before[0] <= after[0]
        assert before[1] <= after[1]
        assert not after[0] & after[1]
    everything = sorted(root.rglob("*.jpg"))
    for index, path in enumerate(everything):
        path.rename(path.parent.parent / "ba"[path.parent.name == "b"] / f"{index}.png")
    moved = split()
    if after and moved:
        assert len(moved[1]) == len(after[1])
        assert {p.read_bytes() for p in moved[1]} <= first | later
    shutil.rmtree(root)


def test_the_share_held_out_is_the_one_asked_for(tmp_path):
    make(tmp_path, *many("a", 500), *many("b", 500))
    for fraction in (0.1, 0.2, 0.5):
        assert abs(len(read_folders(tmp_path, fraction).val) / 1000 - fraction) < 0.05
    smaller = set(read_folders(tmp_path, 0.1).val)
    assert smaller <= set(read_folders(tmp_path, 0.2).val)


def test_copies_stay_on_one_side(tmp_path):
    make(tmp_path, *many("a", 60), *many("b", 60))
    for path in sorted(tmp_path.glob("a/*.jpg")):
        shutil.copy(path, tmp_path / "b" / f"copy{path.name}")
    folders = read_folders(tmp_path)
    sides = [{sample.path.read_bytes() for sample in side} for side in (folders.train, folders.val)]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_a_file_that_cannot_be_opened_is_still_listed(tmp_path):
    make(tmp_path, *many("a", 30), *many("b", 30))
    (tmp_path / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    folders = read_folders(tmp_path)
    assert len(folders.train) + len(folders.val) == 61


def test_fingerprints(tmp_path):
    start = bytes(1 << 20)
    for name, content in {"a": start + b"1", "b": start + b"2", "c": start + b"12"}.items():
        (tmp_path / name).write_bytes(content)
    a, b, c = (tmp_path / name for name in "abc")
    assert fingerprint(a) == fingerprint(b) != fingerprint(c)
    assert fingerprint(a, whole=True) != fingerprint(b, whole=True)
    (tmp_path / "d").write_bytes(a.read_bytes())
    assert fingerprint(a, whole=True) == fingerprint(tmp_path / "d", whole=True)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no class folders, it is empty"),
        (["1.jpg", "2.jpg"], "2 pictures lie loose.*DATA/<class>/<picture>"),
        (["a/1.jpg"], "one class only, 'a'"),
        (["set/a/1.jpg", "set/b/2.jpg"], "Did you mean '.*set'"),
        (["a/", "b/notes.txt"], "2 class folders hold no pictures.*\\.jpg"),
        (["val/a/1.jpg", "test/b/1.jpg"], "has 'test', 'val' but no 'train' folder"),
        (
            ["train/a/1.jpg", "train2/a/1.jpg"],
            "both 'train' and 'train2' could be its split 'train'",
        ),
        (
            ["train/a/1.jpg", "train/b/1.jpg", "val/aa/1.jpg", "val/b/1.jpg"],
            "'aa' is a class to validate on.*Did you mean 'a'",
        ),
        (["train/a/1.jpg", "train/b/1.jpg", "val/a/"], "val: holds no pictures"),
        (["train/"], "train: has no class folders"),
    ],
)
def test_what_is_wrong_is_said_with_the_way_out(tmp_path, files, message):
    make(tmp_path, *files)
    with pytest.raises(UserError, match=message) as caught:
        read_folders(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_too_few_pictures_to_hold_any_out(tmp_path):
    make(tmp_path, "a/1.jpg", "b/2.jpg")
    with pytest.raises(UserError, match=r"all of its 2 pictures.*0\.0001.*Add pictures"):
        read_folders(tmp_path, 0.0001)


def test_missing_folders_files_and_fractions(tmp_path):
    make(tmp_path, "flowers/a/1.jpg", "file.jpg")
    with pytest.raises(UserError, match=r"flower: no such folder\. Did you mean 'flowers'"):
        read_folders(tmp_path / "flower")
    with pytest.raises(UserError, match="is a file, not a folder"):
        read_folders(tmp_path / "file.jpg")
    for fraction in (0, 1, -0.1, 20):
        with pytest.raises(UserError, match=f"val_fraction is {fraction}"):
            read_folders(tmp_path / "flowers", fraction)


def test_pictures_in_natural_order(tmp_path, monkeypatch):
    make(tmp_path, "10.jpg", "9.jpg", "a/2.png", "a/b/1.png", "notes.txt", ".hidden.jpg")
    expected = [tmp_path / name for name in ("9.jpg", "10.jpg", "a/2.png", "a/b/1.png")]
    assert pictures([tmp_path]) == expected
    assert pictures(tmp_path) == expected
    assert pictures([tmp_path / "a", tmp_path / "*.jpg", tmp_path / "9.jpg"]) == expected
    assert pictures(str(tmp_path / "**" / "*.png")) == expected[2:]
    assert pictures([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"]
    monkeypatch.chdir(tmp_path)
    assert pictures("a") == [Path("a/2.png"), Path("a/b/1.png")]


def test_a_file_name_that_looks_like_a_pattern(tmp_path):
    make(tmp_path, "cat[1].jpg", "cat1.jpg")
    assert pictures([tmp_path / "cat[1].jpg"]) == [tmp_path / "cat[1].jpg"]


def test_pictures_that_are_not_there(tmp_path):
    make(tmp_path, "holiday.jpg", "empty/notes.txt")
    with pytest.raises(UserError, match=r"holidy\.jpg: no such.*Did you mean 'holiday\.jpg'"):
        pictures([tmp_path / "holiday.jpg", tmp_path / "holidy.jpg"])
    with pytest.raises(UserError, match="1 files, none of them a picture"):
        pictures([tmp_path / "empty"])
    with pytest.raises(UserError, match="no such"):
        pictures([tmp_path / "*.png"])


def test_real_data(shared_data):
    folders = read_folders(shared_data / "imagenette")
    assert len(folders.class_names) == 10
    assert (len(folders.train), len(folders.val)) == (9469, 3925)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 1000])
def test_what_is_taken_is_spread_over_all(count):
    taken = spread(range(count), 16)
    assert len(taken) == len(set(taken)) == min(count, 16)
    assert not taken or (taken[0] == 0 and taken[-1] >= count - 1 - count / 16)
