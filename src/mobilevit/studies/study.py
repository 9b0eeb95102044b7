"""What a study compares, as typed dataclasses that a YAML file fills. Needs no torch."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobilevit.errors import UserError, nearest, unknown
from mobilevit.files import list_settings, read_settings
from mobilevit.training.recipe import DEFAULT_RECIPE, Recipe, checked_value, load_recipe

DEFAULT_STUDY = "families"
PACKAGE = "mobilevit.studies"


@dataclass(frozen=True)
class Entry:
    """One row of the comparison.

    Attributes:
        name: as the table shows it.
        group: entries of one group are meant to be compared with each other.
        family: entries of one family are joined by a line in the plots.
        settings: of the recipe, that make this entry what it is.
        paper: top-1 in percent that the paper has for it on its own data, if it has one.
    """

    name: str
    group: str = ""
    family: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    paper: float | None = None

    @property
    def slug(self) -> str:
        """The name as a folder's name."""
        return re.sub(r"[^\w.]+", "-", self.name.lower()).strip("-.")


@dataclass(frozen=True)
class Study:
    """Entries that are trained alike.

    Attributes:
        name: what people call it.
        entries: what is compared.
        recipe: what all have in common.
        rates: learning rates to choose from, for each entry; a single one is taken as it is.
        tuning_share: length of the short trainings that choose it, as a share of the others'.
        held_back: share of the training pictures that judges them; val is never asked.
        seeds: trainings of each entry with the rate chosen, with seeds 0, 1 …
    """

    name: str
    entries: tuple[Entry, ...]
    recipe: Recipe
    rates: tuple[float, ...]
    tuning_share: float = 0.25
    held_back: float = 0.15
    seeds: int = 3

    def __post_init__(self) -> None:
        slugs = [entry.slug for entry in self.entries]
        rates = {f"{rate:g}" for rate in self.rates}
        distinct = all(slugs) and len(set(slugs)) == len(slugs)
        for right, what in (
            (self.entries, "there is nothing to compare"),
            (distinct, f"two names are too much alike: {slugs}"),
            (self.rates and min(self.rates) > 0, f"rates are {list(self.rates)}"),
            (len(rates) == len(self.rates), "two rates are the same"),
            (0 < self.tuning_share <= 1, f"tuning_share is {self.tuning_share}"),
            (0 < self.held_back < 1, f"held_back is {self.held_back}, not between 0 and 1"),
            (self.seeds >= 1, f"seeds is {self.seeds}"),
        ):
            if not right:
                raise UserError(f"this study cannot be done: {what}.")
        for entry in self.entries:
            for key, way_out in (("lr", "rates"), ("seed", "seeds")):
                if key in entry.settings:
                    raise UserError(
                        f"{entry.name}: {key} is no setting of an entry; the study has {way_out}."
                    )
            self.final(entry, self.rates[0], 0)

    def tuning(self, entry: Entry, rate: float) -> Recipe:
        """Return the recipe of a short training that tries a learning rate."""
        whole = self.final(entry, rate, 0)
        return whole.override(epochs=max(1, round(self.tuning_share * whole.training.epochs)))

    def final(self, entry: Entry, rate: float, seed: int) -> Recipe:
        """Return the recipe of a training whose result counts."""
        return self.recipe.override(**{"lr": rate, **entry.settings, "seed": seed})

    def chosen(self, only: Sequence[str]) -> tuple[Entry, ...]:
        """Return the entries with one of these names or in one of these groups; none: all.

        Raises:
            UserError: for what is neither, with the nearest right name.
        """
        known = [*(e.name for e in self.entries), *(e.group for e in self.entries if e.group)]
        for word in only:
            if word not in known:
                raise unknown("entry or group", word, dict.fromkeys(known))
        return tuple(e for e in self.entries if not only or {e.name, e.group} & set(only))

    @classmethod
    def of_models(cls, models: Sequence[str], recipe: Recipe) -> Study:
        """Compare networks at the recipe's own learning rate, under their own names."""
        entries = tuple(Entry(name, settings={"model": name}) for name in models)
        return cls("models", entries, recipe, (recipe.optimizer.lr,))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> Study:
        """Make a study of nested plain Python.

        Raises:
            UserError: for an unknown key, with the nearest right one, or a value of a wrong type.
        """
        told = dict(values)
        try:
            settings = checked_value(told.pop("settings", None) or {}, dict, "settings")
            recipe = load_recipe(checked_value(told.pop("recipe", DEFAULT_RECIPE), str, "recipe"))
            entries = tuple(
                _entry(str(name), checked_value(entry or {}, dict, str(name)))
                for name, entry in checked_value(told.pop("entries", {}), dict, "entries").items()
            )
            hints = typing.get_type_hints(cls)
            known = [name for name in hints if name != "name"]
            for key, value in told.items():
                if key not in known:
                    raise UserError(f"unknown key '{key}'.{nearest(str(key), known)}")
                told[key] = checked_value(value, hints[key], key)
            for key in settings:
                if key == "seed" or (key == "lr" and "rates" in told):
                    raise UserError(f"{key} is no setting here; the study has rates and seeds.")
            recipe = recipe.override(**settings)
            told.setdefault("rates", (recipe.optimizer.lr,))
            return cls(Path(source).stem, entries, recipe, **told)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error


def _entry(name: str, told: Mapping[str, Any]) -> Entry:
    hints = typing.get_type_hints(Entry)
    own = {
        key: checked_value(told[key], hints[key], f"{name}: {key}")
        for key in ("group", "family", "paper")
        if key in told
    }
    return Entry(name, settings={k: v for k, v in told.items() if k not in own}, **own)


def list_studies() -> list[str]:
    """Return the names of the studies that come with the package."""
    return list_settings(PACKAGE)


def load_study(name: str | Path) -> Study:
    """Read a study: one that comes with the package by its name, or a YAML file.

    Raises:
        UserError: when there is none of that name, or the file is no study.
    """
    return Study.from_dict(read_settings(name, "study", PACKAGE), str(name))
