from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console

from mobilevit.errors import UserError
from mobilevit.networks import list_models
from mobilevit.verbs.models import models


def test_every_network_is_listed_with_what_it_costs_and_what_its_authors_reached():
    found = models(size=64)
    assert [row.name for row in found.rows] == list_models()
    rows = {row.name: row for row in found.rows}
    assert rows["mobilevit_xxs"].parameters == 1_272_024
    assert rows["mobilevitv2_050"].parameters == 1_370_593
    assert round(rows["mobilevitv2_200"].parameters / 1e6, 1) == 18.4
    assert (rows["mobilevit_s"].published_top1, rows["mobilevitv2_200"].published_top1) == (
        78.4,
        81.17,
    )
    for family in ("mobilevit_", "mobilevitv2_"):  # the larger the better, as they say
        grown = sorted((r.parameters, r) for r in found.rows if r.name.startswith(family))
        for key in ("multiply_adds", "published_top1"):
            numbers = [getattr(row, key) for _, row in grown]
            assert numbers == sorted(set(numbers))
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["size"] == 64


def test_the_table_has_the_numbers():
    found = models("mobilevitv2_1?0", size=256)
    assert [row.name for row in found.rows] == ["mobilevitv2_100", "mobilevitv2_150"]
    assert round(found.rows[0].multiply_adds / 1e6) == 1812
    text = StringIO()
    found.print(Console(file=text, width=120))
    for word in ("mobilevitv2_150", "4,901,841", "1,812 M", "80.38 %", "at 256 px"):
        assert word in text.getvalue()


def test_weights_that_come_with_the_package_are_listed():
    found = models(size=64)
    listed = {row.name: row.weights for row in found.rows}
    assert listed["mobilevit_xxs"] == ("imagenette_xxs",)
    assert listed["mobilevitv2_100"] == ()
    text = StringIO()
    found.print(Console(file=text, width=120))
    (line,) = [line for line in text.getvalue().splitlines() if "mobilevit_xxs" in line]
    assert "imagenette_xxs" in line


def test_a_size_that_no_picture_has_is_refused():
    for size in (0, 10**10):
        with pytest.raises(UserError, match=f"size is {size}; it must be from 1 to 16384"):
            models(size=size)


def test_a_pattern_that_matches_nothing_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'mobilevitv2_100'"):
        models("mobilevitv2-100")
