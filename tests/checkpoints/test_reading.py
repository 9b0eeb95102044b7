"""Weights files as people have them: whole, wrapped, broken, and hostile."""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor, nn

from mobilevit import UserError
from mobilevit.checkpoints.reading import check_tensors, read_safetensors, read_tensors

fuzzed = settings(max_examples=150, deadline=None)
legacy = functools.partial(torch.save, _use_new_zipfile_serialization=False)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


STATE = dict(network().state_dict())
AVERAGE = {k: v * 2 if v.is_floating_point() else v for k, v in STATE.items()}


def pickled(content: object, write: Callable[..., None] = torch.save) -> bytes:
    file = io.BytesIO()
    write(content, file)
    return file.getvalue()


def zipped(name: str, content: bytes = b"", compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def header(content: object, size: int | None = None) -> bytes:
    """Return a safetensors file that is a header alone, which may lie about its own size."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


WHOLE = {
    "weights.safetensors": save(STATE),
    "weights.pt": pickled(STATE),
    "weights.pth": pickled(STATE, legacy),
    "safetensors.bin": save(STATE),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_state_dict_is_read_whatever_the_file_is_called(tmp_path: Path, name: str) -> None:
    raw = read_tensors(written(tmp_path, name, WHOLE[name]))
    assert same(raw.tensors, STATE)
    assert raw.path == tmp_path / name
    assert raw.unwrapped == ""
    assert raw.metadata == {}


def test_metadata_is_that_of_the_header(tmp_path: Path) -> None:
    path = written(tmp_path, "a.safetensors", save(STATE, {"format": "pt"}))
    assert read_tensors(path).metadata == {"format": "pt"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("write", [save, pickled])
def test_every_precision_becomes_float32(
    tmp_path: Path, dtype: torch.dtype, write: Callable[[Any], bytes]
) -> None:
    tensors = {"weight": torch.tensor([[0.5, -2.0]], dtype=dtype), "bias": torch.tensor([3.0])}
    tensors["norm.num_batches_tracked"] = torch.tensor(7)
    read = read_tensors(written(tmp_path, "a.bin", write(tensors))).tensors
    assert read["weight"].dtype == torch.float32
    assert read["weight"].tolist() == [[0.5, -2.0]]
    assert read["norm.num_batches_tracked"].dtype == torch.int64
    assert read["norm.num_batches_tracked"] == 7


@pytest.mark.parametrize("name", WHOLE)
def test_tensors_outlive_their_file(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, WHOLE[name])
    tensors = read_tensors(path).tensors
    with path.open("r+b") as file:
        file.write(bytes(len(WHOLE[name])))
    assert same(tensors, STATE)


def test_views_and_parameters_are_read_as_plain_tensors(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    content = {"turned": base.T, "part": base[1:, 2:], "weight": nn.Parameter(base)}
    read = read_tensors(written(tmp_path, "a.pt", pickled(content))).tensors
    assert same(read, {"turned": base.T, "part": base[1:, 2:], "weight": base})
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in read.values())


@pytest.mark.parametrize("write", [torch.save, legacy])
def test_a_training_checkpoint_of_cvnets_gives_its_average(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    moments = {i: {"step": torch.tensor(9.0), "exp_avg": torch.ones(4)} for i in range(4)}
    content = {
        "iterations": 100,
        "epoch": 3,
        "model_state_dict": STATE,
        "optim_state_dict": {"state": moments, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
        "best_metric": 71.5,
        "gradient_scaler_state_dict": {},
        "ema_state_dict": AVERAGE,
    }
    raw = read_tensors(written(tmp_path, "a.pt", pickled(content, write)))
    assert same(raw.tensors, AVERAGE)
    assert raw.unwrapped.startswith("'ema_state_dict', the averaged weights, of 'iterations'")
    del content["ema_state_dict"]
    raw = read_tensors(written(tmp_path, "a.pt", pickled(content, write)))
    assert same(raw.tensors, STATE)
    assert raw.unwrapped.startswith("'model_state_dict' of 'iterations', 'epoch'")


@pytest.mark.parametrize("average", [False, True])
def test_a_training_checkpoint_of_timm_is_read(tmp_path: Path, average: bool) -> None:
    utils = pytest.importorskip("timm.utils")
    model = network()
    optimiser = torch.optim.AdamW(model.parameters())
    ema = utils.ModelEmaV3(model) if average else None
    if ema is not None:
        ema.module.load_state_dict(AVERAGE)
    command = argparse.Namespace(model="mobilevit_s", lr=0.1, device=torch.device("cpu"), mean=None)
    saver = utils.CheckpointSaver(
        model, optimiser, command, model_ema=ema, checkpoint_dir=str(tmp_path)
    )
    saver.save_checkpoint(0, metric=71.5)
    raw = read_tensors(tmp_path / "last.pth.tar")
    assert same(raw.tensors, AVERAGE if average else STATE)
    assert ("averaged" in raw.unwrapped) == average


@pytest.mark.parametrize(
    "ema",
    [{"decay": 0.999, "updates": 9}, {"model": {"decay": 1}}, {"module": AVERAGE, "updates": 9}],
    ids=["settings", "settings within", "weights"],
)
def test_an_average_counts_if_it_holds_weights(ema: dict[str, object], tmp_path: Path) -> None:
    content = {"model": dict(STATE), "ema": ema}
    raw = read_tensors(written(tmp_path, "a.pt", pickled(content)))
    assert same(raw.tensors, AVERAGE if "module" in ema else STATE)


def test_prefixes_of_wrapped_modules_are_removed(tmp_path: Path) -> None:
    compiled = nn.ModuleDict({"_orig_mod": network()})  # what torch.compile makes of names
    average = torch.optim.swa_utils.AveragedModel(compiled)
    assert {"n_averaged", "module._orig_mod.0.weight"} <= average.state_dict().keys()
    content = {"model": {}, "model_ema": average.state_dict(), "args": argparse.Namespace()}
    raw = read_tensors(written(tmp_path, "a.pth", pickled(content)))
    assert same(raw.tensors, STATE)
    assert raw.unwrapped.endswith(
        "without 'n_averaged'; names without 'module.'; names without '_orig_mod.'"
    )
    parallel = {f"_orig_mod.module.{name}": tensor for name, tensor in STATE.items()}
    path = written(tmp_path, "a.safetensors", save(parallel))
    assert same(read_tensors(path).tensors, STATE)


def test_a_prefix_that_only_some_names_have_is_part_of_them(tmp_path: Path) -> None:
    tensors = {"module.weight": torch.ones(1), "weight": torch.ones(1)}
    raw = read_tensors(written(tmp_path, "a.pt", pickled(tensors)))
    assert same(raw.tensors, tensors)


def test_what_is_no_tensor_is_left_out_and_named(tmp_path: Path) -> None:
    content = STATE | {"epoch": 3, "classes": ["a", "b"]}
    raw = read_tensors(written(tmp_path, "a.pt", pickled(content)))
    assert same(raw.tensors, STATE)
    assert raw.unwrapped == "without 'epoch', 'classes'"


def test_reading_is_quiet_and_leaves_no_trace(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    allowed = set(torch.serialization.get_safe_globals())
    content = {"state_dict": STATE, "args": argparse.Namespace(lr=1)}
    path = written(tmp_path, "a.pt", pickled(content))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        read_tensors(path)
        for name, damaged in (("b.pt", pickle.dumps({}, 4)), ("c.pt", SCRIPTED)):
            with pytest.raises(UserError):
                read_tensors(written(tmp_path, name, damaged))
    assert warned == []
    assert capfd.readouterr() == ("", "")
    assert set(torch.serialization.get_safe_globals()) == allowed


class Bomb:
    """Runs a command where a pickle of it is loaded without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("write", [torch.save, legacy, lambda x, file: file.write(pickle.dumps(x))])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, write: Callable[..., None]) -> None:
    content = {"state_dict": STATE, "args": Bomb(tmp_path / "ran")}
    path = written(tmp_path, "a.pt", pickled(content, write))
    with pytest.raises(UserError, match=r"a\.pt: .*(would run code|not written by a plain)"):
        read_tensors(path)
    assert not (tmp_path / "ran").exists()


def cyclic() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorch's plans for what is made here
    SCRIPTED = pickled(torch.jit.trace(nn.ReLU(), torch.ones(1)), torch.jit.save)
    QUANTISED = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    SPARSE = torch.eye(3).to_sparse()

WHOLE_MODULE = r"a whole pickled model.*\('torch\.nn\.modules\.\w+\.\w+'\).*model\.state_dict\(\)"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0af2\nsize 22400000\n"
HUGE = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
OVERFLOWING = {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]}
REFUSED = {
    "empty.pt": (b"", "it is empty"),
    "pointer.bin": (POINTER, "pointer of git-LFS.*git lfs pull"),
    "page.pt": (b"\n<!DOCTYPE html>\n<html>caf\xc3\xa9", "web page"),
    "answer.safetensors": (b"Entry not found", "no weights file but text .'Entry not found'"),
    "answer.json": (b'{"error": "gated"}', "it is no weights file but text"),
    "letter.docx": (zipped("word/document.xml", b"<w/>"), "a zip, but no checkpoint.*document"),
    "net.onnx": (b"\x08\x07\x12\x07pytorch", "neither safetensors nor a file of torch.save"),
    "net.h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "neither safetensors nor a file of torch.save"),
    "net.tar": (bytes(2000), "neither safetensors nor a file of torch.save"),
    "script.pt": (SCRIPTED, "TorchScript"),
    "module.pt": (pickled(nn.Conv2d(3, 4, 3)), WHOLE_MODULE),
    "old-module.pt": (pickled({"ema": nn.ReLU()}, legacy), WHOLE_MODULE),
    "plain.pkl": (pickle.dumps({"a": 1}, 2), "not written by a plain torch.save"),
    "pickle.safetensors": (pickled(STATE), "Rename it to 'pickle.pt'"),
    "list.pt": (pickled([1, 2]), "no named tensors, only a list"),
    "one.pt": (pickled(torch.ones(3)), "no named tensors, only a Tensor"),
    "none.pt": (pickled({"epoch": 3, "args": {}}), "no named tensors, only 'epoch', 'args'"),
    "numbered.pt": (pickled({0: torch.ones(1)}), "no named tensors"),
    "itself.pt": (pickled(cyclic()), "no named tensors, only 'model'"),
    "none.safetensors": (save({}, {"a": "b"}), "no named tensors"),
    "packed.pt": (zipped("a/data.pkl", b"\x80\2", zipfile.ZIP_DEFLATED), "compressed zip"),
    "int8.pt": (pickled({"w": torch.ones(3, dtype=torch.int8)}), "'w' is int8"),
    "int64.safetensors": (save({"w": torch.ones(3, dtype=torch.int64)}), "'w' is int64"),
    "float8.safetensors": (save({"w": torch.ones(3).to(torch.float8_e5m2)}), "'w' is float8_e5m2"),
    "complex.pt": (pickled({"w": torch.ones(3, dtype=torch.complex64)}), "'w' is complex64"),
    "counter.pt": (pickled({"num_batches_tracked": torch.tensor(True)}), "is bool"),
    "quantised.pt": (pickled({"w": QUANTISED}), "'w' is qint8"),
    "sparse.pt": (pickled({"w": SPARSE}), "'w' is float32, sparse_coo"),
    "meta.pt": (pickled({"w": torch.ones(3, device="meta")}), "'w' is .* on meta"),
    "nan.pt": (pickled({"v": torch.ones(1), "w": torch.tensor([1, torch.nan])}), "'w' holds NaN"),
    "inf.safetensors": (save({"w": torch.tensor(-torch.inf)}), "'w' holds NaN or infinite"),
    "large.pt": (pickled({"w": torch.tensor(1e300, dtype=torch.float64)}), "'w' holds .*infinite"),
    "spread.pt": (pickled({"w": torch.ones(1).expand(10**6, 10**6)}), "larger than the file"),
    "lies.safetensors": (header({"w": HUGE}), "cannot be read as safetensors"),
    "overflow.safetensors": (header({"w": OVERFLOWING}), "cannot be read as safetensors"),
    "long.safetensors": (header({}, 2**50), "cannot be read as safetensors"),
    "longest.safetensors": (header({}, 2**64 - 1), "cannot be read as safetensors"),
    "words.safetensors": (header(b"no json"), "cannot be read as safetensors"),
    "deep.safetensors": (header(b"{" * 10**5), "cannot be read as safetensors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused_by_what_they_are(tmp_path: Path, name: str) -> None:
    content, message = REFUSED[name]
    with pytest.raises(UserError, match=rf"(?s)/{name}: .*{message}"):
        read_tensors(written(tmp_path, name, content))


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.pt: it cannot be opened \(No such file"):
        read_tensors(tmp_path / "no.pt")
    with pytest.raises(UserError, match=r"it cannot be opened \(Is a directory"):
        read_tensors(tmp_path)


def test_messages_show_no_control_characters(tmp_path: Path) -> None:
    path = written(tmp_path, "a.pt", pickled({"\x1b[2Jw": torch.tensor(torch.nan)}))
    with pytest.raises(UserError) as refused:
        read_tensors(path)
    assert str(refused.value).isprintable()


def test_a_flipped_bit_in_a_weight_is_seen_by_the_sum_of_a_zip(tmp_path: Path) -> None:
    place = WHOLE["weights.pt"].index(STATE["0.weight"].numpy().tobytes())
    content = bytearray(WHOLE["weights.pt"])
    content[place + 5] ^= 1
    with pytest.raises(UserError, match=r"damaged: the sum of '.*/data/0' is wrong"):
        read_tensors(written(tmp_path, "a.pt", bytes(content)))


def test_names_can_be_left_unread(tmp_path: Path) -> None:
    tensors = {"weight": torch.ones(2), "training.step": torch.tensor(3)}
    path = written(tmp_path, "a.safetensors", save(tensors, {"format": "x"}))
    assert read_safetensors(path)[0].keys() == tensors.keys()
    read, metadata = read_safetensors(path, skip="training.")
    assert same(read, {"weight": torch.ones(2)})
    assert metadata == {"format": "x"}
    assert same(check_tensors(path, read), read)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "fuzzed.pt"


FUZZED = {
    "safetensors": WHOLE["weights.safetensors"],
    "zip": pickled({"epoch": 3, "state_dict": STATE, "args": SimpleNamespace().__dict__}),
    "legacy": pickled({"state_dict": STATE, "args": argparse.Namespace(lr=0.1)}, legacy),
}
kinds = st.sampled_from(list(FUZZED))


def answer(path: Path, content: bytes) -> dict[str, Tensor] | None:
    """Return what is read, if it is sound, or nothing if the file is refused; or fail."""
    path.write_bytes(content)
    try:
        tensors = read_tensors(path).tensors
    except UserError:
        return None
    assert tensors
    assert sum(tensor.nbytes for tensor in tensors.values()) <= 4 * len(content)
    for tensor in tensors.values():
        assert tensor.dtype in (torch.float32, torch.int64)
        assert tensor.isfinite().all()
    return tensors


@fuzzed
@given(kind=kinds, part=st.floats(0, 1, exclude_max=True))
def test_no_part_of_a_file_is_read(scratch: Path, kind: str, part: float) -> None:
    content = FUZZED[kind]
    assert answer(scratch, content[: int(part * len(content))]) is None


@fuzzed
@given(kind=kinds, flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7))))
def test_flipped_bits_are_refused_or_do_no_harm(
    scratch: Path, kind: str, flips: list[tuple[float, int]]
) -> None:
    content = bytearray(FUZZED[kind])
    for place, bit in flips:
        content[int(place * len(content))] ^= 1 << bit
    tensors = answer(scratch, bytes(content))
    if kind == "zip" and tensors is not None:  # the only kind with sums
        assert same(tensors, STATE)


@fuzzed
@given(
    begin=st.sampled_from((b"", b"PK\3\4", b"\x80\x02", FUZZED["zip"][:80], FUZZED["legacy"][:40])),
    noise=st.binary(max_size=200),
)
def test_noise_is_refused(scratch: Path, begin: bytes, noise: bytes) -> None:
    assert answer(scratch, begin + noise) is None


numbers = st.sampled_from((-1, 0, 1, 2, 4, 8, 2**31, 2**62, 2**63, 2**64))
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(("F32", "F16", "F64", "I64", "F4", "", 3)),
        "shape": st.lists(numbers, max_size=3),
        "data_offsets": st.lists(numbers, min_size=1, max_size=3),
    }
)


@fuzzed
@given(
    content=st.dictionaries(st.sampled_from(("a", "b", "__metadata__")), entries, max_size=2),
    data=st.sampled_from((0, 1, 4, 8, 16)),
)
def test_made_up_headers_are_refused_or_right(
    scratch: Path, content: dict[str, Any], data: int
) -> None:
    tensors = answer(scratch, header(content) + bytes(data))
    for name, tensor in (tensors or {}).items():
        assert list(tensor.shape) == content[name]["shape"]
