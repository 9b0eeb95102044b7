"""The errors a user can mend, and the sentences that tell how."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class UserError(Exception):
    """Something the user gave cannot be used; the message names it and the way out."""


class MissingExtraError(UserError, ImportError):
    """An optional library is not installed; the message has the pip line that installs it."""


class DivergedError(UserError):
    """A loss, or what a network says, is no number any more."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest of ``known``, or an empty string."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def unknown(kind: str, word: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that is none of ``known``, with the nearest right one."""
    known = list(known)
    return UserError(
        f"unknown {kind} '{word}'.{nearest(word, known)} Known: {', '.join(map(str, known))}."
    )


def require(module: str, extra: str) -> ModuleType:
    """Import an optional library.

    Args:
        module: the module to import, for example ``"onnxruntime"``.
        extra: the extra of this package that installs it, for example ``"onnx"``.

    Raises:
        MissingExtraError: when it is not installed, with the pip line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs '{module}', which cannot be imported ({error}). "
            f'Install it with: pip install "mobilevit[{extra}]"'
        ) from error
