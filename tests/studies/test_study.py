from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from mobilevit import Recipe, UserError, load_recipe
from mobilevit.deployment.cost import count_parameters
from mobilevit.studies.study import Study, list_studies, load_study
from mobilevit.training.fit import check_network, make_network

TOLD = {
    "recipe": "digits",
    "settings": {"epochs": 3},
    "rates": [0.001, "2e-3"],
    "tuning_share": 0.4,
    "seeds": 2,
    "entries": {
        "One": {"group": "a", "model": "mobilevit_xxs"},
        "Two, thin": {"group": "a", "model": "mobilevit_xs", "numbers": {"layers": [1, 1, 1]}},
        "three": {"group": "b", "weight_decay": 0.5, "paper": 70.5},
    },
}


@pytest.fixture
def study() -> Study:
    return Study.from_dict(TOLD, "told.yaml")


def test_a_study_says_what_each_training_is(study: Study) -> None:
    one, two, three = study.entries
    assert (study.name, study.rates, study.seeds) == ("told", (0.001, 0.002), 2)
    assert [entry.slug for entry in study.entries] == ["one", "two-thin", "three"]
    tuning, final = study.tuning(one, 0.002), study.final(two, 0.001, 1)
    assert (tuning.training.epochs, tuning.optimizer.lr, tuning.training.seed) == (1, 0.002, 0)
    assert (final.training.epochs, final.optimizer.lr, final.training.seed) == (3, 0.001, 1)
    assert (final.model.model, final.model.numbers) == ("mobilevit_xs", {"layers": (1, 1, 1)})
    assert study.final(three, 0.001, 0).optimizer.weight_decay == 0.5
    assert three.paper == 70.5


def test_some_entries_are_chosen_by_name_or_group(study: Study) -> None:
    assert study.chosen([]) == study.entries
    assert [entry.name for entry in study.chosen(["a"])] == ["One", "Two, thin"]
    assert [entry.name for entry in study.chosen(["three", "One"])] == ["One", "three"]
    with pytest.raises(UserError, match="unknown entry or group 'Tree'"):
        study.chosen(["Tree"])


def test_networks_are_compared_at_the_rate_of_a_recipe() -> None:
    study = Study.of_models(["mobilevit_xxs", "timm:resnet18"], Recipe().override(lr=0.3))
    assert study.rates == (0.3,)
    assert [entry.slug for entry in study.entries] == ["mobilevit_xxs", "timm-resnet18"]
    assert study.final(study.entries[1], 0.3, 2).model_name == "timm:resnet18"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entires": {}}, r"unknown key 'entires'.*'entries'"),
        ({"settings": {"epoch": 3}}, r"unknown setting 'epoch'.*'epochs'"),
        ({"entries": {"x": {"modle": "a"}}}, r"unknown setting 'modle'.*'model'"),
        ({"entries": {}}, "nothing to compare"),
        ({"entries": {"a b": {}, "A-B": {}}}, "too much alike"),
        ({"rates": []}, "rates are"),
        ({"rates": [0.0]}, "rates are"),
        ({"rates": None}, "rates is None"),
        ({"rates": "12"}, "rates is '12'"),
        ({"rates": [1e-3, 0.001]}, "two rates are the same"),
        ({"seeds": 2.7}, "seeds is 2.7"),
        ({"entries": {"x": {"paper": "many"}}}, "x: paper is 'many'"),
        ({"entries": {"x": {"lr": 0.1}}}, "x: lr is no setting of an entry; the study has rates"),
        ({"entries": {"x": {"seed": 1}}}, "the study has seeds"),
        ({"entries": {"x": 3}}, "x is 3"),
        ({"settings": 3}, "settings is 3"),
        ({"settings": {"lr": 0.1}}, "lr is no setting here; the study has rates"),
        ({"settings": {"seed": 1}}, "seed is no setting here"),
        ({"seeds": 0}, "seeds is 0"),
        ({"held_back": 1.5}, "held_back is 1.5"),
        ({"recipe": "digit"}, "unknown recipe 'digit'"),
    ],
)
def test_a_wrong_study_is_refused_with_the_reason(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Study.from_dict(TOLD | change, "told.yaml")
    assert "told.yaml" in str(caught.value)


def test_what_is_left_open_is_the_recipes() -> None:
    study = Study.from_dict({"entries": {"Сеть": None}}, "told.yaml")
    assert study.recipe == load_recipe("photos")
    assert study.rates == (study.recipe.optimizer.lr,)
    assert study.entries[0].slug == "сеть"


def test_a_study_is_read_from_a_file_or_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(TOLD, sort_keys=False))
    assert load_study(path) == Study.from_dict(TOLD, "mine.yaml")
    with pytest.raises(UserError, match="no such study file"):
        load_study(tmp_path / "other.yaml")
    with pytest.raises(UserError, match=r"unknown study 'familys'.*'families'"):
        load_study("familys")


@pytest.mark.parametrize("name", list_studies())
def test_the_studies_that_come_along_can_be_done(name: str) -> None:
    study = load_study(name)
    pytest.importorskip("timm", reason="timm is not installed")
    for entry in study.entries:
        check_network(study.final(entry, study.rates[0], 0), 10)


def test_the_families_are_matched_in_parameters() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    study = load_study("families")
    assert {entry.group for entry in study.entries} == {"1 M", "2 M", "5 M"}
    for entry in study.entries:
        with torch.device("meta"):
            network = make_network(study.final(entry, study.rates[0], 0), 10)
        backbone = count_parameters(network) - count_parameters(network.get_classifier())
        assert 0.7 < backbone / 1e6 / float(entry.group[0]) < 1.4, entry.name


def test_a_file_that_is_no_text_is_said(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes("entries: {é: {}}".encode("latin-1"))
    with pytest.raises(UserError, match=r"mine\.yaml: this is no text in UTF-8"):
        load_study(path)
