"""What holds for every network: timm's contract, and a graph that can be exported."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mobilevit.networks import Backbone, create_model, list_models

SMALL = ("mobilevit_xxs", "mobilevitv2_050")


@pytest.fixture(scope="module", params=SMALL)
def network(request: pytest.FixtureRequest) -> Backbone:
    """A network that no test may change."""
    torch.manual_seed(0)
    return create_model(request.param, num_classes=7).eval()


@pytest.mark.parametrize("name", SMALL)
def test_dropout_acts_in_training_only(name: str) -> None:
    rates = dict.fromkeys(("dropout", "attention_dropout", "ffn_dropout", "head_dropout"), 0.0)
    x = torch.rand(2, 3, 64, 64)
    for rate in rates:
        network = create_model(name, num_classes=4, **{**rates, rate: 0.5}).train()
        with torch.no_grad():
            assert not torch.equal(network(x), network(x)), rate
            network.eval()
            assert torch.equal(network(x), network(x))
    network = create_model(name, num_classes=4, **rates).train()
    with torch.no_grad():
        assert torch.equal(network(x), network(x))


def test_forward_is_features_then_head(network: Backbone) -> None:
    x = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        features = network.forward_features(x)
        pooled = network.forward_head(features, pre_logits=True)
        logits = network.forward_head(features)
        assert torch.equal(features, network.final(network.forward_stages(x)[-1]))
        assert features.shape[:2] == pooled.shape == (2, network.num_features)
        assert torch.equal(pooled, features.mean((2, 3)))
        assert torch.equal(logits, network.get_classifier()(pooled))
        assert torch.equal(logits, network(x))


@pytest.mark.parametrize("name", SMALL)
def test_no_classes_means_pooled_features(name: str) -> None:
    network = create_model(name, num_classes=0).eval()
    x = torch.rand(1, 3, 64, 64)
    assert isinstance(network.get_classifier(), nn.Identity)
    with torch.no_grad():
        pooled = network.forward_head(network.forward_features(x), pre_logits=True)
        assert torch.equal(network(x), pooled)


@pytest.mark.parametrize("name", SMALL)
def test_reset_classifier_changes_the_head_alone(name: str) -> None:
    network = create_model(name, num_classes=5).double().eval()
    before = {k: v.clone() for k, v in network.state_dict().items() if not k.startswith("head.")}
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    for classes, width in ((11, 11), (0, network.num_features), (2, 2)):
        network.reset_classifier(classes)
        assert network.num_classes == classes
        assert network(x).shape == (1, width)
        assert network(x).dtype == torch.float64
    after = network.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


@pytest.mark.parametrize("name", list_models())
def test_feature_maps_have_the_promised_channels_and_strides(name: str) -> None:
    with torch.device("meta"):
        network = create_model(name, features_only=True).eval()
        maps = network(torch.rand(1, 3, 128, 64))
    assert [info["reduction"] for info in network.feature_info] == [2, 4, 8, 16, 32]
    assert [info["module"] for info in network.feature_info] == [f"stages.{i}" for i in range(5)]
    for info, y in zip(network.feature_info, maps, strict=True):
        assert y.shape == (1, info["num_chs"], 128 // info["reduction"], 64 // info["reduction"])


@pytest.mark.parametrize("name", SMALL)
def test_feature_extractor_gives_the_networks_own_maps(name: str) -> None:
    torch.manual_seed(0)
    network = create_model(name).eval()
    extractor = create_model(name, in_chans=3, features_only=True, out_indices=(3, 1)).eval()
    weights = network.state_dict()
    extractor.load_state_dict({k: weights[k] for k in extractor.state_dict()})
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        maps, all_maps = extractor(x), network.forward_stages(x)
    assert len(extractor.stages) == 4  # the fifth is not computed
    assert torch.equal(maps[0], all_maps[3])
    assert torch.equal(maps[1], all_maps[1])
    info = extractor.feature_info
    assert (info.reduction(), info.module_name()) == ([16, 4], ["stages.3", "stages.1"])
    assert info.channels() == [y.shape[1] for y in extractor(torch.rand(1, 3, 64, 64))]


@pytest.mark.parametrize("indices", [(), (5,), (-1,)])
def test_stages_that_do_not_exist_are_refused(indices: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="stages from 0 to 4"):
        create_model("mobilevit_xxs", features_only=True, out_indices=indices)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("patches", [(2, 2, 2), (8, 4, 2)])
@pytest.mark.parametrize("size", [(32, 32), (64, 33), (75, 100), (1, 1), (17, 130)])
def test_any_input_size(name: str, patches: tuple[int, int, int], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = create_model(name, num_classes=2, patch_sizes=patches).eval()
    with torch.no_grad():
        logits = network(torch.rand(1, 3, *size))
    assert logits.shape == (1, 2)
    assert torch.isfinite(logits).all()


def test_a_picture_is_seen_the_same_alone_and_in_a_batch(network: Backbone) -> None:
    x = torch.rand(3, 3, 64, 96)
    with torch.no_grad():
        together, alone = network(x), torch.cat([network(picture[None]) for picture in x])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_memory_format_changes_no_number(network: Backbone) -> None:
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        plain = network(x)
        last = network(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(plain, last, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_exported_graph_has_nothing_that_converters_refuse(
    network: Backbone, training: bool
) -> None:
    if training:
        network = type(network)(network.config).train()
    program = torch.export.export(network, (torch.rand(2, 3, 64, 64),))
    for node in program.graph.nodes:
        value = node.meta.get("val")
        for tensor in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(tensor, torch.Tensor):
                assert tensor.ndim <= 5, node
        name = str(node.target)
        assert not any(word in name for word in ("im2col", "col2im", "unfold")), node
        assert not any(word in name for word in ("upsample", "interpolate", ".item")), node
    if not training:
        x = torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(x), network(x))


@pytest.mark.parametrize(("name", "resizes"), [("mobilevit_xxs", 6), ("mobilevitv2_050", 3)])
def test_uneven_sides_are_resized_bilinearly_in_the_graph(name: str, resizes: int) -> None:
    """9, 5 and 3 rows are odd: MobileViT resizes there and back, MobileViTv2 does not go back."""
    network = create_model(name).eval()
    program = torch.export.export(network, (torch.rand(1, 3, 72, 64),))  # 9 x 8 at stride 8
    found = [n for n in program.graph.nodes if "upsample_bilinear2d" in str(n.target)]
    assert len(found) == resizes


def test_the_average_is_the_only_pooling() -> None:
    network = create_model("mobilevit_xxs", num_classes=3)
    network.reset_classifier(4, "avg")
    assert network.num_classes == 4
    with pytest.raises(ValueError, match="global_pool is 'avg' here, not 'max'"):
        network.reset_classifier(4, "max")
