"""Keeping the chatter of converters and runtimes to themselves. Needs no torch."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress


@contextmanager
def quiet() -> Iterator[None]:
    """Print nothing, nor let libraries in C++; errors that are raised still come through."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            _silent(2),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def _silent(descriptor: int) -> Iterator[None]:
    """Send what is written to a file descriptor to nowhere."""
    try:
        before = os.dup(descriptor)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
    try:
        yield
    finally:
        with suppress(OSError):
            os.dup2(before, descriptor)
        os.close(before)
