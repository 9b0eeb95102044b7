from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console

from mobilevit.errors import UserError
from mobilevit.verbs.sensitivity import sensitivity


def test_the_worst_blocks_come_first_and_leaving_them_helps(run, photos):
    found = sensitivity(run)
    losses = [loss.sqnr for loss in found.alone.values()]
    assert losses == sorted(losses)
    assert len(losses) == 28
    assert found.everything.sqnr < losses[0]
    assert found.everything.sqnr < found.kept[8].sqnr
    json.dumps(found.to_dict(), allow_nan=False)
    text = StringIO()
    found.print(Console(file=text, width=120))
    assert f"--float-blocks {next(iter(found.alone))}" in text.getvalue()


def test_an_artefact_is_refused(artefact):
    with pytest.raises(UserError, match="sensitivity takes the checkpoint"):
        sensitivity(artefact)
