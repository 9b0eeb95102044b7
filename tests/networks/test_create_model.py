from __future__ import annotations

from collections.abc import Callable

import pytest

from mobilevit.errors import UserError
from mobilevit.networks import (
    VARIANTS,
    FeatureExtractor,
    MobileViT,
    MobileViTV2,
    create_model,
    list_models,
)

V1 = ["mobilevit_s", "mobilevit_xs", "mobilevit_xxs"]
V2 = [f"mobilevitv2_{percent}" for percent in ("050", "075", "100", "125", "150", "175", "200")]


def test_list_models_takes_patterns() -> None:
    assert list_models() == V1 + V2
    assert list_models("*_x*") == ["mobilevit_xs", "mobilevit_xxs"]
    assert list_models("mobilevitv2_1?0") == ["mobilevitv2_100", "mobilevitv2_150"]
    assert list_models("resnet*") == []


def test_a_name_makes_its_network_with_its_numbers() -> None:
    network = create_model("mobilevit_xxs", num_classes=3, in_chans=1, dropout=0.3)
    assert type(network) is MobileViT
    assert network.config.dropout == 0.3
    assert (network.config.num_classes, network.config.in_chans) == (3, 1)
    assert network.config.widths == VARIANTS["mobilevit_xxs"].widths
    network = create_model("mobilevitv2_050", dropout=0.3)
    assert type(network) is MobileViTV2
    assert (network.config.dropout, network.config.widths) == (0.3, (32, 64, 128, 192, 256))
    assert type(create_model("mobilevitv2_050", features_only=True)) is FeatureExtractor


@pytest.mark.parametrize(
    ("make", "answer"),
    [
        (lambda: create_model("mobilevit_xxz"), "Did you mean 'mobilevit_xxs'"),
        (lambda: create_model("mobilevitv2-050"), "Did you mean 'mobilevitv2_050'"),
        (lambda: create_model("mobilevitv3_s"), "unknown model 'mobilevitv3_s'"),
        (lambda: create_model("mobilevit_s", droput=0.1), "Did you mean 'dropout'"),
        (lambda: create_model("mobilevit_s", patch_size=(2, 2, 2)), "Did you mean 'patch_sizes'"),
        (lambda: create_model("mobilevitv2_100", heads=4), "unknown number of mobilevitv2_100"),
        (lambda: create_model("mobilevitv2_100", head_width=9), "'head_width'. Did you mean"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(make: Callable[[], object], answer: str):
    with pytest.raises(UserError, match=answer):
        make()


def test_configs_are_frozen() -> None:
    for config in VARIANTS.values():
        with pytest.raises(AttributeError):
            config.layers = (1, 1, 1)
