"""MobileViT: train, evaluate, export and ship light-weight vision networks.

The verbs are the same here and on the command line: ``train``, ``evaluate``, ``predict``,
``export``, ``benchmark``, ``doctor``, ``demo``. Importing the package loads nothing heavy; torch
comes in when something needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilevit.checkpoints import (
        create_model,
        load_checkpoint,
        load_pretrained,
        push_to_hub,
        save_checkpoint,
        save_pretrained,
    )
    from mobilevit.data.samplers import MultiScaleSampler
    from mobilevit.deployment.contract import Contract
    from mobilevit.deployment.runtimes import load_predictor
    from mobilevit.errors import UserError
    from mobilevit.networks import MobileViTConfig, MobileViTV2Config, list_models
    from mobilevit.networks.inference import optimize
    from mobilevit.training.recipe import Recipe, list_recipes, load_recipe
    from mobilevit.verbs.benchmark import benchmark
    from mobilevit.verbs.benchmark_formats import benchmark_formats
    from mobilevit.verbs.compare import compare
    from mobilevit.verbs.convert import convert
    from mobilevit.verbs.demo import demo
    from mobilevit.verbs.doctor import doctor
    from mobilevit.verbs.evaluate import evaluate
    from mobilevit.verbs.export import export, export_all
    from mobilevit.verbs.models import models
    from mobilevit.verbs.predict import predict
    from mobilevit.verbs.sensitivity import sensitivity
    from mobilevit.verbs.starter import starter
    from mobilevit.verbs.train import train

__version__ = "0.1.0"

__all__ = [
    "Contract",
    "MobileViTConfig",
    "MobileViTV2Config",
    "MultiScaleSampler",
    "Recipe",
    "UserError",
    "benchmark",
    "benchmark_formats",
    "compare",
    "convert",
    "create_model",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "export_all",
    "list_models",
    "list_recipes",
    "load_checkpoint",
    "load_predictor",
    "load_pretrained",
    "load_recipe",
    "models",
    "optimize",
    "predict",
    "push_to_hub",
    "save_checkpoint",
    "save_pretrained",
    "sensitivity",
    "starter",
    "train",
]

_HOMES = {
    "mobilevit.checkpoints": (
        *("create_model", "load_checkpoint", "load_pretrained"),
        *("push_to_hub", "save_checkpoint", "save_pretrained"),
    ),
    "mobilevit.data.samplers": ("MultiScaleSampler",),
    "mobilevit.deployment.contract": ("Contract",),
    "mobilevit.deployment.runtimes": ("load_predictor",),
    "mobilevit.errors": ("UserError",),
    "mobilevit.networks": ("MobileViTConfig", "MobileViTV2Config", "list_models"),
    "mobilevit.networks.inference": ("optimize",),
    "mobilevit.training.recipe": ("Recipe", "list_recipes", "load_recipe"),
    "mobilevit.verbs.benchmark_formats": ("benchmark_formats",),
    "mobilevit.verbs.export": ("export", "export_all"),
    **{
        f"mobilevit.verbs.{verb}": (verb,)
        for verb in (
            *("benchmark", "compare", "convert", "demo", "doctor"),
            *("evaluate", "models", "predict", "sensitivity", "starter", "train"),
        )
    },
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'mobilevit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
