"""Weights of one library turned into those of another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilevit.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mobilevit.checkpoints.pretrained import LoadReport


@dataclass(frozen=True)
class Conversion:
    """A finished conversion.

    Attributes:
        path: the file or folder that was written.
        library: whose it is now.
        report: what was loaded to make it.
    """

    path: Path
    library: str
    report: LoadReport

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {
            "path": str(self.path),
            "library": self.library,
            "loaded": self.report.to_dict(),
        }

    def print(self, console: Console) -> None:
        """Print it for people."""
        self.report.print(console)
        console.print(
            f"{self.path}: as {self.library} has it, and read back the same.", markup=False
        )
        if self.path.is_file() and self.library != "mobilevit":
            console.print(
                "It holds the weights alone; class names and sizes go into a folder.", markup=False
            )


def convert(
    source: str | Path,
    target: str | Path,
    to: str = "mobilevit",
    library: str | None = None,
    channel_order: str | None = None,
) -> Conversion:
    """Write weights as another library has them, and read them back to prove it.

    Args:
        source: a run folder, a checkpoint, a weights file or folder of another library, or a name
            on the Hugging Face hub.
        target: a new file for the weights alone (``.safetensors``, ``.pt``, ``.pth``, ``.bin``),
            or a new folder for all that the library wants.
        to: whose names, channel order and settings the target has: ``"mobilevit"``, ``"timm"``,
            ``"transformers"`` or ``"cvnets"`` (ml-cvnets and corenet).
        library: whose names the source has; none: it is recognised.
        channel_order: ``"RGB"`` or ``"BGR"``, what the source's weights take; none: what is known
            of their origin.

    Raises:
        UserError: when the source cannot be read or is no whole network, when there is something
            at the target, or when the library cannot hold the network.
    """
    from mobilevit.checkpoints.pretrained import load_pretrained
    from mobilevit.checkpoints.writing import save_for

    target = Path(target)
    found = load_pretrained(source, library, channel_order)
    missing = sorted({name.partition(".")[0] for name in found.report.transfer.new})
    if missing:
        raise UserError(
            f"{source}: it has no {' and no '.join(missing)}, so it is no whole network that could "
            f"be converted. Train one from it with: mobilevit train PHOTOS --weights {source}"
        )
    save_for(found.checkpoint, target, to)
    return Conversion(target, to, found.report)
