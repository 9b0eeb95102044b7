from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mobilevit.deployment.cost import count_multiply_adds, count_parameters
from mobilevit.errors import MissingExtraError, UserError
from mobilevit.networks import SSDLite, SSDLiteConfig, TimmFeatures, TimmNetwork, check_model
from mobilevit.networks.inference import optimize
from peers import stir_norms

timm = pytest.importorskip("timm", reason="timm is not installed")


@pytest.fixture(scope="module")
def mobilenet() -> TimmNetwork:
    """MobileNetV3 whose batch-norms do something; no test may change it."""
    torch.manual_seed(0)
    network = TimmNetwork("mobilenetv3_small_050", 7)
    stir_norms(network)
    return network.eval()


def deit(**numbers: Any) -> TimmNetwork:
    return TimmNetwork(
        "deit_tiny_patch16_224", 5, 64, **{"embed_dim": 32, "depth": 2, "num_heads": 2} | numbers
    )


def test_it_is_timms_network_fed_with_its_own_mean_and_deviation(mobilenet: TimmNetwork) -> None:
    theirs = timm.create_model("mobilenetv3_small_050", num_classes=7).eval()
    theirs.load_state_dict(mobilenet.network.state_dict())
    x = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(theirs.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        expected, found = theirs((x - mean) / std), mobilenet(x)
        assert expected.std() > 0.01
        torch.testing.assert_close(found, expected)
        features = mobilenet.forward_features(x)
        torch.testing.assert_close(mobilenet.forward_head(features), expected)
    assert mobilenet.num_features == theirs.num_features


def test_the_inference_form_folds_every_norm_and_computes_the_same(mobilenet: TimmNetwork) -> None:
    x = torch.rand(3, 3, 96, 64)
    fast = optimize(mobilenet)
    with torch.no_grad():
        expected = mobilenet(x)
    torch.testing.assert_close(fast(x), expected, atol=1e-4 * expected.abs().max().item(), rtol=0)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in mobilenet.modules())


def test_a_norm_that_is_not_alone_in_reading_a_convolution_is_not_folded() -> None:
    torch.manual_seed(0)
    network = TimmNetwork("mobilenetv3_small_050", 3)

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.bn = nn.BatchNorm2d(4)
            self.pretrained_cfg = network.network.pretrained_cfg

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return x + self.bn(x)

    network.network = Shared().eval()
    network.network.bn.running_mean.uniform_(1, 2)
    x = torch.rand(1, 3, 8, 8)
    expected = network.network(x)
    network.fold_norms()
    assert isinstance(network.network.bn, nn.BatchNorm2d)
    torch.testing.assert_close(network.network(x), expected)


def test_a_transformer_takes_its_own_size_and_others() -> None:
    network = deit().eval()
    for size in (64, 96):
        assert network(torch.rand(2, 3, size, size)).shape == (2, 5)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(optimize(network)(x), network(x), atol=1e-5, rtol=1e-5)


def test_its_size_is_a_matter_of_numbers() -> None:
    whole = timm.create_model("deit_tiny_patch16_224", num_classes=1000)
    assert count_parameters(TimmNetwork("deit_tiny_patch16_224", 1000, 224)) == count_parameters(
        whole
    )
    assert count_parameters(deit(depth=1)) < count_parameters(deit(depth=2))


def test_attention_is_counted_in_the_multiply_adds() -> None:
    # tokens 17 of width 32, once the patches, twice qkv 3 + out 1 + mlp 8 times 32², and attention
    expected = 16 * 768 * 32 + 2 * (17 * 12 * 32 * 32 + 2 * 17 * 17 * 32) + 32 * 5
    assert count_multiply_adds(deit(), (64, 64)) == expected


def test_a_new_classifier_is_another_number_of_classes(mobilenet: TimmNetwork) -> None:
    network = TimmNetwork("mobilenetv3_small_050", 7)
    network.reset_classifier(3)
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 3)
    assert network.numbers["num_classes"] == 3
    names = [n for n, _ in network.named_parameters() if n.startswith(network.classifiers)]
    assert names == ["network.classifier.weight", "network.classifier.bias"]


@pytest.mark.parametrize(
    "numbers",
    [
        {"checkpoint_path": "weights.pth"},
        {"pretrained": True},
        {"act_layer": "relu"},
        {"pretrained_cfg": {"url": "https://example.org"}},
        {"no_such_number": 3},
        {"embed_dim": 33},
    ],
)
def test_what_timm_does_not_take_or_should_not_be_given_is_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"timm:deit_tiny_patch16_224: .*" + next(iter(numbers))):
        deit(**numbers)


@pytest.mark.parametrize(
    ("name", "widths"),
    [("mobilenetv3_small_050", (24, 288)), ("resnet10t", (256, 512))],
)
def test_features_are_timms_maps_at_strides_16_and_32(name: str, widths: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = TimmFeatures(name).eval()
    theirs = timm.create_model(name, features_only=True).eval()
    theirs.load_state_dict(network.network.state_dict())
    x = torch.rand(1, 3, 64, 96)
    mean, std = (torch.tensor(theirs.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        found, expected = network(x), theirs((x - mean) / std)
    assert network.widths == widths
    assert [tuple(y.shape) for y in found] == [(1, widths[0], 4, 6), (1, widths[1], 2, 3)]
    for mine, wanted in zip(found, expected[-2:], strict=True):
        assert wanted.std() > 0
        torch.testing.assert_close(mine, wanted)


def test_a_detector_stands_on_timms_features_and_folds_their_norms() -> None:
    torch.manual_seed(0)
    network = SSDLite(TimmFeatures("mobilenetv3_small_050"), SSDLiteConfig(num_classes=3))
    stir_norms(network)
    network.eval()
    x = torch.rand(2, 3, 128, 96)
    with torch.no_grad():
        expected = network(x)
    assert expected[0].shape == (2, len(network.anchors((128, 96))), 3)
    fast = optimize(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    for mine, wanted in zip(fast(x), expected, strict=True):
        assert wanted.std() > 0.01
        torch.testing.assert_close(mine, wanted, atol=1e-4 * wanted.abs().max().item(), rtol=0)


def test_a_number_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(UserError, match=r"timm:convnext_atto: .*dims"):
        TimmNetwork("convnext_atto", 3, dims=[16, 32])


def test_features_are_made_again_from_their_numbers() -> None:
    network = TimmFeatures("resnet10t", stem_width=16)
    again = TimmFeatures("resnet10t", **network.numbers)
    again.load_state_dict(network.state_dict())
    assert count_parameters(again) < count_parameters(TimmFeatures("resnet10t"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("deit_tiny_patch16_224", "NCHW at 16"),
        ("swin_tiny_patch4_window7_224", "NHWC at 4, 8, 16, 32"),
        ("mobilenetv3_smal_100", "'mobilenetv3_small_100'"),
    ],
)
def test_what_gives_no_such_maps_is_refused(name: str, words: str) -> None:
    with pytest.raises(UserError, match=f"timm:{name}.*{words}"):
        TimmFeatures(name)


def test_numbers_that_features_do_not_take_are_refused() -> None:
    with pytest.raises(UserError, match=r"timm:resnet10t: .*no_such_number=3"):
        TimmFeatures("resnet10t", no_such_number=3)
    with pytest.raises(UserError, match=r"timm:resnet10t: checkpoint_path='x' cannot be given"):
        TimmFeatures("resnet10t", checkpoint_path="x")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"timm:mobilenetv3_smal_100.*'mobilenetv3_small_100'"):
        check_model("timm:mobilenetv3_smal_100")
    with pytest.raises(UserError, match="Or one of timm's"):
        check_model("mobilenetv3_small_100")
    check_model("timm:mobilenetv3_small_100")
    check_model("mobilevit_s")


def test_without_timm_the_pip_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r'pip install "mobilevit\[timm\]"'):
        check_model("timm:mobilenetv3_small_100")
