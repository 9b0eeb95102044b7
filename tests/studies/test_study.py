from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mobilevit import Recipe, UserError
from mobilevit.networks import check_model
from mobilevit.studies.study import Entry, Study, list_studies, load_study

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
    assert [entry.slug for entry in study.entries] == ["mobilevit-xxs", "timm-resnet18"]
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
        ({"rates": None}, "no study"),
        ({"seeds": 0}, "seeds is 0"),
        ({"held_back": 1.5}, "held_back is 1.5"),
        ({"recipe": "digit"}, "unknown recipe 'digit'"),
    ],
)
def test_a_wrong_study_is_refused_with_the_reason(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Study.from_dict(TOLD | change, "told.yaml")
    assert "told.yaml" in str(caught.value)


def test_a_key_that_is_missing_is_named() -> None:
    with pytest.raises(UserError, match="entries"):
        Study.from_dict({"recipe": "digits", "rates": [0.1]}, "told.yaml")


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
        check_model(study.tuning(entry, study.rates[0]).model_name)
    assert isinstance(study.entries[0], Entry)
