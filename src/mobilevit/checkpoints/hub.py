"""Networks from the Hugging Face hub, and ours to it.

All traffic goes through `huggingface_hub`: its cache, its token, ``HF_ENDPOINT``,
``HF_HUB_OFFLINE``, its resumed downloads and its progress bars are what users know from elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mobilevit.checkpoints.configs import CONFIG, PROCESSOR
from mobilevit.errors import UserError, require
from mobilevit.files import PICKLES, choose_weights, making

if TYPE_CHECKING:
    from mobilevit.checkpoints.files import Checkpoint

WEIGHTS = "model.safetensors"
SETTINGS = (CONFIG, PROCESSOR)

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", re.ASCII)
_FILES = (".safetensors", *PICKLES, ".onnx")
_REFUSALS = (401, 403, 404)

logger = logging.getLogger(__name__)


def is_repo(source: str) -> bool:
    """Tell whether this is ``owner/name`` or ``owner/name@revision``, and nothing on this disk."""
    return (
        _REPO.fullmatch(source) is not None
        and not source.endswith(_FILES)
        and not Path(source).exists()
    )


def fetch(repo: str) -> Path:
    """Download a network, or find it in the cache.

    The weights are compared with the SHA-256 that the hub gives for them, each time. Where the
    hub cannot be reached, the copy in the cache is used.

    Args:
        repo: ``owner/name``; ``owner/name@revision`` for a branch, a tag or a commit.

    Returns:
        A folder of the hub's cache: in it are one file of weights, the one that
        ``files.choose_weights`` chooses, and those of ``SETTINGS`` that the repository has.

    Raises:
        UserError: when it cannot be had, or arrived damaged.
        MissingExtraError: when huggingface_hub is not installed.
    """
    hub = require("huggingface_hub", "hub")
    constants = require("huggingface_hub.constants", "hub")
    name, _, revision = repo.partition("@")
    wanted = {"repo_id": name, "revision": revision or None}
    with _explaining(repo):
        try:
            info = hub.HfApi().model_info(
                **wanted, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
        except _failures() as error:
            cached = None if _status(error) in _REFUSALS else _cached(hub, wanted)
            if cached is None:
                raise
            if not constants.HF_HUB_OFFLINE:
                logger.warning("%s: the hub does not answer; the cached copy is used", repo)
            _check(repo, cached)
            return cached.parent
        listed = {file.rfilename: file.lfs.sha256 if file.lfs else "" for file in info.siblings}
        weights = choose_weights(listed)
        if weights is None:
            raise UserError(
                f"{repo}: there is no {WEIGHTS}, no pytorch_model.bin and no single .pt file in "
                f"it, only {', '.join(sorted(listed)) or 'nothing at all'}."
            )
        folder = Path(hub.snapshot_download(**wanted, allow_patterns=[*SETTINGS, weights]))
        _check(repo, folder / weights, listed[weights])
        return folder


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def save_pretrained(model: str | Path, folder: str | Path) -> Path:
    """Write a network as a folder that a hub can show.

    It holds ``model.safetensors`` (a checkpoint without the state of training), ``config.json``
    and ``README.md`` (the model card), and appears whole or not at all.

    Args:
        model: whatever ``load_pretrained`` takes: a run folder, a checkpoint, other weights.
        folder: to be made, or empty.

    Returns:
        The folder.

    Raises:
        UserError: when the model cannot be read, or there is something in ``folder``.
    """
    from mobilevit.checkpoints.pretrained import load_pretrained

    save_folder(load_pretrained(model).checkpoint, Path(folder))
    return Path(folder)


def save_folder(checkpoint: Checkpoint, folder: Path) -> None:
    """Write what ``save_pretrained`` writes, of a checkpoint that is loaded.

    Raises:
        UserError: when there is something in ``folder``.
    """
    with making(folder) as made:
        _write(checkpoint, made, folder.resolve().name)


def push_to_hub(model: str | Path, repo: str, private: bool = False) -> str:
    """Upload a network to the hub, making the repository where there is none.

    A model card that is there already is replaced; the repository's history keeps it.

    Args:
        model: whatever ``load_pretrained`` takes: a run folder, a checkpoint, other weights.
        repo: ``owner/name``.
        private: whether a new repository is to be seen by its owner only.

    Returns:
        The address of the repository.

    Raises:
        UserError: when the model cannot be read, or the hub refuses it or cannot be reached.
        MissingExtraError: when huggingface_hub is not installed.
    """
    from mobilevit.checkpoints.pretrained import load_pretrained

    hub = require("huggingface_hub", "hub")
    if require("huggingface_hub.constants", "hub").HF_HUB_OFFLINE:
        raise UserError(f"{repo}: HF_HUB_OFFLINE is set, so nothing is uploaded. Unset it.")
    checkpoint = load_pretrained(model).checkpoint
    with tempfile.TemporaryDirectory() as folder:
        _write(checkpoint, Path(folder), repo)
        with _explaining(repo):
            api = hub.HfApi()
            address = api.create_repo(repo, private=private, exist_ok=True)
            message = f"Upload {checkpoint.architecture['model']}"
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
    return str(address)


def _write(checkpoint: Checkpoint, folder: Path, name: str) -> None:
    from mobilevit.checkpoints.card import model_card
    from mobilevit.checkpoints.files import save_checkpoint

    checkpoint = replace(
        checkpoint, progress={}, training={}, provenance=_public(checkpoint.provenance)
    )
    save_checkpoint(folder / WEIGHTS, checkpoint)
    config = {
        "library_name": "mobilevit",
        "architecture": checkpoint.architecture,
        "contract": asdict(checkpoint.contract),
        "metrics": checkpoint.metrics,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(model_card(checkpoint, name), encoding="utf-8")


def _public(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return where weights came from without the folders of this machine."""
    source = str(provenance.get("source", ""))
    named = source if is_repo(source) else Path(source).name
    return {**provenance, "source": named} if named else dict(provenance)


def _cached(hub: ModuleType, wanted: dict[str, str | None]) -> Path | None:
    """Find the weights in the cache, without the hub."""
    try:  # no pattern: the folder is asked for, whatever of the repository it holds
        found = hub.snapshot_download(**wanted, local_files_only=True, allow_patterns=[])
    except FileNotFoundError:
        return None
    folder = Path(found)
    weights = choose_weights(path.name for path in folder.iterdir())
    return folder / weights if weights else None


def _check(repo: str, weights: Path, listed: str = "") -> None:
    """Compare weights with their SHA-256, and remove them from the cache if they differ.

    In the cache they are a link to a file that is named after it; where the system has no links,
    what the hub ``listed`` is taken. (The link may lead on, to a file named after something else.)
    """
    expected = weights.readlink().name if weights.is_symlink() else listed
    if len(expected) != hashlib.sha256().digest_size * 2 or sha256(weights) == expected:
        return
    path = weights
    while path.is_symlink():
        link, path = path, path.parent / path.readlink()
        link.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    raise UserError(
        f"{repo}: {weights.name} is damaged, its SHA-256 is not {expected} as the hub says. It was "
        "removed from the cache; try again to download it anew."
    )


@contextmanager
def _explaining(repo: str) -> Iterator[None]:
    """Turn a failure of the library into a sentence."""
    try:
        yield
    except _failures() as error:
        raise UserError(f"{repo}: {_explanation(repo, error)}") from error


def _failures() -> tuple[type[Exception], ...]:
    """Return what the library raises: errors of its own, of its HTTP client, of its transfers."""
    http_error = require("huggingface_hub.errors", "hub").HfHubHTTPError
    return (OSError, RuntimeError, ValueError, *http_error.__bases__)


def _explanation(repo: str, error: BaseException) -> str:
    errors = require("huggingface_hub.errors", "hub")
    constants = require("huggingface_hub.constants", "hub")
    if isinstance(error, errors.LocalEntryNotFoundError | RuntimeError):  # the cause says why
        error = error.__cause__ or error
    name, _, revision = repo.partition("@")
    login = "log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return (
            f"HF_HUB_OFFLINE is set, and there is no copy of it in {constants.HF_HUB_CACHE}. Unset "
            "HF_HUB_OFFLINE to reach the hub, or download it once where there is a network."
        )
    if isinstance(error, errors.GatedRepoError):
        return f"its owner grants access. Ask at {constants.ENDPOINT}/{name}, then {login}."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision '{revision}'. Without '@{revision}' the newest is taken."
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{constants.ENDPOINT} has no such model, and there is no such path on this machine. "
            f"Check the name; if it is a private one, {login}."
        )
    if _status(error) in (401, 403):
        return f"the hub refuses access ({_line(error)}). To gain it, {login} with such a right."
    if isinstance(error, errors.HFValidationError) or 400 <= (_status(error) or 0) < 500:
        return f"the hub does not take this ({_line(error)})."
    return (
        f"{constants.ENDPOINT} does not answer as the hub does ({type(error).__name__}: "
        f"{_line(error)}). Check the network, HF_ENDPOINT and the space on the disk; try again."
    )


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that the hub answered with, if it did."""
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
