"""Networks that come with the package, trained here; the card beside each says on what and how.

A file is named after its pictures and its network: ``imagenette_xxs`` is a ``mobilevit_xxs``.
"""

from __future__ import annotations

from pathlib import Path

from mobilevit.errors import UserError

FOLDER = Path(__file__).parent
DEFAULT = "imagenette"
"""The name that means the weights for whatever network is asked for, or else the smallest."""
SMALLEST = "mobilevit_xxs"


def list_weights() -> list[str]:
    """Return the names of the networks that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def is_shipped(name: str) -> bool:
    """Tell whether a name is one of ``list_weights()``, or ``"imagenette"``."""
    return name == DEFAULT or name in list_weights()


def shipped(name: str = DEFAULT, model: str | None = None) -> Path:
    """Return the file of a network that comes with the package.

    Args:
        name: one of ``list_weights()``; or ``"imagenette"``, whose network is ``model``.
        model: a network such as ``"mobilevit_s"``; none: the smallest.

    Raises:
        UserError: when none comes with the package, with those that do.
    """
    if name == DEFAULT:
        wanted = model or SMALLEST
        name = next((n for n in list_weights() if network_of(n) == wanted), wanted)
    if name not in list_weights():
        offered = ", ".join(list_weights())
        raise UserError(f"{name}: no such weights come with the package, only {offered}.")
    return FOLDER / f"{name}.safetensors"


def network_of(name: str) -> str:
    """Return the network that a name of ``list_weights()`` is of."""
    return f"mobilevit_{name.rpartition('_')[2]}"
