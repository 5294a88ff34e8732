"""Networks in float64, where two ways of computing one function agree to 1e-9."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

_NARROW = (torch.float32, torch.float16, torch.bfloat16)


def as_double(module: nn.Module) -> nn.Module:
    """Return a copy of a network that computes in float64 throughout.

    Besides weights and buffers that takes the dtypes written into graphs, such as those of casts
    inside norms. What ordinary modules write into their forward stays as it is.

    Args:
        module: The network; it is not changed.
    """
    doubled = copy.deepcopy(module).double()
    for part in doubled.modules():
        if isinstance(part, fx.GraphModule):
            _widen(part)
    return doubled


def doubled_inputs(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return inputs with their floating tensors in float64."""

    def of(leaf: Any) -> Any:
        return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    widened: tuple[Any, ...] = pytree.tree_map(of, inputs)
    return widened


def _widen(module: fx.GraphModule) -> None:
    def of(value: Any) -> Any:
        return torch.float64 if value in _NARROW else value

    for node in module.graph.nodes:
        node.args = fx.node.map_aggregate(node.args, of)
        node.kwargs = fx.node.map_aggregate(node.kwargs, of)
    module.recompile()
