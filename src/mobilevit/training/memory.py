"""Freed memory that stays with the process."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Parameters of ``mallopt``, of glibc's ``malloc.h``."""


def keep_memory() -> None:
    """Tell glibc to keep freed memory for the next step instead of giving it back to the system.

    A training step frees and takes the same hundreds of megabytes again and again, and the system
    hands out and clears every page of it each time. The peak is the same. Elsewhere than on Linux
    with glibc nothing is done.
    """
    if platform.libc_ver()[0] == "glibc":
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_MMAP_MAX, 0)
        allocator.mallopt(_TRIM_THRESHOLD, -1)
        allocator.mallopt(_TOP_PAD, 64 << 20)
