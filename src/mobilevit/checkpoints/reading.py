"""Weights files of any library, read safely: a flat state dict, or a sentence that says why not.

Such files come from strangers and through downloads that break. Pickles are read by PyTorch's
restricted unpickler alone, which runs no code of the file; what a file is, is judged by its content
and not by its name; and no tensor is handed on unless its type and its values can be a network's.
"""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from mobilevit.errors import UserError

AVERAGED = ("ema_state_dict", "state_dict_ema", "model_ema", "ema")
WRAPPERS = (*AVERAGED, "model_state_dict", "state_dict", "model", "module")
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
AGAIN = "Download or copy it again."


@dataclass(frozen=True)
class RawFile:
    """A weights file as it came.

    Attributes:
        path: the file.
        tensors: the state dict, names as in the file, on the CPU and independent of the file;
            weights in float32, counters of batch-norm in int64.
        metadata: what the header of a safetensors file says; empty for pickles.
        unwrapped: what was around the state dict and where it was found, in words; empty if the
            file is a bare state dict.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    unwrapped: str = ""


def read_tensors(path: Path) -> RawFile:
    """Read a state dict out of a ``.safetensors`` file or a pickle of ``torch.save``.

    A training checkpoint's state dict is found in its entry (an average of the weights is
    preferred) and the prefixes of wrapped modules are removed.

    Raises:
        UserError: when the file is missing, damaged or no weights file, when reading it would run
            code, and when a tensor cannot be a network's weight; the message says which.
    """
    kind = _kind(path)
    content, metadata = (
        read_safetensors(path) if kind == "safetensors" else (_read_pickle(path, kind == "zip"), {})
    )
    tensors, unwrapped = _unwrap(path, content)
    return RawFile(path, check_tensors(path, tensors), metadata, unwrapped)


def read_safetensors(path: Path, skip: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file as they are, and its metadata.

    Args:
        path: the file.
        skip: leave out tensors whose names begin so; empty for none.

    Raises:
        UserError: when it is missing, damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if not skip or not name.startswith(skip)]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except Exception as error:  # of whatever kind: the file decides what goes wrong
        raise UserError(f"{path}: it cannot be read as safetensors ({error}). {AGAIN}") from error


def check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of the weights in float32 (batch-norm's counters in int64).

    Raises:
        UserError: when one is no plain floating-point tensor or holds NaN or infinity, with its
            name, or when they claim to be more than the file can hold.
    """
    room = 2 * path.stat().st_size  # twice, for weights that share their memory
    checked = {}
    for name, tensor in tensors.items():
        types = (*FLOATS, torch.int64) if name.endswith("num_batches_tracked") else FLOATS
        dense = tensor.layout is torch.strided and tensor.device.type == "cpu"
        if not dense or tensor.dtype not in types:
            kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
            raise UserError(
                f"{path}: tensor {name!r} is {kind.replace('torch.', '')}, but weights are dense "
                "float16, bfloat16, float32 or float64. Save the network in one of these."
            )
        room -= tensor.nbytes
        if room < 0:
            raise UserError(f"{path}: its tensors claim to be larger than the file itself. {AGAIN}")
        dtype = torch.float32 if tensor.is_floating_point() else torch.int64
        tensor = tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
        if not tensor.isfinite().all():
            raise UserError(
                f"{path}: tensor {name!r} holds NaN or infinite values. The training that wrote it "
                "diverged, or the file is damaged: take an earlier checkpoint, or copy it again."
            )
        checked[name] = tensor
    return checked


def _kind(path: Path) -> str:
    """Return ``"safetensors"``, ``"zip"`` or ``"pickle"`` by how the file begins."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(f"{path}: it cannot be opened ({error.strerror}).") from error
    if not head:
        raise UserError(f"{path}: it is empty. {AGAIN}")
    if head[4:9] == b"\0\0\0\0{":  # the size of a header below 4 GB, then JSON
        return "safetensors"
    if head.startswith((b"PK\3\4", b"\x80")):
        if path.suffix == ".safetensors":
            raise UserError(
                f"{path}: despite its name, it is a file of torch.save. Rename it to "
                f"'{path.with_suffix('.pt').name}'."
            )
        return "zip" if head.startswith(b"PK") else "pickle"
    if head.startswith(b"version https://git-lfs.github.com/"):
        raise UserError(
            f"{path}: it is a pointer of git-LFS, and the weights themselves were never fetched. "
            "Run 'git lfs pull' in its folder."
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(
            f"{path}: it is a web page that was saved in place of the weights, such as an error or "
            "a log-in. Open its address in a browser, and download it again."
        )
    if re.fullmatch(rb"[\t\r\n -~]+", head):
        begin = head.decode().strip()[:40]
        raise UserError(f"{path}: it is no weights file but text ({begin!r}…). {AGAIN}")
    if path.suffix == ".safetensors":
        return "safetensors"
    raise UserError(
        f"{path}: it is neither safetensors nor a file of torch.save. Give a .safetensors, .pt, "
        ".pth, .bin or .ckpt file."
    )


def _read_pickle(path: Path, zipped: bool) -> object:
    """Return what ``torch.save`` wrote; from a zip, with tensors that stay in the file."""
    if zipped:
        _check_zip(path)
    harmless = torch.serialization.safe_globals([argparse.Namespace])  # timm's command line
    try:
        with warnings.catch_warnings(), harmless:
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", mmap=zipped, weights_only=True)
    except Exception as error:  # of whatever kind: the file decides what goes wrong
        message = str(error)
        if blocked := re.search(r"GLOBAL (\S+) (?:was not|whose)", message):
            raise UserError(
                f"{path}: it holds more than tensors, for example a whole pickled model: reading "
                f"it would run code ({blocked[1]!r}), which this package never does. Where it was "
                "made, save the tensors alone: torch.save(model.state_dict(), 'weights.pt')."
            ) from error
        reason = (message.partition("WeightsUnpickler error:")[2] or message).strip()
        first = (reason or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path}: PyTorch cannot read it ({first}). It is damaged, or not written by a plain "
            f"torch.save. {AGAIN}"
        ) from error


def _check_zip(path: Path) -> None:
    """Refuse a zip that is no checkpoint, could unpack to more than it is, or is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            damaged = archive.testzip() if stored else None
    except Exception as error:  # of whatever kind: the file decides what goes wrong
        raise UserError(f"{path}: it is cut off or damaged ({error}). {AGAIN}") from error
    names = [entry.filename.partition("/")[2] for entry in entries]
    if "constants.pkl" in names:
        raise UserError(
            f"{path}: it is a TorchScript program, of which the weights cannot be read safely. "
            "Where it was made, save the tensors alone: "
            "torch.save(torch.jit.load(file).state_dict(), 'weights.pt')."
        )
    if "data.pkl" not in names:
        held = _listed(entry.filename for entry in entries)
        raise UserError(f"{path}: it is a zip, but no checkpoint of PyTorch; it holds {held}.")
    if not stored:
        raise UserError(f"{path}: it is a compressed zip, which torch.save never writes. {AGAIN}")
    if damaged:
        raise UserError(f"{path}: it is damaged: the sum of {damaged!r} is wrong. {AGAIN}")


def _unwrap(path: Path, content: object) -> tuple[dict[str, Tensor], str]:
    """Find the state dict in what a training loop saved, and say what was done."""
    said = []
    entries = content if isinstance(content, Mapping) else {}
    for _ in range(3):  # a hostile file may hold itself
        inner = {k: v for k, v in entries.items() if isinstance(v, Mapping) and _holds_weights(v)}
        key = next((key for key in WRAPPERS if key in inner), None)
        if key is None:
            break
        average = ", the averaged weights," if key in AVERAGED else ""
        said.append(f"{key!r}{average} of {_listed(entries)}")
        entries = inner[key]
    tensors = {
        name: tensor
        for name, tensor in entries.items()
        if isinstance(name, str) and isinstance(tensor, Tensor) and name != "n_averaged"
    }
    if not tensors:
        held = _listed(entries) or f"a {type(content).__name__}"
        raise UserError(
            f"{path}: it holds no named tensors, only {held}. Where it was made, save the tensors: "
            "torch.save(model.state_dict(), 'weights.pt')."
        )
    if others := [name for name in entries if name not in tensors]:
        said.append(f"without {_listed(others)}")
    for prefix in PREFIXES * 2:  # either may be outermost
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            said.append(f"names without '{prefix}'")
    return tensors, "; ".join(said)


def _holds_weights(entries: Mapping[object, object], depth: int = 3) -> bool:
    """Tell a state dict, or what is wrapped around one, from settings."""
    if any(isinstance(value, Tensor) for value in entries.values()):
        return True
    inner = [entries[key] for key in WRAPPERS if key in entries]
    return depth > 0 and any(isinstance(v, Mapping) and _holds_weights(v, depth - 1) for v in inner)


def _listed(names: Iterable[object]) -> str:
    """Return the first few names, for a sentence."""
    quoted = [repr(name)[:40] for name in names if isinstance(name, str)]
    return ", ".join(quoted[:8]) + (", …" if len(quoted) > 8 else "")
