"""Say what is on pictures."""

from __future__ import annotations

import glob
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from mobilevit.errors import UserError, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from mobilevit.deployment.runtimes import Predictor
    from mobilevit.tasks import Prediction


@dataclass(frozen=True)
class Predictions(Sequence["Prediction"]):
    """Predictions in the order of the pictures; a sequence.

    Attributes:
        model: the file that made them.
        items: one for each picture that could be read.
        unreadable: the other pictures, and why.
        seconds: for reading and running all of them, without loading the model.
    """

    model: str
    items: tuple[Prediction, ...]
    unreadable: dict[str, str]
    seconds: float

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Prediction, ...]: ...
    def __getitem__(self, index: int | slice) -> Prediction | tuple[Prediction, ...]:
        return self.items[index]

    def to_dict(self) -> dict[str, Any]:
        """Return them as plain values for JSON."""
        return {
            "model": self.model,
            "predictions": [item.to_dict() for item in self.items],
            "unreadable": self.unreadable,
            "seconds": round(self.seconds, 4),
        }

    def to_coco(self) -> list[dict[str, Any]]:
        """Return the boxes of a detector in COCO's format of results."""
        return [row for item in self.items for row in item.to_coco()]  # type: ignore[attr-defined]

    def print(self, console: Console) -> None:
        """Print a line for each picture."""
        for item in self.items:
            console.print(f"{item.path}: {item.summary()}", markup=False, soft_wrap=True)
        for path, reason in self.unreadable.items():
            console.print(f"{path}: left out, {reason}", markup=False, soft_wrap=True)


def predict(
    model: str | Path | None = None,
    pictures: str | Path | Sequence[str | Path] | None = None,
    top: int | None = None,
    threads: int | None = None,
    batch_size: int = 16,
    threshold: float | None = None,
    draw: str | Path | None = None,
    coco: str | Path | None = None,
    masks: str | Path | None = None,
    tile: bool = False,
) -> Predictions:
    """Predict what is on pictures.

    ``predict(MODEL, PICTURES)``, or ``predict("photo.jpg")`` and ``predict(pictures=PICTURES)``:
    where no model is named, the smallest network that comes with the package answers, and that is
    said on standard error.

    Args:
        model: whatever ``load_predictor`` takes; an ``.onnx`` file needs no torch. Without
            ``pictures`` it is what to look at, if ``split_words`` finds no model in it.
        pictures: files, folders (searched to their depth) and patterns like ``"photos/*.jpg"``.
        top: answers for each picture, 1 or more; none: five labels, all boxes. Of a mask, classes
            in the line for people; none: all.
        threads: threads that compute; by default as many as the runtime finds good.
        batch_size: pictures run at a time; tiles come one by one.
        threshold: how sure an answer is at least, from 0 to 1; none: 0.3 for boxes, else 0.
        draw: a folder to write the pictures into, as PNG, with the answers drawn on them, in the
            folders that the pictures lie in below the one that holds all; it must be new or empty.
        coco: a file to write the boxes to, as COCO has results of detection: JSON, each with
            ``image_id`` (the number a picture is named with, or its name without the ending),
            ``category_id``, ``bbox`` and ``score``; it must not be there yet.
        masks: a folder to write the mask of each picture into, as a PNG of the picture's name, in
            folders as with ``draw``, with the numbers of the classes at the picture's own size; it
            must be new or empty.
        tile: segment pictures at their own size, in overlapping tiles of the network's size,
            instead of stretching them to it.

    Raises:
        UserError: when the model cannot be used, or ``pictures`` or one of them names nothing. A
            picture that cannot be read is no error: it is among ``unreadable``.
    """
    from mobilevit.data.decoding import read_picture
    from mobilevit.data.folders import pictures as find_pictures
    from mobilevit.deployment.runtimes import load_predictor
    from mobilevit.files import check_writable, making, write_text
    from mobilevit.tasks import get_task

    for name, value in (("top", top), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; it must be 1 or more.")
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"threshold is {threshold}; it must be from 0 to 1.")
    if pictures is None:
        model, pictures = split_words([] if model is None else [model])
    paths = find_pictures(pictures, foreign=True)
    if not paths:
        raise UserError("there are no pictures to look at: the list of them is empty.")
    predictor = _load_shipped(threads) if model is None else load_predictor(model, threads)
    task = get_task(predictor.contract.task)
    if coco is not None and Path(coco).exists():
        raise UserError(f"{coco}: it exists. Choose another file for the boxes.")
    if coco is not None and task.name != "detection":
        raise UserError(
            f"{predictor.path}: it finds no boxes, it is for {task.name}; COCO's "
            "format of results is for boxes. Leave coco= (--coco), and take the JSON (--json)."
        )
    if coco is not None:
        _check_image_ids(paths)
    for option, given in (("masks", masks is not None), ("tile", tile)):
        if given and task.name != "segmentation":
            raise UserError(
                f"{predictor.path}: it makes no masks, it is for {task.name}. Leave {option}= "
                f"(--{option})."
            )
    if draw is not None and masks is not None:
        one, other = Path(draw).resolve(), Path(masks).resolve()
        if one == other or one in other.parents or other in one.parents:
            raise UserError(f"{masks}: drawings and masks need a folder each, side by side.")
    if coco is not None:
        check_writable(Path(coco))
    above = os.path.commonpath([path.parent.resolve() for path in paths])
    items: list[Prediction] = []
    unreadable: dict[str, str] = {}
    started = time.perf_counter()
    answers = (
        _tiled(predictor, paths, top, threshold)
        if tile
        else _whole(predictor, paths, batch_size, top, threshold)
    )
    with (
        making(Path(draw)) if draw else nullcontext() as drawings,
        making(Path(masks)) if masks else nullcontext() as numbers,
    ):
        for found, broken in answers:
            unreadable |= broken
            items += found
            for item in found:
                folder = Path(item.path).parent.resolve().relative_to(above)
                place = folder / Path(item.path).name
                if drawings is not None:
                    item.draw(read_picture(item.path)).save(_free(drawings / place))
                if numbers is not None:
                    path = _free(numbers / place.with_suffix(""))
                    item.save_mask(path)  # type: ignore[attr-defined]
    seconds = time.perf_counter() - started
    predictions = Predictions(str(predictor.path), tuple(items), unreadable, seconds)
    if coco is not None:
        write_text(Path(coco), json.dumps(predictions.to_coco()) + "\n")
    return predictions


def _whole(
    predictor: Predictor,
    paths: Sequence[Path],
    batch_size: int,
    top: int | None,
    threshold: float | None,
) -> Iterator[tuple[Sequence[Prediction], dict[str, str]]]:
    """Yield what is on the pictures, batch by batch, and which of them cannot be read and why."""
    from mobilevit.deployment.preprocess import batches
    from mobilevit.tasks import get_task

    contract = predictor.contract
    task = get_task(contract.task)
    for batch in batches(paths, contract, batch_size):
        found: Sequence[Prediction] = ()
        if batch.positions:
            names = [paths[position] for position in batch.positions]
            found = task.decode(predictor.run(batch.images), contract, names, top, threshold)
        yield found, {str(path): reason for path, reason in batch.unreadable.items()}


def _tiled(
    predictor: Predictor,
    paths: Sequence[Path],
    top: int | None,
    threshold: float | None,
) -> Iterator[tuple[Sequence[Prediction], dict[str, str]]]:
    """Do what ``_whole`` does, each picture cut into tiles."""
    from mobilevit.data.decoding import PictureError, read_picture
    from mobilevit.tasks.segmentation.predictions import Prediction
    from mobilevit.tasks.segmentation.tiling import segment

    for path in paths:
        try:
            picture = read_picture(path)
        except PictureError as error:
            yield (), {str(path): str(error).removeprefix(f"{path}: ")}
            continue
        mask = segment(predictor, picture, threshold=threshold)
        yield (Prediction.of(path, mask, predictor.contract, top),), {}


def _free(place: Path) -> Path:
    """Return the PNG that a picture goes to; another one of the same name gets a number."""
    place.parent.mkdir(parents=True, exist_ok=True)
    path, number = place.with_name(f"{place.name}.png"), 2
    while path.exists():
        path, number = place.with_name(f"{place.name}-{number}.png"), number + 1
    return path


def _check_image_ids(paths: Sequence[Path]) -> None:
    """Do nothing.

    Raises:
        UserError: when two pictures would have the same ``image_id``.
    """
    from mobilevit.tasks.detection.predictions import image_id

    known: dict[int | str, Path] = {}
    for path in paths:
        other = known.setdefault(image_id(path), path)
        if other != path:
            raise UserError(
                f"{path}: in COCO's results it would have the image_id of {other}, "
                f"{image_id(path)!r}, which comes from the file's name. Rename one of them, or "
                "take the JSON (--json), which has the paths."
            )


def split_words(words: Sequence[str | Path]) -> tuple[str | Path | None, Sequence[str | Path]]:
    """Tell the model from the pictures, where there is one among the words.

    The first word is no model if it ends like a picture, is a pattern, or is a folder without
    weights. A name that comes with the package, as ``"imagenette"``, is a model though there be
    such a folder, whose name is then written ``"./imagenette"``.

    Returns:
        The model or none, and the pictures.

    Raises:
        UserError: when there are no pictures.
    """
    from mobilevit.weights import is_shipped

    if not words or "" in words:  # "" would be the folder one stands in
        raise UserError("predict needs pictures: files, folders or patterns like 'photos/*.jpg'.")
    first, *others = words
    if not _is_model(first):
        return None, words
    if not others:
        path = Path(first)
        named = is_shipped(str(first)) and path.is_dir()
        there = path.parent.iterdir() if path.parent.is_dir() and not path.exists() else ()
        meant = nearest(path.name, [entry.name for entry in there])
        raise UserError(
            f"{first}: it is taken for a model, and no pictures are named after it.{meant} Write: "
            f"mobilevit predict [MODEL] PICTURES{f', and ./{first} for the folder' * named}."
        )
    return first, others


def _is_model(word: str | Path) -> bool:
    from mobilevit.data.decoding import FOREIGN
    from mobilevit.data.folders import is_picture
    from mobilevit.deployment.formats import format_of
    from mobilevit.files import has_weights
    from mobilevit.weights import is_shipped

    path = Path(word)
    if is_picture(path) or path.suffix.lower() in FOREIGN:
        return False
    if format_of(path) or has_weights(path) or (isinstance(word, str) and is_shipped(word)):
        return True
    return not path.is_dir() and not glob.has_magic(str(word))


def _load_shipped(threads: int | None) -> Predictor:
    """Open the network that answers where none is named, and say which it is."""
    from rich.console import Console

    from mobilevit.deployment.runtimes import load_predictor
    from mobilevit.weights import shipped

    predictor = load_predictor(shipped(), threads)
    names = predictor.contract.class_names
    Console(stderr=True).print(
        f"{predictor.path.stem} answers, for no model is named. It knows {len(names)} classes and "
        f"nothing else: {', '.join(names)}. For another: mobilevit predict MODEL PICTURES",
        style="dim",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return predictor
