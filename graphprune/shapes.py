"""Shapes of a traced graph's tensors, symbolic sizes at the value they had when traced."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

Shape = tuple[int, ...]


def concrete(size: Any) -> int:
    """Return a size as an integer; a symbolic one as it was when traced."""
    if isinstance(size, int):
        return size
    hint = size.node.hint
    return int(hint) if hint is not None else int(size)


def result_shapes(node: fx.Node) -> tuple[Shape, ...] | None:
    """Return the shapes of a node's results, None if it makes no tensor."""
    made = node.meta.get("val")
    listed = made if isinstance(made, (list, tuple)) else [made]
    tensors = [tensor for tensor in listed if isinstance(tensor, torch.Tensor)]
    if not tensors or len(tensors) != len(listed):
        return None
    return tuple(tuple(concrete(size) for size in tensor.shape) for tensor in tensors)
