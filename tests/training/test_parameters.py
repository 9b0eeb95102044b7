from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mobilevit import Recipe, UserError, create_model, load_checkpoint
from mobilevit.checkpoints import Checkpoint, architecture
from mobilevit.deployment.contract import Contract
from mobilevit.networks import DeepLabV3, DeepLabV3Config, TorchvisionLRASPP
from mobilevit.training.parameters import blocks, freeze, parameter_groups
from tiny import SETTINGS, fit_tiny

BLOCKS = [
    *("stem", "stages.0.0", "stages.1.0", "stages.1.1", "stages.1.2", "stages.2.0", "stages.2.1"),
    *("stages.3.0", "stages.3.1", "stages.4.0", "stages.4.1", "final"),
]


def groups(network: Any, **settings: Any) -> list[dict[str, Any]]:
    return parameter_groups(network, Recipe().override(**settings).optimizer)


def of_name(network: nn.Module, found: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Return what the groups say of each parameter by its name."""
    values = {id(p): group[key] for group in found for p in group["params"]}
    return {name: values[id(p)] for name, p in network.named_parameters() if id(p) in values}


# --- the groups ---


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("mobilevit_xxs", BLOCKS),
        ("mobilevitv2_050", [b for b in BLOCKS if b not in ("stages.1.2", "final")]),
    ],
)
def test_blocks_are_in_the_order_of_the_computation(model: str, expected: list[str]) -> None:
    network = create_model(model, num_classes=2)
    names = {id(module): name for name, module in network.named_modules()}
    assert [names[id(block)] for block in blocks(network)] == expected


@pytest.mark.parametrize("aux", [False, True])
def test_of_a_segmenter_all_behind_the_backbone_learns_as_the_head(aux: bool) -> None:
    backbone = create_model("mobilevit_xxs", num_classes=0, output_stride=16)
    network = DeepLabV3(backbone, DeepLabV3Config(num_classes=3, aspp_width=16, aux=aux))
    assert len(blocks(network)) == len(BLOCKS) - 1  # without final
    scales = of_name(network, groups(network, head_lr="10x"), "lr_scale")
    heads = {name for name, scale in scales.items() if scale == 10}
    assert heads == {name for name in scales if not name.startswith("backbone.")}
    assert {name.partition(".")[0] for name in heads} == {"aspp", "head", *(["aux"] * aux)}


def test_of_torchvisions_segmenter_the_backbone_is_one_block() -> None:
    network = TorchvisionLRASPP(3)
    assert blocks(network) == [network.backbone]
    scales = of_name(network, groups(network, head_lr="10x"), "lr_scale")
    assert {name for name, scale in scales.items() if scale == 10} == {
        name for name in scales if name.startswith("head.")
    }


def test_by_default_there_is_one_group_of_all_parameters_in_order() -> None:
    network = create_model("mobilevit_xxs", num_classes=2)
    (group,) = groups(network)
    assert (group["weight_decay"], group["lr_scale"]) == (0.01, 1.0)
    assert [id(p) for p in group["params"]] == [id(p) for p in network.parameters()]


def test_norms_and_biases_are_not_decayed_on_request() -> None:
    network = create_model("mobilevit_xxs", num_classes=2)
    decayed, free = groups(network, decay_norms=False)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
    assert decayed["lr_scale"] == free["lr_scale"] == 1.0
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(network.parameters()))


def test_the_learning_rate_falls_from_block_to_block_and_the_head_has_its_own() -> None:
    network = create_model("mobilevit_xxs", num_classes=2)
    found = groups(network, head_lr="10x", layer_lr=0.5, decay_norms=False)
    scales = of_name(network, found, "lr_scale")
    assert scales.keys() == dict(network.named_parameters()).keys()
    for name, scale in scales.items():
        if name.startswith("head."):
            assert scale == 10.0
        else:
            (index,) = (i for i, block in enumerate(BLOCKS) if name.startswith(block + "."))
            assert scale == 0.5 ** (len(BLOCKS) - 1 - index), name
    decays = of_name(network, found, "weight_decay")
    assert (decays["stem.conv.weight"], decays["stem.norm.weight"]) == (0.01, 0.0)


# --- freezing ---


@pytest.mark.parametrize("count", [0, 1, 10, 12])
def test_frozen_parameters_are_in_no_group(count: int) -> None:
    network = create_model("mobilevit_xxs", num_classes=2)
    frozen = freeze(network, count)
    trained = of_name(network, groups(network), "lr_scale")
    assert len(frozen) == count
    names = dict(network.named_parameters())
    starts = tuple(f"{block}." for block in BLOCKS[:count])
    assert trained.keys() == {name for name in names if not name.startswith(starts)}
    assert "head.weight" in trained


def test_more_blocks_than_there_are_cannot_be_frozen() -> None:
    network = create_model("mobilevit_xxs", num_classes=2)
    with pytest.raises(UserError, match="freeze is 13, but the network has 12 blocks"):
        freeze(network, 13)


def start(**numbers: Any) -> Checkpoint:
    network = create_model("mobilevit_xxs", num_classes=3, **numbers)
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():  # statistics that a picture would change
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
    contract = Contract("classification", ("blue", "green", "red"), (32, 32), 36)
    return Checkpoint(network, contract, architecture("mobilevit_xxs", network))


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_frozen_blocks_end_as_they_began_bit_for_bit(
    tiny: Path, tmp_path: Path, ema_decay: float
) -> None:
    weights = start()
    before = {name: tensor.clone() for name, tensor in weights.network.state_dict().items()}
    run = fit_tiny(
        tiny, tmp_path / "run", weights=weights, freeze=9, ema_decay=ema_decay, weight_decay=0.5
    )
    last = load_checkpoint(run.last, training=True)
    trained = {k[8:]: v for k, v in last.training.items() if k.startswith("network.")}
    starts = tuple(f"{block}." for block in BLOCKS[:9])
    for after in (last.network.state_dict(), trained):
        changed = {name for name in before if not torch.equal(after[name], before[name])}
        assert changed == {name for name in before if not name.startswith(starts)}
    states = {name for name in last.training if name.startswith("optimizer.")}
    assert states
    assert not any(name.startswith(("optimizer.stem.", "optimizer.stages.0.")) for name in states)


def test_frozen_blocks_have_no_dropout(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their outputs in training are those in evaluation."""
    weights = start(dropout=0.5)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    forward = nn.Dropout.forward

    def spy(self: nn.Dropout, x: torch.Tensor) -> torch.Tensor:
        y = forward(self, x)
        if self.p == 0.5 and torch.is_grad_enabled() and not x.requires_grad:
            seen.append((x, y))
        return y

    monkeypatch.setattr(nn.Dropout, "forward", spy)
    fit_tiny(tiny, tmp_path / "run", weights=weights, freeze=9, dropout=0.5)
    assert len(seen) == 3 * 2 * (2 + 4)  # steps, dropouts of a layer, layers of two stages
    assert all(torch.equal(x, y) for x, y in seen)


def test_the_schedule_is_multiplied_with_the_groups_scales(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[list[tuple[float, float]]] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *arguments: Any, **options: Any) -> Any:
        rates.append([(group["lr_scale"], group["lr"]) for group in self.param_groups])
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    fit_tiny(tiny, tmp_path / "run", head_lr=10, layer_lr=0.5, freeze=10, lr=1e-3, epochs=2)
    assert [[scale for scale, _ in groups] for groups in rates] == [[0.5, 1.0, 10.0]] * 6
    assert SETTINGS["warmup_epochs"] == 1  # of three steps, from a tenth of the learning rate
    for groups, rate in zip(rates, (1e-4, 4e-4, 7e-4, 1e-3), strict=False):
        assert [lr / scale for scale, lr in groups] == pytest.approx([rate] * 3)
