"""Tiny data sets with boxes, written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mobilevit.data.boxes import Boxes
from mobilevit.data.findings import Finding
from mobilevit.data.folders import Folders

Corners = tuple[float, float, float, float]


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    """Write a picture whose content is told by its name and its folder's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(list(f"{path.parent.name}/{path.name}".encode()))
    image = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    image.save(path)
    return path


def coco_content(
    boxes: Mapping[str, Sequence[Sequence[Any]]], names: Mapping[int, str]
) -> dict[str, Any]:
    """Return what COCO's file has: for each picture of 40×30, (class, left, top, width, height)."""
    return {
        "images": [
            {"id": 100 + i, "file_name": name, "width": 40, "height": 30}
            for i, name in enumerate(boxes)
        ],
        "annotations": [
            {"id": 7, "image_id": 100 + i, "category_id": number, "bbox": box, "iscrowd": 0}
            for i, found in enumerate(boxes.values())
            for number, *box in found
        ],
        "categories": [{"id": number, "name": name} for number, name in names.items()],
    }


def coco_file(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def voc_text(things: Sequence[tuple[str, Any]], size: tuple[int, int] | None = (40, 30)) -> str:
    """Return an XML file: for each thing its name and its corners as they stand in the file."""
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    tags = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, corners, strict=False))
        + "</bndbox></object>"
        for name, corners in things
    )
    return f"<annotation>{sides}{objects}</annotation>"


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def checks(folders: Folders[Boxes]) -> dict[str, str]:
    """Return the severities of the findings by their checks."""
    return {finding.check: finding.severity for finding in folders.findings}


def found(folders: Folders[Boxes], check: str) -> Finding:
    (finding,) = (finding for finding in folders.findings if finding.check == check)
    return finding
