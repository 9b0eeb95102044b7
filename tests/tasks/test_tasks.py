from __future__ import annotations

import pytest

from mobilevit.deployment.contract import Contract
from mobilevit.errors import UserError
from mobilevit.tasks import get_task, list_tasks


def test_every_task_is_known_by_its_name():
    for name in list_tasks():
        assert get_task(name).name == name


def test_an_unknown_task_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'classification'"):
        get_task("clasification")


def test_a_folder_with_a_split_and_one_without(photos):
    task = get_task("classification")
    for fraction in (0.2, None):
        folders = task.read(photos, fraction)
        assert (len(folders.train), len(folders.val)) == (48, 24)
    whole = task.read(photos / "train", None)
    assert (len(whole.train), len(whole.val)) == (48, 0)
    assert [sample.label for sample in whole.train] == [0] * 16 + [1] * 16 + [2] * 16
    assert 0 < len(task.read(photos / "train").val) < 48


def test_its_metric_has_the_primary_number():
    import numpy as np

    task = get_task("classification")
    metric = task.metric(Contract("classification", ("a", "b"), (32, 32), 32))
    metric.update(np.array([[1.0, 0.0]]), np.array([0]))
    assert metric.compute()[task.primary] == 1
