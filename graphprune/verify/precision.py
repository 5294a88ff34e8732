"""Networks in float64, where two ways of computing one function agree to 1e-9."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

_NARROW = (torch.float32, torch.float16, torch.bfloat16)


def as_double(module: nn.Module) -> nn.Module:
    """Return a form of a network that computes in float64 throughout.

    Besides weights and buffers that takes the dtypes written into graphs, such as those of casts
    inside norms. What ordinary modules write into their forward stays as it is. Graphs share their
    weights and widen each where it is read and no longer, those of linear layers and embeddings
    part by part, so that large networks are not held a third time.

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
        self._interpreter = Widening(module)

    def forward(self, *inputs: Any) -> Any:
        return self._interpreter.run(*inputs)


class Widening(fx.Interpreter):
    """Runs a graph node by node in float64; nodes keep their names.

    Args:
        module: The network; it is not changed.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, graph=_widened(module.graph))

    def fetch_attr(self, target: str) -> Any:
        """Return a weight as it is, or a subgraph in its wide form."""
        found = super().fetch_attr(target)
        return _Wide(found) if isinstance(found, fx.GraphModule) else found


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
                read = graph.node_copy(weight)
                kernel = _kernel_reading(user, weight)
                if kernel is None:
                    read = graph.call_function(_wide, (read,))
            user.target = user.target if kernel is None else kernel
            user.replace_input_with(weight, read)
        graph.erase_node(weight)


def _kernel_reading(user: fx.Node, weight: fx.Node) -> Callable[..., Tensor] | None:
    """Return what takes a call's place if it can read this weight as it is; None if it cannot."""
    place, kernel = _KERNELS.get(user.target, (-1, None))
    reads = [argument is weight for argument in user.args]
    return kernel if sum(reads) == 1 and reads[place] else None


def _wide(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.dtype in _NARROW else value


def _wide_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = max(1, _PART // max(1, weight.shape[-1]))
    if weight.dim() != 2 or len(weight) <= rows:
        return functional.linear(x, _wide(weight), bias)
    made = torch.cat([functional.linear(x, _wide(part)) for part in weight.split(rows)], -1)
    return made if bias is None else made + bias


def _wide_embedding(weight: Tensor, *rest: Any) -> Tensor:
    found: Tensor = _wide(torch.ops.aten.embedding.default(weight, *rest))
    return found


_PART = 1 << 20
"""Numbers of a weight that are widened at once."""

_KERNELS: dict[Any, tuple[int, Callable[..., Tensor]]] = {
    torch.ops.aten.linear.default: (1, _wide_linear),
    torch.ops.aten.embedding.default: (0, _wide_embedding),
}
"""By overload, where it has its weight, and what computes it in float64 on a narrow one."""
