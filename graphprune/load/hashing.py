"""A hash that says whether two modules hold the same numbers under the same names."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn


def model_hash(module: nn.Module) -> str:
    """Return the SHA-256 over class name and state dict (names, dtypes, shapes, bytes).

    The names are sorted, so the order in which a module registers its parameters does not count.
    """
    digest = hashlib.sha256(type(module).__qualname__.encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"\n{name} ".encode())
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)} ".encode())
            digest.update(_bytes_of(value))
    return digest.hexdigest()


def _bytes_of(tensor: torch.Tensor) -> bytes | memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
