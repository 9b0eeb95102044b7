"""The one door for weights: a file, a folder or a name on the hub, of this library or another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn

from mobilevit.checkpoints.adapters.cvnets import BESIDE
from mobilevit.checkpoints.configs import read_configs, read_facts
from mobilevit.checkpoints.files import (
    Checkpoint,
    build,
    is_checkpoint,
    load_checkpoint,
    outputs,
    title,
)
from mobilevit.checkpoints.hub import fetch, is_repo, sha256
from mobilevit.checkpoints.reading import read_tensors
from mobilevit.checkpoints.recognition import OURS, architecture_of, recognise
from mobilevit.checkpoints.transfer import STEM, Transfer, match, transfer
from mobilevit.errors import UserError, unknown
from mobilevit.files import find_model, has_weights
from mobilevit.networks import (
    Backbone,
    FeatureExtractor,
    TimmNetwork,
    TorchvisionLRASPP,
    TorchvisionSSDLite,
)
from mobilevit.networks import create_model as make
from mobilevit.weights import is_shipped, shipped

if TYPE_CHECKING:
    from rich.console import Console

ORDERS = ("RGB", "BGR")
BACKBONE = "backbone."
OF_ITS_OWN = ("model", "num_classes", "in_chans", "head", "output_stride")
"""What a network for another task does not take over from the architecture of its weights."""


@dataclass(frozen=True)
class LoadReport:
    """What was loaded from where.

    Attributes:
        source: what was asked for.
        library: whose names the tensors had.
        model: the network.
        channel_order: what the weights in the file take; the network here takes RGB.
        rule: why that order.
        sha256: of the file with the weights.
        transfer: what became of each tensor.
        notes: what else a user should know.
    """

    source: str
    library: str
    model: str
    channel_order: str
    rule: str
    sha256: str
    transfer: Transfer
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain Python."""
        return asdict(self)

    def provenance(self) -> dict[str, Any]:
        """Return what a checkpoint made of this remembers."""
        keys = ("source", "library", "channel_order", "rule", "sha256")
        return {key: getattr(self, key) for key in keys}

    def print(self, console: Console) -> None:
        """Print it as a short table."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=None, show_header=False, pad_edge=False)
        loaded = self.transfer.loaded
        rows = [
            ("weights", f"{self.model} from {self.source}"),
            ("names of", f"{self.library}, sha256 {self.sha256[:16]}"),
            ("channels", f"{self.channel_order} in the file, RGB here ({self.rule})"),
            ("loaded", f"{len(loaded)} tensors, {sum(loaded.values()):,} numbers"),
            *(("adapted", f"{name}, {how}") for name, how in self.transfer.adapted.items()),
            *(("left new", part) for part in _parts(self.transfer.new)),
            *(("ignored", part) for part in _parts(self.transfer.ignored)),
            *(("note", note) for note in self.notes),
        ]
        for label, text in rows:
            table.add_row(label, escape(text))
        console.print(table)


@dataclass(frozen=True)
class Pretrained:
    """A network from anywhere, as one of ours.

    Attributes:
        checkpoint: the network and all that is known of it.
        report: what was loaded, and what was not.
        path: the file that holds the weights.
    """

    checkpoint: Checkpoint
    report: LoadReport
    path: Path


def load_pretrained(
    source: str | Path,
    library: str | None = None,
    channel_order: str | None = None,
    model: str | None = None,
) -> Pretrained:
    """Load a network from wherever it is and whatever library saved it.

    Args:
        source: a run folder, a checkpoint, a weights file of another library (``.safetensors`` or
            a pickle), a folder with ``config.json`` and weights, a name on the Hugging Face hub
            such as ``"apple/mobilevit-small"``, or one that comes with the package (see
            ``find_weights``): ``"imagenette"``.
        library: whose names the tensors have, ``"mobilevit"``, ``"timm"``, ``"transformers"`` or
            ``"cvnets"`` (ml-cvnets and corenet); none: it is recognised.
        channel_order: ``"RGB"`` or ``"BGR"``, what the weights take; none: what is known of their
            origin. The network that is returned always takes RGB.
        model: which network, where ``source`` names several: ``"imagenette"``.

    Raises:
        UserError: when there is nothing at ``source``, it cannot be fetched or read, or holds no
            network known here.
    """
    if channel_order not in (None, *ORDERS):
        raise unknown("channel order", str(channel_order), ORDERS)
    if not isinstance(source, (str, Path)):
        raise UserError(f"weights are named by a path or a name on the hub, not by {source!r}.")
    path = find_weights(source, model)
    if library in (None, OURS) and is_checkpoint(path):
        return _ours(source, path, channel_order)
    return _foreign(source, path, library, channel_order)


def _ours(source: str | Path, path: Path, channel_order: str | None) -> Pretrained:
    if channel_order == "BGR":
        raise UserError(f"{path}: a checkpoint of this package always takes RGB.")
    checkpoint = load_checkpoint(path)
    loaded = {name: tensor.numel() for name, tensor in checkpoint.network.state_dict().items()}
    done = Transfer(loaded, {}, (), ())
    name, rule = title(checkpoint.architecture), "our own checkpoint"
    report = LoadReport(str(source), OURS, name, "RGB", rule, sha256(path), done)
    return Pretrained(checkpoint, report, path)


def _foreign(
    source: str | Path, path: Path, library: str | None, channel_order: str | None
) -> Pretrained:
    where = str(source)
    raw = read_tensors(path)
    known = recognise(raw.tensors, where, library)
    configs = read_configs(path.parent, known.library)
    architecture = architecture_of(known, configs, where)
    facts = read_facts(known, outputs(architecture), configs, list(raw.tensors), where)
    order, rule = facts.channel_order, facts.rule
    if channel_order is not None:
        order, rule = channel_order, "as asked for"
    tensors = dict(known.tensors)
    if order == "BGR" and tensors[STEM].shape[1] == 3:
        tensors[STEM] = tensors[STEM].flip(1)
    if known.head:
        tensors = {f"{BACKBONE}{name}": tensor for name, tensor in tensors.items()}
        tensors |= known.head_tensors
    network, done = _filled(architecture, tensors, where)
    done = replace(done, ignored=(*done.ignored, *known.others))
    notes = facts.notes + ((f"taken out of {raw.unwrapped}",) if raw.unwrapped else ())
    if done.new:
        notes += ("what is left new has random weights until it is trained",)
    name = title(architecture)
    report = LoadReport(where, known.library, name, order, rule, sha256(path), done, notes)
    provenance = report.provenance()
    checkpoint = Checkpoint(network, facts.contract, architecture, provenance=provenance)
    return Pretrained(checkpoint, report, path)


def _filled(
    architecture: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str
) -> tuple[nn.Module, Transfer]:
    """Make a network and load all of its tensors.

    Without a classifier ``final`` may be missing, and always the second head that only trains.

    Raises:
        UserError: when the tensors are not those of the architecture.
    """
    optional = ("aux.",) if outputs(architecture) else ("aux.", "final.")
    try:
        with torch.device("meta"):  # shapes that do not fit are found before they take memory
            chosen, done = match(tensors, build(architecture), where, optional)
        network = build(architecture)
    except (ValueError, ArithmeticError, RuntimeError, TypeError) as error:
        raise UserError(f"{where}: its sizes make no network ({error}).") from error
    network.load_state_dict(chosen, strict=False)
    return network.eval(), done


def split_tensors(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of a backbone, named as in a network of its own, and those of its head.

    A classifier belongs to the backbone.
    """
    tensors = checkpoint.network.state_dict()
    if "head" not in checkpoint.architecture:
        return dict(tensors), {}
    inner = {k.removeprefix(BACKBONE): v for k, v in tensors.items() if k.startswith(BACKBONE)}
    return inner, {k: v for k, v in tensors.items() if not k.startswith(BACKBONE)}


def backbone_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return a state dict whose backbone has the names that a network of its own has."""
    backbone, head = split_tensors(checkpoint)
    return backbone | {
        f"{checkpoint.architecture['head']['type']}.{name}": tensor for name, tensor in head.items()
    }


def tensors_for(network: nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return a checkpoint's tensors under the names that a network has for the same parts."""
    if isinstance(network, (TorchvisionLRASPP, TorchvisionSSDLite)):
        return dict(checkpoint.network.state_dict())
    if isinstance(network, (Backbone, TimmNetwork)):
        return backbone_tensors(checkpoint)
    backbone, head = split_tensors(checkpoint)
    same = type(network) is type(checkpoint.network)
    named = {BACKBONE + name: tensor for name, tensor in backbone.items()}
    return named | (head if same else {})


@overload
def create_model(
    name: str,
    *,
    pretrained: str | Path | None = ...,
    channel_order: str | None = ...,
    num_classes: int | None = ...,
    in_chans: int = ...,
    features_only: Literal[False] = ...,
    **numbers: Any,
) -> Backbone: ...
@overload
def create_model(
    name: str,
    *,
    pretrained: str | Path | None = ...,
    channel_order: str | None = ...,
    num_classes: int | None = ...,
    in_chans: int = ...,
    features_only: Literal[True],
    out_indices: Sequence[int] = ...,
    **numbers: Any,
) -> FeatureExtractor: ...
def create_model(
    name: str,
    *,
    pretrained: str | Path | None = None,
    channel_order: str | None = None,
    num_classes: int | None = None,
    in_chans: int = 3,
    features_only: bool = False,
    out_indices: Sequence[int] = (0, 1, 2, 3, 4),
    **numbers: Any,
) -> Backbone | FeatureExtractor:
    """Make a network, with random weights or with those of a source.

    What was loaded, left new and ignored is printed to standard error as a short table.

    Args:
        name: one of ``list_models()``.
        pretrained: where weights come from, see ``load_pretrained``; none: they are random.
        channel_order: what those weights take, see ``load_pretrained``.
        num_classes: outputs of the classifier; 0 for none; none given: as many as the weights
            have, or 1000. A classifier for another number is new.
        in_chans: channels of the input; the stem's weights are adapted to it.
        features_only: return the stages' feature maps instead of logits.
        out_indices: which stages, with ``features_only``.
        **numbers: any other field of the network's configuration, for example ``dropout=0.2``.

    Raises:
        UserError: for an unknown name or number, and when the weights are of another network.
        TypeError, ValueError, ArithmeticError, RuntimeError: for numbers that make no network.
    """
    if isinstance(pretrained, bool):
        raise UserError(
            f"pretrained is {pretrained}; it must name the weights, like 'imagenette' or a file. "
            "Leave it out for random ones."
        )
    if pretrained is None and channel_order is not None:
        raise UserError("channel_order is a fact about weights: name them too (pretrained=).")
    if pretrained is None:
        classes = 1000 if num_classes is None else num_classes
        network: Backbone = make(name, num_classes=classes, in_chans=in_chans, **numbers)
    else:
        numbers |= {"in_chans": in_chans}
        if num_classes is not None:
            numbers["num_classes"] = num_classes
        network = _with_weights(name, pretrained, channel_order, numbers)
    return FeatureExtractor(network, out_indices) if features_only else network


def find_weights(source: str | Path, model: str | None = None) -> Path:
    """Return the file with the weights that ``load_pretrained`` reads; a hub name is fetched.

    What is on this disk comes first. ``"imagenette"``, ``"imagenette_xxs"`` and the like mean what
    comes with the package, unless there is a file or a folder with weights of that name; a folder
    of pictures is none. ``runs/photos`` looks like a name on the hub too: it is none where there
    is a folder ``runs``.

    Args:
        source: see ``load_pretrained``.
        model: which network ``"imagenette"`` means; none: MobileViT-XXS.

    Raises:
        UserError: when there is none, or it cannot be fetched.
    """
    if isinstance(source, str) and is_shipped(source) and not has_weights(Path(source)):
        return shipped(source, model)
    remote = isinstance(source, str) and is_repo(source) and not Path(source).parent.is_dir()
    return find_model(fetch(str(source)) if remote else source)


def _with_weights(
    name: str, source: str | Path, channel_order: str | None, numbers: Mapping[str, Any]
) -> Backbone:
    from rich.console import Console

    found = load_pretrained(source, channel_order=channel_order, model=name)
    theirs = dict(found.checkpoint.architecture)
    if theirs["model"] != name:
        make(name)  # an unknown name has its own error
        raise UserError(f"{source}: these are weights of {theirs['model']}, not of {name}.")
    kept = {key: value for key, value in theirs.items() if key not in OF_ITS_OWN}
    classes = {"num_classes": theirs["num_classes"]}
    network: Backbone = make(name, **(kept | classes | dict(numbers)))
    done = transfer(backbone_tensors(found.checkpoint), network, str(source))
    replace(found.report, transfer=found.report.transfer.then(done)).print(Console(stderr=True))
    return network


def _parts(names: Sequence[str]) -> list[str]:
    """Say which parts of a network names belong to, and how many tensors each has."""
    counts = Counter(_part(name) for name in names)
    return [f"{part}, {n} tensor{'s' if n > 1 else ''}" for part, n in counts.items()]


def _part(name: str) -> str:
    known = (f"{prefix}* ({what})" for prefix, what in BESIDE.items() if name.startswith(prefix))
    return next(known, name.removeprefix("network.").partition(".")[0])
