from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.image_list import ImageList

from mobilevit.deployment.cost import count_parameters
from mobilevit.errors import UserError
from mobilevit.networks import TorchvisionSSDLite, check_model
from mobilevit.networks.inference import optimize
from mobilevit.networks.torchvision_ssdlite import NAME
from peers import enliven


@pytest.fixture(scope="module")
def network() -> TorchvisionSSDLite:
    """A detector of 5 classes and the background; no test may change it."""
    made = enliven(TorchvisionSSDLite(6))
    assert isinstance(made, TorchvisionSSDLite)
    return made


def test_it_is_torchvisions_network_fed_with_its_own_mean_and_deviation(
    network: TorchvisionSSDLite,
) -> None:
    theirs = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=6)
    theirs.load_state_dict(network.state_dict())
    theirs.eval()
    x = torch.rand(2, 3, 320, 320)
    with torch.no_grad():
        images, _ = theirs.transform(list(x))
        maps = list(theirs.backbone(images.tensors).values())
        expected = theirs.head(maps)
        logits, offsets = network(x)
        anchors = theirs.anchor_generator(images, maps)[0] / 320
    assert expected["cls_logits"].std() > 0.1
    torch.testing.assert_close(logits, expected["cls_logits"], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(offsets, expected["bbox_regression"], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(network.anchors((320, 320)), anchors, atol=1e-6, rtol=0)
    assert len(anchors) == 3234


@pytest.mark.parametrize("size", [(128, 128), (100, 75), (640, 320)])
def test_there_are_as_many_anchors_as_predictions(
    network: TorchvisionSSDLite, size: tuple[int, int]
) -> None:
    with torch.no_grad():
        maps = list(network.backbone(torch.rand(1, 3, *size)).values())
        logits, offsets = network(torch.rand(1, 3, *size))
    anchors = network.anchors(size)
    assert anchors.shape == offsets.shape[1:]
    assert len(anchors) == logits.shape[1]
    pictures = ImageList(torch.empty(1, 3, *size), [size])
    whole = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=6)
    height, width = size
    expected = whole.anchor_generator(pictures, maps)[0] / torch.tensor([width, height] * 2)
    torch.testing.assert_close(anchors, expected, atol=1e-6, rtol=0)


def test_the_inference_form_folds_every_norm_and_computes_the_same(
    network: TorchvisionSSDLite,
) -> None:
    x = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        expected = network(x)
    fast = optimize(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    for mine, wanted in zip(fast(x), expected, strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-3 * wanted.abs().max().item(), rtol=0)


def test_it_is_made_again_from_its_numbers_and_known_by_its_name() -> None:
    assert count_parameters(TorchvisionSSDLite(**TorchvisionSSDLite(91).numbers)) == 3_440_060
    check_model(NAME)
    with pytest.raises(UserError, match=NAME):
        check_model("ssdlite320_mobilenet_v3_large")
