"""What is found about a data set, and how grave it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mobilevit.errors import UserError

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """Something about the data that its owner should know.

    Attributes:
        severity: ``"error"``: training on it cannot go well. ``"warning"``: training works, but
            teaches or measures less than it seems. ``"info"``: good to know.
        check: the name of the check, for example ``"duplicate-across-splits"``.
        message: what was found and the way out.
        paths: the files it is about.
    """

    severity: Severity
    check: str
    message: str
    paths: tuple[str, ...] = ()


def by_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the findings, errors first, then warnings, then the rest."""
    return tuple(sorted(findings, key=lambda f: ("error", "warning", "info").index(f.severity)))


def counted(count: int, thing: str, things: str | None = None) -> str:
    """Return how many things there are, in words."""
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"


def listed(names: Sequence[str], most: int = 10) -> str:
    """Return names, at most so many of them, as a list in words."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def refuse(source: Path, findings: Iterable[Finding]) -> None:
    """Do nothing, unless one of the findings is an error; the unreadable can be left out.

    Args:
        source: the data set.
        findings: about it.

    Raises:
        UserError: with the first error.
    """
    for finding in findings:
        if finding.severity == "error" and finding.check != "unreadable-picture":
            raise UserError(f"{source}: {finding.message} See all with: mobilevit doctor {source}")
