"""What travels inside every artefact, as text by key. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mobilevit.deployment.contract import Contract
from mobilevit.errors import UserError

CONTRACT = "mobilevit.contract"
NETWORK = "mobilevit.network"
ORIGIN = "mobilevit.origin"
COMPARISON = "mobilevit.comparison"
"""Keys of the entries, each of them JSON."""


@dataclass(frozen=True)
class Origin:
    """Where a network comes from: its checkpoint, and its data without saying where they lie.

    Attributes:
        data: a hash of the absolute path of the folder; empty where it is not known.
        val_fraction: the share held out from a folder without a split of its own.
        checkpoint: a hash of the checkpoint's file; empty where it is not known.
    """

    data: str = ""
    val_fraction: float = 0.2
    checkpoint: str = ""

    @classmethod
    def of(cls, data: str | Path, val_fraction: float = 0.2, checkpoint: str = "") -> Origin:
        """Return the origin of a network that was trained on a folder."""
        path = str(Path(data).resolve()).encode(errors="surrogateescape")
        return cls(hashlib.blake2b(path, digest_size=8).hexdigest(), val_fraction, checkpoint)

    def is_at(self, data: str | Path) -> bool:
        """Return whether a folder is the one the network was trained on."""
        return self.data == Origin.of(data).data


@dataclass(frozen=True)
class Manifest:
    """All that an artefact says of itself.

    Attributes:
        contract: how to feed and read it.
        network: what is known of it: ``network`` (name), ``precision``, ``parameters`` and
            ``multiply_adds`` of one picture, ``quantised``, ``delegated``, ``versions``.
        origin: where it comes from.
    """

    contract: Contract
    network: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)

    def entries(self) -> dict[str, str]:
        """Return it as text by key, for a format to keep."""
        return {
            CONTRACT: self.contract.to_json(),
            NETWORK: json.dumps(dict(self.network)),
            ORIGIN: json.dumps(asdict(self.origin)),
            "class_names": json.dumps(self.contract.class_names, ensure_ascii=False),
        }

    @classmethod
    def read(cls, entries: Mapping[str, str], path: Path) -> Manifest:
        """Read what ``entries`` made.

        Raises:
            UserError: when there is no contract among them, or it cannot be kept.
        """
        if CONTRACT not in entries:
            raise UserError(
                f"{path}: it holds no contract, so how to feed and read it is not known. Make it "
                "from a checkpoint with: mobilevit export MODEL"
            )
        origin = json.loads(entries.get(ORIGIN, "{}"))
        return cls(
            Contract.from_json(entries[CONTRACT], str(path)),
            json.loads(entries.get(NETWORK, "{}")),
            Origin(**{f.name: origin[f.name] for f in fields(Origin) if f.name in origin}),
        )
