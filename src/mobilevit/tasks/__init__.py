"""What a network can be for. Each task is a folder; the verbs know only ``Task``."""

from __future__ import annotations

from pathlib import Path

from mobilevit.errors import unknown
from mobilevit.tasks.base import Metric, Prediction, Task

__all__ = ["Metric", "Prediction", "Task", "get_task", "list_tasks", "task_of"]

_TASKS = ("classification", "detection", "segmentation")


def get_task(name: str) -> Task:
    """Return a task by its name.

    Raises:
        UserError: for an unknown name, with the nearest right one.
    """
    if name not in _TASKS:
        raise unknown("task", name, _TASKS)
    if name == "detection":
        from mobilevit.tasks.detection import Detection

        return Detection()
    if name == "segmentation":
        from mobilevit.tasks.segmentation import Segmentation

        return Segmentation()
    from mobilevit.tasks.classification import Classification

    return Classification()


def task_of(data: str | Path) -> str:
    """Return what labelled pictures are for, by their format; boxes go before masks.

    Raises:
        UserError: when a file or folder cannot be read.
    """
    from mobilevit.data.box_sets import box_format
    from mobilevit.data.mask_sets import mask_format

    if box_format(data):
        return "detection"
    return "segmentation" if mask_format(data) else "classification"


def list_tasks() -> list[str]:
    """Return the names that ``get_task`` knows."""
    return list(_TASKS)
