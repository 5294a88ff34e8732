"""Release: memory that nothing needs any more goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Callable
from functools import cache

from torch import nn

WORTH_RELEASING = 1 << 25
"""Bytes of a network of which copies are let go of at once."""


def give_up_weights(network: nn.Module) -> None:
    """Free the memory of a network's parameters and buffers, for good.

    Their names, shapes and dtypes stay, for what looks at no numbers; numbers read NaN, or zero
    where there is no NaN, so that nothing computed with them passes for a result.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        nothing = float("nan") if tensor.is_floating_point() else 0
        tensor.data = tensor.new_full((), nothing).expand(tensor.shape)


def size_of(network: nn.Module) -> int:
    """Return what a network's parameters and buffers take in bytes, or took before given up."""
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


def release(size: int) -> None:
    """Let go of large networks that nothing refers to any more.

    Graphs refer to themselves, so that only the garbage collector lets go of their weights; and
    glibc keeps what was freed between two blocks still in use, which can be more than a network
    takes. The collector looks at every object of torch, which takes half a second: too long for a
    small network.

    Args:
        size: Of one copy of the network in bytes.
    """
    if size < WORTH_RELEASING:
        return
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
