"""Whose weights, and of which network: from names and shapes alone."""

from __future__ import annotations

import contextlib
from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mobilevit import UserError
from mobilevit.checkpoints import ADAPTERS
from mobilevit.checkpoints.recognition import LIBRARIES, architecture_of, recognise
from mobilevit.networks import VARIANTS, create_model


def tensors_of(library: str, name: str, classes: int = 1000) -> dict[str, Tensor]:
    with torch.device("meta"):
        ours = create_model(name, num_classes=classes).state_dict()
        if library == "mobilevit":
            return ours
        return ADAPTERS[library, name.partition("_")[0]].to_theirs(ours)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_network_of_every_library_is_recognised(library: str, name: str) -> None:
    for classes in (1000, 0):
        found = recognise(tensors_of(library, name, classes), "x")
        assert (found.library, found.family) == (library, name.partition("_")[0])
        told = architecture_of(found, {}, "x")
        assert told == {"model": name, **asdict(VARIANTS[name]), "num_classes": classes}


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050"])
def test_backbones_of_other_tasks_lie_behind_a_prefix(name: str) -> None:
    theirs = tensors_of("cvnets", name, 0)
    nested = {f"encoder.{k}": v for k, v in theirs.items()}
    head = {"seg_head.aspp.x.weight": torch.zeros(1), "ssd_heads.0.y": torch.zeros(1)}
    found = recognise(nested | head, "x")
    assert found.library == "cvnets"
    assert set(found.others) == set(head)

    family = name.partition("_")[0]
    bare = {k.removeprefix(f"{family}."): v for k, v in tensors_of("transformers", name, 0).items()}
    assert "conv_stem.convolution.weight" in bare
    assert recognise(bare, "x").library == "transformers"


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("asked", LIBRARIES)
def test_a_library_that_is_named_must_be_the_right_one(library: str, asked: str) -> None:
    tensors = tensors_of(library, "mobilevit_xxs")
    if asked == library:
        assert recognise(tensors, "x", asked).library == library
    else:
        with pytest.raises(UserError, match=f"names of {asked}"):
            recognise(tensors, "x", asked)


def test_heads_and_patches_come_from_the_config() -> None:
    found = recognise(tensors_of("transformers", "mobilevit_xs"), "x")
    config = {"num_attention_heads": 8, "patch_size": [4, 4]}
    told = architecture_of(found, {"config.json": config}, "x")
    assert (told["heads"], told["patch_sizes"]) == (8, (4, 4, 4))
    with pytest.raises(UserError, match="no whole MobileViT"):
        architecture_of(found, {"config.json": {"num_attention_heads": "many"}}, "x")


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_whatever_is_cut_away_or_reshaped_is_a_sentence(data: st.DataObject) -> None:
    """No set of names and shapes ends in another error than ours."""
    library = data.draw(st.sampled_from(LIBRARIES))
    name = data.draw(st.sampled_from(["mobilevit_xxs", "mobilevitv2_050"]))
    tensors = tensors_of(library, name)
    names = sorted(tensors)
    for lost in data.draw(st.lists(st.sampled_from(names), max_size=4)):
        tensors.pop(lost, None)
    for odd in data.draw(st.lists(st.sampled_from(names), max_size=4)):
        shape = data.draw(st.lists(st.integers(0, 300), max_size=5))
        tensors[odd] = torch.empty(shape, device="meta")
    with contextlib.suppress(UserError):
        found = recognise(tensors, "the file")
        told = architecture_of(found, {}, "the file")
        assert told["model"].startswith(found.family)
