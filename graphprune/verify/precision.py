"""Networks in float64, where two ways of computing one function agree to 1e-9."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

_NARROW = (torch.float32, torch.float16, torch.bfloat16)


def as_double(module: nn.Module) -> nn.Module:
    """Return a form of a network that computes in float64 throughout.

    Besides weights and buffers that takes the dtypes written into graphs, such as those of casts
    inside norms. What ordinary modules write into their forward stays as it is. Graphs share their
    weights and widen each where it is read and no longer, so that large networks are not held a
    third time.

    Args:
        module: The network; it is not changed.
    """
    if isinstance(module, fx.GraphModule):
        return _Wide(module)
    graphs = [part for part in module.modules() if isinstance(part, fx.GraphModule)]
    # deepcopy looks every object up in its memo first: the graphs are put there beforehand.
    return copy.deepcopy(module, {id(part): _Wide(part) for part in graphs}).double()


class _Wide(nn.Module):
    """Runs a graph in float64 on weights of any precision."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__()
        self._interpreter = _Widening(module)

    def forward(self, *inputs: Any) -> Any:
        return self._interpreter.run(*inputs)


class _Widening(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, graph=_widened(module.graph))

    def fetch_attr(self, target: str) -> Any:
        """Return a weight, in float64 if it is a floating-point number."""
        found = super().fetch_attr(target)
        if isinstance(found, fx.GraphModule):
            return _Wide(found)
        return found.double() if isinstance(found, Tensor) and found.dtype in _NARROW else found


def doubled_inputs(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return inputs with their floating tensors in float64."""

    def of(leaf: Any) -> Any:
        return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    widened: tuple[Any, ...] = pytree.tree_map(of, inputs)
    return widened


def _widened(graph: fx.Graph) -> fx.Graph:
    def of(value: Any) -> Any:
        return torch.float64 if value in _NARROW else value

    widened = copy.deepcopy(graph)
    for node in widened.nodes:
        node.args = fx.node.map_aggregate(node.args, of)
        node.kwargs = fx.node.map_aggregate(node.kwargs, of)
    _read_late(widened)
    return widened


def _read_late(graph: fx.Graph) -> None:
    """Read every weight anew right before each use: graphs of torch.export read all at once."""
    for weight in graph.find_nodes(op="get_attr"):
        for user in list(weight.users):
            with graph.inserting_before(user):
                user.replace_input_with(weight, graph.node_copy(weight))
        graph.erase_node(weight)
