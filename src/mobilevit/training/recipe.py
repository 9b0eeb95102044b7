"""The recipe: everything that decides how a network is trained, as typed dataclasses.

YAML files, command-line flags and keyword arguments are made from these classes; a default stands
here and nowhere else. Needs no torch.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mobilevit.deployment.contract import LARGEST
from mobilevit.errors import UserError, nearest, unknown
from mobilevit.files import list_settings, read_settings

PACKAGE = "mobilevit.recipes"
DEFAULT_RECIPE = "photos"
FINETUNE_RECIPE = "finetune"
BOXES_RECIPE = "boxes"
MASKS_RECIPE = "masks"
DEFAULT_MODEL = "mobilevit_xxs"

TASKS = {"classifier": "classification", "ssdlite": "detection", "deeplabv3": "segmentation"}
"""What a network is trained for, by its head."""
OF_TASK: dict[str, tuple[str, ...]] = {
    "classification": (
        *("resize", "crop_scale", "crop_ratio", "randaugment", "erase", "mixup", "cutmix"),
        "head_dropout",
    ),
    "detection": ("iou_crop", "zoom_out"),
    "segmentation": ("scale", "eval_shape", "output_stride", "aux_weight", "balance"),
}
"""Settings that only networks for a task are trained with."""


class Multiple(float):
    """How many times something else a number is: `10x`, where `10` means the same."""

    def __new__(cls, value: float | str) -> Multiple:
        """Read a number, or a string with or without the x."""
        return super().__new__(cls, value.removesuffix("x") if isinstance(value, str) else value)

    def __str__(self) -> str:
        return f"{float(self):g}x"


class Numbers(dict[str, Any]):
    """Numbers of a network's configuration by name: `name=value` words on the command line."""

    @classmethod
    def read(cls, words: Sequence[str]) -> Numbers:
        """Read words like ``layers=[1,1,1]``.

        Raises:
            ValueError: when one of them is not of this form.
        """
        import yaml

        pairs = [word.partition("=") for word in words]
        if any(not name or not value for name, _, value in pairs):
            raise ValueError(f"{' '.join(words)} is not of the form name=value")
        return cls.of({name: yaml.safe_load(value) for name, _, value in pairs})

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Numbers:
        """Make them of plain Python; lists become tuples."""
        return cls({k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def words(self) -> list[str]:
        """Return what ``read`` reads."""
        return [f"{k}={list(v) if isinstance(v, tuple) else v}" for k, v in self.items()]


@dataclass(frozen=True)
class ModelConfig:
    """Which network."""

    model: str | None = None
    """Name of the network, of `mobilevit models`, or timm:NAME for one of timm's; none given: the
    weights', else mobilevit_xxs."""
    head: Literal["classifier", "ssdlite", "deeplabv3"] = "classifier"
    """What stands on it: a classifier, SSDLite to find boxes, or DeepLabv3 to name every pixel."""
    numbers: Numbers | None = None
    """Other numbers of its configuration, or of timm's network, for example layers=[1,1,1]; none
    given: the weights', else its own."""
    patch_sizes: tuple[int, int, int] | None = None
    """Side of the last three stages' patches; none given: the weights', else the paper's 2 2 2."""
    dropout: float | None = None
    """Rate inside the transformers; none given: the paper's for this network."""
    head_dropout: float | None = None
    """Rate before the classifier; none given: the paper's."""


@dataclass(frozen=True)
class DataConfig:
    """Which sizes, and how pictures are read."""

    size: int = 256
    """Side of the picture in evaluation and base size in training, in pixels."""
    sizes: tuple[int, ...] = ()
    """Sides the multi-scale sampler draws from, none: `size` alone; they follow a `size` given."""
    anchor: Literal["base", "largest"] = "base"
    """Whether `batch_size` is meant at `size` or at the largest of `sizes`."""
    resize: int | None = None
    """Shorter side before a classifier's centre crop in evaluation; none given: 9/8 of `size`."""
    val_fraction: float = 0.2
    """Share held back to validate on, from data without a split of their own."""
    workers: int | None = None
    """Processes that read pictures; none given: one for each core, 8 at the most."""


@dataclass(frozen=True)
class AugmentationConfig:
    """What training pictures go through (paper: crop and flip only)."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the picture that a random crop covers."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """Narrowest and widest crop, width over height."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Kernel of every resize, in training and evaluation."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    distort: float = 0.0
    """Probability of each change of brightness, contrast, saturation and hue (SSD, ECCV 2016)."""
    randaugment: int = 0
    """Magnitude of RandAugment (two operations, 0 to 30); 0: off."""
    erase: float = 0.0
    """Probability of erasing a rectangle."""
    mixup: float = 0.0
    """Alpha of mixup; 0: off."""
    cutmix: float = 0.0
    """Alpha of CutMix; 0: off. With mixup too, each batch gets one of the two."""


@dataclass(frozen=True)
class DetectionConfig:
    """What training pictures with boxes go through instead of the crop (SSD, ECCV 2016)."""

    iou_crop: float = 1.0
    """Probability of SSD's random crop, which keeps a box if its centre is inside."""
    zoom_out: float = 0.0
    """Probability of placing the picture on a larger, grey one, so that objects become small."""


@dataclass(frozen=True)
class SegmentationConfig:
    """Masks: what they go through instead of the crop, and how DeepLabv3 is made and taught."""

    scale: tuple[float, float] = (0.5, 2.0)
    """Shortest and longest shorter side that a picture is resized to, over the side of the square
    that is cut from it."""
    eval_shape: tuple[int, int] | None = None
    """Height and width that pictures are stretched to in evaluation, none: `size` both; they follow
    a `size` given."""
    output_stride: Literal[16, 8] | None = None
    """Pixels between two places that are named before the upsampling; none given: the weights',
    else 16. At 8 a new pyramid is twice as wide with twice the rates, as in the authors' code; one
    that comes with the weights is kept as it is."""
    aux_weight: float = 0.0
    """Weight of the loss of a second head on the stage before the last; 0: no such head."""
    balance: float = 0.0
    """Power of the inverse share of a class's pixels that weighs it in the loss; 0: all pixels
    count alike, 1: all classes do."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, warm-up and cosine, counted in samples (paper, section 4.1)."""

    lr: float = 2e-3
    """Learning rate after the warm-up."""
    min_lr: float | None = None
    """Learning rate at the start of the warm-up and at the end; none given: a tenth of `lr`."""
    warmup_epochs: float = 2.4
    """Length of the warm-up, half of the training at most; 2.4 epochs are the paper's 3,000
    iterations of ImageNet."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    decay_norms: bool = True
    """Decay normalisation weights and biases too, as the paper's code does."""
    clip_norm: float = 0.0
    """Largest gradient norm; 0: not clipped."""
    label_smoothing: float = 0.1
    """Share of the target spread over all classes."""
    ema_decay: float = 0.9995
    """Decay of the averaged weights that are evaluated and saved; 0: no averaging."""
    freeze: int = 0
    """First blocks that are not trained, the stem being the first, of 12 (mobilevitv2: 10; timm's:
    a single one)."""
    head_lr: Multiple = field(default=Multiple(1))
    """Learning rate of the classifier, as a multiple of `lr`."""
    layer_lr: float = 1.0
    """Learning rate of a block over that of the next one; the last one has `lr`."""


@dataclass(frozen=True)
class TrainingConfig:
    """How long, how large, on what."""

    epochs: int = 300
    """Passes over the training pictures."""
    batch_size: int = 1024
    """Pictures in an optimiser step at the anchor size, over all processes."""
    accumulate: int = 1
    """Parts in which a process computes its share of a step, to save memory; of boxes and masks
    each part counts by its pictures, however few boxes or labelled pixels it has."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast precision; auto: bf16 where the processor has it, else fp32."""
    compile: bool = False
    """Compile the network, minutes for each size; without a GPU steps are no faster for it."""
    int8: bool = False
    """Learn with every weight and result rounded to int8, from weights that know it in float."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto: the fastest there is."""
    seed: int = 0
    """Seed of everything random."""
    save_steps: int = 500
    """Steps between two saves of the training state, besides the one after each epoch."""


@dataclass(frozen=True)
class Recipe:
    """All of it. Every field of every section has its own name, so flags need no prefix."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @property
    def model_name(self) -> str:
        """Name of the network."""
        return self.model.model or DEFAULT_MODEL

    @property
    def task(self) -> str:
        """Name of the task that the network is trained for."""
        return TASKS[self.model.head]

    @property
    def eval_size(self) -> tuple[int, int]:
        """Height and width of the pictures in evaluation, in pixels."""
        return self.segmentation.eval_shape or (self.data.size, self.data.size)

    @property
    def eval_resize(self) -> int:
        """Shorter side before the centre crop, in pixels."""
        return self.data.resize or round(self.data.size * 9 / 8)

    @property
    def train_sizes(self) -> tuple[int, ...]:
        """Sides of the training pictures, in pixels."""
        return self.data.sizes or (self.data.size,)

    @property
    def min_lr(self) -> float:
        """Learning rate at both ends of the schedule."""
        optimizer = self.optimizer
        return optimizer.lr / 10 if optimizer.min_lr is None else optimizer.min_lr

    def override(self, **values: Any) -> Recipe:
        """Return a copy with some fields changed, by their own names: ``override(epochs=3)``.

        A ``size`` without ``sizes``, ``resize`` or ``eval_shape`` carries those along: they grow or
        shrink as it does.

        Raises:
            UserError: for an unknown name, with the nearest right one, or a value of a wrong type.
        """
        owners = {f.name: section.name for section in fields(self) for f in _fields(section.name)}
        changed: dict[str, dict[str, Any]] = {}
        size = values.get("size")
        if isinstance(size, int):
            along = {
                "sizes": tuple(sorted(set(self._scaled(self.data.sizes, size)))),
                "resize": self._scaled_resize(size),
                "eval_shape": self._scaled(self.segmentation.eval_shape or (), size) or None,
            }
            values = {**along, **values}
        for name, value in values.items():
            if name not in owners:
                raise unknown("setting", name, owners)
            changed.setdefault(owners[name], {})[name] = value
        return self._update(changed, "the settings given")

    def _scaled(self, sides: tuple[int, ...], size: int) -> tuple[int, ...]:
        """Return the multiples of 32 nearest to what sides are at another ``size``."""
        scaled = (side * size / self.data.size for side in sides)
        return tuple(max(32, round(side / 32) * 32) for side in scaled)

    def _scaled_resize(self, size: int) -> int | None:
        """Return what ``resize`` is at another ``size``."""
        resize = self.data.resize
        return None if resize is None else round(resize * size / self.data.size)

    def _update(self, sections: Mapping[str, Any], source: str) -> Recipe:
        recipe = self
        for name, values in sections.items():
            known = [f.name for f in fields(self)]
            if name not in known:
                raise UserError(f"{source}: unknown section '{name}'.{nearest(name, known)}")
            if values is not None and not isinstance(values, Mapping):
                raise UserError(
                    f"{source}: '{name}' is {values!r}, it must be a section of keys: "
                    f"{', '.join(f.name for f in _fields(name))}."
                )
            types_ = typing.get_type_hints(type(getattr(self, name)))
            found = {}
            for key, value in (values or {}).items():
                if key not in types_:
                    homes = [home for home in known if key in (f.name for f in _fields(home))]
                    hint = f" It is '{homes[0]}.{key}'." if homes else nearest(key, types_)
                    raise UserError(f"{source}: unknown key '{name}.{key}'.{hint}")
                found[key] = checked_value(value, types_[key], f"{source}: {name}.{key}")
            recipe = replace(recipe, **{name: replace(getattr(recipe, name), **found)})
        return recipe.validated(source)

    def validated(self, source: str) -> Recipe:
        """Return the recipe itself.

        Raises:
            UserError: for numbers that make no sense, naming them.
        """
        m, t, o, d, a = self.model, self.training, self.optimizer, self.data, self.augmentation
        b, g = self.detection, self.segmentation
        for name, value, low, high in (
            *(("patch_sizes", patch, 1, None) for patch in m.patch_sizes or ()),
            ("dropout", m.dropout or 0, 0, 0.99),
            ("head_dropout", m.head_dropout or 0, 0, 0.99),
            ("epochs", t.epochs, 1, None),
            ("batch_size", t.batch_size, 2, None),
            ("accumulate", t.accumulate, 1, None),
            ("save_steps", t.save_steps, 1, None),
            ("seed", t.seed, 0, 2**63 - 1),
            ("size", d.size, 32, LARGEST),
            *(("sizes", size, 32, LARGEST) for size in d.sizes),
            ("resize", self.eval_resize, d.size, LARGEST),
            ("workers", d.workers or 0, 0, None),
            ("val_fraction", d.val_fraction, 0.01, 0.9),
            ("lr", o.lr, 0, None),
            ("min_lr", self.min_lr, 0, o.lr),
            ("warmup_epochs", o.warmup_epochs, 0, None),
            ("weight_decay", o.weight_decay, 0, None),
            ("clip_norm", o.clip_norm, 0, None),
            ("ema_decay", o.ema_decay, 0, 0.999999),
            ("freeze", o.freeze, 0, None),
            ("head_lr", o.head_lr, 0, None),
            ("layer_lr", o.layer_lr, 0, 1),
            ("label_smoothing", o.label_smoothing, 0, 0.99),
            ("crop_scale", a.crop_scale[0], 0.001, a.crop_scale[1]),
            ("crop_scale", a.crop_scale[1], 0.001, 1),
            ("crop_ratio", a.crop_ratio[0], 0.001, a.crop_ratio[1]),
            ("mixup", a.mixup, 0, None),
            ("cutmix", a.cutmix, 0, None),
            ("flip", a.flip, 0, 1),
            ("erase", a.erase, 0, 1),
            ("randaugment", a.randaugment, 0, 30),
            ("iou_crop", b.iou_crop, 0, 1),
            ("zoom_out", b.zoom_out, 0, 1),
            ("distort", a.distort, 0, 1),
            ("scale", g.scale[0], 0.05, g.scale[1]),
            ("scale", g.scale[1], 0.05, 20),
            *(("eval_shape", side, 32, LARGEST) for side in g.eval_shape or ()),
            ("aux_weight", g.aux_weight, 0, None),
            ("balance", g.balance, 0, 1),
        ):
            if not low <= value <= (sys.float_info.max if high is None else high):
                bounds = f"at least {low}" if high is None else f"from {low} to {high}"
                raise UserError(f"{source}: {name} is {value}, it must be {bounds}.")
        if self.training.int8 and self.training.compile:
            raise UserError(f"{source}: int8 is learnt without compile. Leave one of them out.")
        changed = Recipe().changes(self)
        for task, names in OF_TASK.items():
            for name in names:
                if name in changed and task != self.task:
                    raise UserError(
                        f"{source}: {name} is for {task}, but with the head {self.model.head} a "
                        f"network is trained for {self.task}, which goes without it. Leave it out, "
                        "or start from a recipe for that: photos and finetune are for "
                        "classification, boxes for detection, masks for segmentation."
                    )
        return self

    def changes(self, other: Recipe) -> dict[str, Any]:
        """Return what ``override`` makes another recipe of this one with, as plain Python."""
        mine, theirs = self.to_dict(), other.to_dict()
        return {
            name: value
            for section, values in theirs.items()
            for name, value in values.items()
            if value != mine[section][name]
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as nested plain Python."""
        return {
            section: {key: _plain(value) for key, value in values.items()}
            for section, values in asdict(self).items()
        }

    def to_yaml(self) -> str:
        """Return the recipe as YAML."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> Recipe:
        """Make a recipe of nested plain Python; what is not named keeps its default.

        Raises:
            UserError: for an unknown section or key, with the nearest right one, or a wrong type.
        """
        return cls()._update(values, source)


def list_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return list_settings(PACKAGE)


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe: one that comes with the package by its name, or a YAML file.

    Raises:
        UserError: when there is none of that name, or the file is no recipe.
    """
    return Recipe.from_dict(read_settings(name, "recipe", PACKAGE), str(name))


def _fields(section: str) -> tuple[Any, ...]:
    return fields(_SECTIONS[section])


_SECTIONS = {
    name: hint for name, hint in typing.get_type_hints(Recipe).items() if is_dataclass(hint)
}


def _plain(value: Any) -> Any:
    """Return a value of a field as YAML knows it."""
    if isinstance(value, Multiple):
        return float(value)
    if isinstance(value, Numbers):
        return {key: _plain(number) for key, number in value.items()}
    return list(value) if isinstance(value, tuple) else value


def checked_value(value: Any, hint: Any, where: str) -> Any:
    """Return a value as its field's type wants it, or say what it should have been."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else checked_value(value, args[0], where)
    if origin is Literal:
        if value in args:
            return value
        raise UserError(f"{where} is {value!r}, it must be one of {', '.join(map(str, args))}.")
    if origin is tuple:
        if isinstance(value, (list, tuple)):
            inner = args[:1] * len(value) if args[-1] is Ellipsis else args
            if len(inner) == len(value):
                return tuple(checked_value(v, h, where) for v, h in zip(value, inner, strict=False))
        wanted = "numbers" if args[-1] is Ellipsis else f"{len(args)} numbers"
        raise UserError(f"{where} is {value!r}, it must be a list of {wanted}.")
    if hint is Numbers:
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return Numbers.of(value)
        raise UserError(f"{where} is {value!r}, it must be a section of names and numbers.")
    if hint in (float, Multiple) and not isinstance(value, bool):
        try:
            return hint(value)  # strings too: YAML 1.1 reads 1e-3 as one
        except (TypeError, ValueError):
            pass
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    wanted = "a number like 10 or 10x" if hint is Multiple else f"of type {hint.__name__}"
    raise UserError(f"{where} is {value!r}, it must be {wanted}.")
