from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights as Weights
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from mobilevit.deployment.cost import count_parameters
from mobilevit.errors import UserError
from mobilevit.networks import TorchvisionLRASPP, check_model
from mobilevit.networks.inference import optimize
from mobilevit.networks.torchvision_lraspp import NAME
from peers import enliven


@pytest.fixture(scope="module")
def network() -> TorchvisionLRASPP:
    """A network of 5 classes; no test may change it."""
    made = enliven(TorchvisionLRASPP(5))
    assert isinstance(made, TorchvisionLRASPP)
    return made


@pytest.mark.parametrize("size", [(128, 96), (100, 75)])
def test_it_is_torchvisions_network_before_its_upsampling(
    network: TorchvisionLRASPP, size: tuple[int, int]
) -> None:
    theirs = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    mine = network.state_dict()
    theirs.load_state_dict({k.replace("head.", "classifier."): v for k, v in mine.items()})
    x = torch.rand(2, 3, *size)
    preset = Weights.DEFAULT.transforms(resize_size=None)
    with torch.no_grad():
        expected = theirs.eval()(preset(x))["out"]
        logits = network(x)
    assert logits.shape == (2, 5, *(-(-side // 8) for side in size))
    assert expected.std() > 0.1
    assert not torch.allclose(expected[0], expected[1], atol=0.01)
    upsampled = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsampled, expected, atol=1e-4, rtol=1e-4)


def test_the_inference_form_folds_every_norm_and_computes_the_same(
    network: TorchvisionLRASPP,
) -> None:
    x = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        expected = network(x)
    fast = optimize(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    torch.testing.assert_close(fast(x), expected, atol=1e-4 * expected.abs().max().item(), rtol=0)


def test_it_is_made_again_from_its_numbers_and_known_by_its_name() -> None:
    published = Weights.DEFAULT.meta["num_params"]
    assert count_parameters(TorchvisionLRASPP(**TorchvisionLRASPP(21).numbers)) == published
    check_model(NAME)
    with pytest.raises(UserError, match=NAME):
        check_model("lraspp_mobilenet_v3_large")
