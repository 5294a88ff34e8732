"""Release: memory that nothing needs any more goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Callable
from functools import cache


def release() -> None:
    """Let go of large networks that nothing refers to any more.

    Graphs refer to themselves, so that only the garbage collector lets go of their weights; and
    glibc keeps what was freed between two blocks still in use, which can be more than a network
    takes.
    """
    gc.collect()
    _trim()(0)


@cache
def _trim() -> Callable[[int], object]:
    """Return glibc's function that gives free memory back; elsewhere one that does nothing."""
    if platform.libc_ver()[0] != "glibc":
        return int
    try:
        found: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return int
    return found
