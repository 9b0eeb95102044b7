from __future__ import annotations

import pytest
import torch
from torch import nn

from mobilevit.deployment.cost import count_multiply_adds, count_parameters
from mobilevit.networks import DeepLabV3, DeepLabV3Config, create_model


@pytest.mark.parametrize(
    ("name", "parameters", "millions"),
    [
        ("mobilevit_xxs", 1_272_024, 407),
        ("mobilevit_xs", 2_317_848, 1026),
        ("mobilevit_s", 5_578_632, 2001),
    ],
)
def test_the_networks(name, parameters, millions):
    network = create_model(name)
    assert count_parameters(network) == parameters
    assert round(count_multiply_adds(network, (256, 256)) / 1e6) == millions


def test_it_counts_what_one_counts_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Flatten(), nn.Linear(8 * 16 * 8, 5))
    assert count_multiply_adds(network, (32, 16)) == 3 * 8 * 9 * 16 * 8 + 8 * 16 * 8 * 5
    assert count_parameters(network) == 3 * 8 * 9 + 8 + 8 * 16 * 8 * 5 + 5


def test_an_auxiliary_head_is_not_counted():
    def segmenter(aux):
        backbone = create_model("mobilevit_xxs", num_classes=0, output_stride=16)
        return DeepLabV3(backbone, DeepLabV3Config(aspp_width=16, aux=aux))

    plain, taught = segmenter(aux=False), segmenter(aux=True)
    assert count_parameters(taught) == count_parameters(plain)
    assert sum(p.numel() for p in taught.parameters()) > count_parameters(plain)
    size = (64, 64)
    assert count_multiply_adds(taught, size) == count_multiply_adds(plain, size)


def test_the_network_is_left_as_it_was():
    network = create_model("mobilevit_xxs", num_classes=2)
    count_multiply_adds(network, (64, 64))
    assert network.training
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 2)
