from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hubserver
from hubserver import HubServer, go_offline
from mobilevit.checkpoints import Checkpoint, architecture, load_checkpoint, save_checkpoint
from mobilevit.checkpoints.hub import (
    fetch,
    is_repo,
    push_to_hub,
    save_folder,
    save_pretrained,
    sha256,
)
from mobilevit.deployment.contract import Contract
from mobilevit.errors import UserError
from mobilevit.networks import create_model

BYTES = np.random.default_rng(0).bytes(300_000)
OTHER = BYTES[::-1]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with no repositories, and an empty cache."""
    with hubserver.serving(tmp_path / "repositories") as server:
        hubserver.use_hub(monkeypatch, server.endpoint, tmp_path / "home")
        yield server


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose checkpoint can be resumed."""
    torch.manual_seed(0)
    network = create_model("mobilevit_xxs", num_classes=3).eval()
    checkpoint = Checkpoint(
        network,
        Contract("classification", ("Katze", "犬", "a b"), (64, 96), 72, "bicubic"),
        architecture("mobilevit_xxs", network),
        recipe={"training": {"epochs": 3}},
        metrics={"top1": 0.625},
        progress={"epoch": 1},
        training={"optimizer.head.weight.step": torch.tensor(7.0)},
    )
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "best.safetensors", checkpoint)
    return folder


def same(one: Checkpoint, other: Checkpoint) -> bool:
    mine, theirs = one.network.state_dict(), other.network.state_dict()
    return (
        mine.keys() == theirs.keys()
        and all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
        and one.contract == other.contract
        and one.architecture == other.architecture
        and one.metrics == other.metrics
    )


def cache(tmp_path: Path) -> list[Path]:
    """The files with content in the cache of the repository me/net."""
    return list((tmp_path / "home" / "hub" / "models--me--net" / "blobs").iterdir())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("apple/mobilevit-small", True),
        ("timm/mobilevit_s.cvnets_in1k", True),
        ("me/net@v1.0", True),
        ("me/net@refs/pr/1", True),
        ("mobilevit_s", False),
        ("a/b/c", False),
        ("./net", False),
        ("../net", False),
        ("/me/net", False),
        ("me/net@", False),
        ("runs/last.safetensors", False),
        ("weights/mobilevit_s.pt", False),
        ("https://huggingface.co/me/net", False),
        (r"C:\me\net", False),
    ],
)
def test_names_on_the_hub_are_told_from_paths(source: str, expected: bool) -> None:
    assert is_repo(source) is expected


def test_what_exists_on_disk_is_no_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_repo("runs/photos")
    (tmp_path / "runs" / "photos").mkdir(parents=True)
    assert not is_repo("runs/photos")


def test_what_a_loader_needs_is_downloaded_and_nothing_more(hub: HubServer) -> None:
    hub.add(
        "me/net",
        model__safetensors=BYTES,
        pytorch_model__bin=OTHER,
        config__json=b"{}",
        preprocessor_config__json=b'{"size": 1}',
        README__md=b"# net",
    )
    folder = fetch("me/net")
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors",
        "config.json",
        "preprocessor_config.json",
    }
    assert (folder / "model.safetensors").read_bytes() == BYTES
    assert (folder / "preprocessor_config.json").read_bytes() == b'{"size": 1}'


def test_what_is_in_the_cache_is_not_downloaded_again(hub: HubServer) -> None:
    source = hub.add("me/net", model__safetensors=BYTES)
    assert fetch("me/net") == fetch("me/net")
    assert hub.downloads("model.safetensors") == 1
    (source / "model.safetensors").write_bytes(OTHER)
    assert (fetch("me/net") / "model.safetensors").read_bytes() == OTHER


@pytest.mark.parametrize(
    "files",
    [
        ("pytorch_model.bin", "training_args.bin", "config.json"),
        ("mobilevit_s.pt", "README.md", "model.onnx"),
    ],
)
def test_a_pickle_is_taken_where_there_is_nothing_better(
    hub: HubServer, files: tuple[str, ...]
) -> None:
    folder = hub.add("me/net")
    for file in files:
        (folder / file).write_bytes(BYTES)
    taken = {path.name for path in fetch("me/net").iterdir()}
    assert taken == {files[0]} | ({"config.json"} & set(files))


@pytest.mark.parametrize("files", [("config.json", "tf_model.h5"), ("one.pt", "two.pt"), ()])
def test_a_repository_without_clear_weights_is_refused_with_what_it_has(
    hub: HubServer, files: tuple[str, ...]
) -> None:
    folder = hub.add("me/net")
    for file in files:
        (folder / file).write_bytes(BYTES)
    there = ", ".join(files) or "nothing at all"
    with pytest.raises(
        UserError, match=rf"me/net: there is no model\.safetensors.* only {there}\.$"
    ):
        fetch("me/net")
    assert not any("resolve" in path for _, path in hub.requests)


def test_revisions_are_kept_apart(hub: HubServer) -> None:
    hub.add("me/net", model__safetensors=BYTES)
    hub.add("me/net@v1", model__safetensors=OTHER)
    newest, tagged = fetch("me/net"), fetch("me/net@v1")
    assert (newest / "model.safetensors").read_bytes() == BYTES
    assert (tagged / "model.safetensors").read_bytes() == OTHER
    assert fetch(f"me/net@{tagged.name}") == tagged  # the folder is named after the commit
    with pytest.raises(UserError, match=r"me/net@v2: it has no revision 'v2'\. Without '@v2'"):
        fetch("me/net@v2")


@pytest.mark.parametrize(
    ("piece", "fault", "message"),
    [
        (
            "/api/models/",
            (404, "RepoNotFound"),
            "has no such model.*private one, log in with `hf auth",
        ),
        ("/api/models/", (401, "RepoNotFound"), "has no such model.*private one.*HF_TOKEN"),
        ("/api/models/", (401, ""), "the hub refuses access.*401.*HF_TOKEN"),
        (
            "/resolve/",
            (403, "GatedRepo"),
            r"its owner grants access\. Ask at http.*/me/net, then.*HF_TOKEN",
        ),
        ("/api/models/", (403, ""), "the hub refuses access.*403.*HF_TOKEN"),
        ("/resolve/", (403, ""), "the hub refuses access.*403.*HF_TOKEN"),
        ("/api/models/", (500, ""), r"http.* does not answer as the hub does.*500.*try again\."),
    ],
)
def test_refusals_are_told_with_a_way_out(
    hub: HubServer, piece: str, fault: tuple[int, str], message: str
) -> None:
    hub.add("me/net", model__safetensors=BYTES)
    hub.faults[piece] = fault
    with pytest.raises(UserError, match=f"(?s)^me/net: .*{message}"):
        fetch("me/net")


def test_a_hub_that_refuses_is_not_answered_from_the_cache(hub: HubServer) -> None:
    hub.add("me/net", model__safetensors=BYTES)
    fetch("me/net")
    hub.faults["/api/models/"] = (404, "RepoNotFound")
    with pytest.raises(UserError, match="has no such model"):
        fetch("me/net")


def test_a_download_that_breaks_off_goes_on_where_it_was(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
    hub.add("me/net", model__safetensors=BYTES)
    hub.cut_after = 120_000
    folder = fetch("me/net")
    assert hub.ranges == ["bytes=100000-"]
    assert sha256(folder / "model.safetensors") == sha256(hub.root / "me/net/model.safetensors")


def test_damaged_weights_are_refused_and_leave_the_cache(hub: HubServer, tmp_path: Path) -> None:
    hub.add("me/net", model__safetensors=BYTES)
    hub.wrong_bytes = True
    with pytest.raises(UserError, match=r"me/net: model\.safetensors is damaged.*try again"):
        fetch("me/net")
    assert cache(tmp_path) == []
    hub.wrong_bytes = False
    assert (fetch("me/net") / "model.safetensors").read_bytes() == BYTES


def test_weights_that_rot_in_the_cache_are_found_without_the_hub(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("me/net", model__safetensors=BYTES)
    fetch("me/net")
    (blob,) = cache(tmp_path)
    blob.write_bytes(BYTES[:-1] + b"?")
    with monkeypatch.context() as offline:
        go_offline(offline)
        with pytest.raises(UserError, match="damaged"):
            fetch("me/net")
        with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, and there is no copy"):
            fetch("me/net")
    assert (fetch("me/net") / "model.safetensors").read_bytes() == BYTES


def test_a_blob_shared_between_repositories_is_checked_by_the_name_of_the_link_to_it(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.add("me/net", model__safetensors=BYTES)
    fetch("me/net")
    (blob,) = cache(tmp_path)
    shared = tmp_path / "home" / "hub" / "blobs" / ("e" * 64)
    shared.parent.mkdir()
    blob.rename(shared)
    blob.symlink_to(shared)
    assert (fetch("me/net") / "model.safetensors").read_bytes() == BYTES
    shared.write_bytes(OTHER)
    with pytest.raises(UserError, match="damaged"):
        fetch("me/net")
    assert cache(tmp_path) == []
    assert not shared.exists()


def test_where_there_are_no_links_the_listing_of_the_hub_is_compared(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    hub.add("me/net", model__safetensors=BYTES)
    hub.wrong_bytes = True
    with pytest.raises(UserError, match="damaged"):
        fetch("me/net")
    hub.wrong_bytes = False
    weights = fetch("me/net") / "model.safetensors"
    assert not weights.is_symlink()
    assert weights.read_bytes() == BYTES


def test_a_hub_that_is_down_is_answered_from_the_cache(
    hub: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add("me/net", model__safetensors=BYTES)
    folder = fetch("me/net")
    hub.faults["/api/"] = (503, "")
    assert fetch("me/net") == folder
    hub.stop()
    assert fetch("me/net") == folder
    assert caplog.messages.count("me/net: the hub does not answer; the cached copy is used") == 2
    with pytest.raises(
        UserError,
        match=r"me/other: http://127.* does not answer as the hub does.*Connect.*try again",
    ):
        fetch("me/other")


def test_half_a_repository_in_the_cache_is_none(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import hf_hub_download

    hub.add("me/net", model__safetensors=BYTES, config__json=b"{}")
    hf_hub_download("me/net", "config.json")
    go_offline(monkeypatch)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, and there is no copy of it in"):
        fetch("me/net")


def test_the_variables_of_the_hub_are_followed(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom mobilevit.checkpoints.hub import fetch\n"
        "for repo in sys.argv[1:]:\n"
        "    try: print(fetch(repo))\n"
        "    except Exception as error: print(type(error).__name__, error)"
    )

    def lines(offline: bool) -> list[str]:
        variables = hubserver.environment(server.endpoint, tmp_path / "home", offline)
        command = [sys.executable, "-c", code, "me/net", "me/other"]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
        assert "the hub does not answer" not in done.stderr
        return done.stdout.splitlines()

    with hubserver.serving(tmp_path / "repositories") as server:
        server.add("me/net", model__safetensors=BYTES)
        folder, missing = lines(offline=False)
        assert Path(folder).is_relative_to(tmp_path / "home")
        assert missing.startswith(f"UserError me/other: {server.endpoint} has no such model")
        asked = len(server.requests)
        again, missing = lines(offline=True)
        assert again == folder
        assert missing.startswith("UserError me/other: HF_HUB_OFFLINE is set")
        assert len(server.requests) == asked


def test_a_name_that_no_hub_takes_is_said_to_be_one(hub: HubServer, run: Path) -> None:
    with pytest.raises(UserError, match=r"me/net\.\.2: the hub does not take this"):
        push_to_hub(run, "me/net..2")
    assert hub.requests == []


def test_a_missing_library_is_answered_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r'pip install "mobilevit\[hub\]"'):
        fetch("me/net")


def test_what_is_pushed_comes_back(hub: HubServer, run: Path) -> None:
    assert push_to_hub(run, "me/net", private=True) == f"{hub.endpoint}/me/net"
    assert hub.private == {"me/net"}
    pushed = hub.root / "me" / "net"
    assert {path.name for path in pushed.iterdir()} == {
        "model.safetensors",
        "config.json",
        "README.md",
    }
    assert 'predict("me/net"' in (pushed / "README.md").read_text()
    assert same(load_checkpoint(fetch("me/net") / "model.safetensors"), load_checkpoint(run))


def test_a_second_push_goes_to_the_same_repository(hub: HubServer, run: Path) -> None:
    hub.add("me/net", notes__txt=b"mine")
    assert push_to_hub(run / "best.safetensors", "me/net") == f"{hub.endpoint}/me/net"
    assert (hub.root / "me" / "net" / "notes.txt").read_bytes() == b"mine"
    assert (hub.root / "me" / "net" / "model.safetensors").is_file()


def test_a_push_without_the_right_is_refused(
    hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    with pytest.raises(UserError, match=r"(?s)me/net: the hub refuses access.*401.*hf auth login"):
        push_to_hub(run, "me/net")
    assert not (hub.root / "me").exists()


def test_nothing_is_pushed_offline(
    hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_offline(monkeypatch)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, so nothing is uploaded"):
        push_to_hub(run, "me/net")
    assert hub.requests == []


def test_an_upload_that_fails_says_why(hub: HubServer, run: Path) -> None:
    hub.faults["/uploads/"] = (403, "")
    with pytest.raises(UserError, match=r"(?s)me/net: the hub refuses access.*403"):
        push_to_hub(run, "me/net")
    assert list((hub.root / "me" / "net").iterdir()) == []


def test_a_saved_folder_reads_back_without_the_state_of_training(run: Path, tmp_path: Path) -> None:
    folder = save_pretrained(run, tmp_path / "new" / "net")
    assert folder == tmp_path / "new" / "net"
    assert [path.name for path in folder.parent.iterdir()] == ["net"]
    loaded = load_checkpoint(folder / "model.safetensors", training=True)
    assert same(loaded, load_checkpoint(run))
    assert loaded.recipe == {"training": {"epochs": 3}}
    assert loaded.progress == {}
    assert loaded.training == {}
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["library_name"] == "mobilevit"
    assert config["architecture"]["model"] == "mobilevit_xxs"
    assert config["contract"]["class_names"] == ["Katze", "犬", "a b"]
    assert config["metrics"] == {"top1": 0.625}
    assert (folder / "README.md").read_text(encoding="utf-8").startswith("---\n")


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("timm/mobilevit_xxs.cvnets_in1k", "timm/mobilevit_xxs.cvnets_in1k"),
        ("/home/ann/secret project/net.pt", "net.pt"),
        ("weights/net.pt", "net.pt"),
    ],
)
def test_where_weights_came_from_is_kept_without_the_folders(
    run: Path, tmp_path: Path, source: str, kept: str
) -> None:
    provenance = {"source": source, "library": "timm", "sha256": "ab" * 32}
    checkpoint = dataclasses.replace(load_checkpoint(run), provenance=provenance)
    save_folder(checkpoint, tmp_path / "net")
    saved = load_checkpoint(tmp_path / "net" / "model.safetensors")
    assert saved.provenance == provenance | {"source": kept}
    assert f"came from `{kept}`, as timm" in (tmp_path / "net" / "README.md").read_text()
    assert load_checkpoint(run).provenance == {}


def test_a_folder_with_something_in_it_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    save_pretrained(run, tmp_path / "net")  # it is empty
    before = sha256(tmp_path / "net" / "model.safetensors")
    for taken in (tmp_path / "net", tmp_path / "net" / "README.md"):
        with pytest.raises(UserError, match="it exists and is not empty"):
            save_pretrained(run, taken)
    assert sha256(tmp_path / "net" / "model.safetensors") == before


def test_a_folder_that_fails_half_way_does_not_appear(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mobilevit.checkpoints.card

    def fail(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mobilevit.checkpoints.card, "model_card", fail)
    with pytest.raises(OSError, match="No space left"):
        save_pretrained(run, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_the_digest_is_the_known_one(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2
    assert sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")
