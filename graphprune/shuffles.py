"""Shuffles: a view, a transposition and a view back are one permutation of an axis.

Networks deal channels out over groups that way. The views in between arrange the channels as a
matrix, of which only whole rows or columns could go; selected by index instead, every channel stays
a unit of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from graphprune.constants import add_constant
from graphprune.shapes import Shape, result_shapes

Permutation = npt.NDArray[np.int64]

_RESHAPES = (
    torch.ops.aten.view.default,
    torch.ops.aten.reshape.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.flatten.using_ints,
    torch.ops.aten.unflatten.int,
)
_SWAPS = (torch.ops.aten.transpose.int, torch.ops.aten.swapaxes.default)
_PERMUTES = (torch.ops.aten.permute.default,)
_COPIES = (torch.ops.aten.contiguous.default, torch.ops.aten.clone.default)
_SHUFFLE = torch.ops.aten.channel_shuffle.default


def name_shuffles(module: fx.GraphModule) -> None:
    """Replace shuffles by ``index_select`` with a constant, in the graph."""
    changed = False
    for node in list(module.graph.nodes):
        found = _shuffle(node)
        if found is not None:
            _select(module, node, *found)
            changed = True
    if changed:
        module.recompile()


def _shuffle(node: fx.Node) -> tuple[fx.Node, int, Permutation] | None:
    """Return what a node shuffles, along which dim and how; None if it does something else."""
    if node.op != "call_function":
        return None
    if node.target == _SHUFFLE:
        source, groups = node.args[0], node.args[1]
        assert isinstance(source, fx.Node)
        assert isinstance(groups, int)
        channels = _shape(source)[1]
        return source, 1, np.arange(channels).reshape(groups, -1).T.reshape(-1)
    for steps in _chains(node):
        source = steps[0].all_input_nodes[0]
        if _shape(source) == _shape(node) and any(_order(step) for step in steps):
            moved = _permuted_dim(_shape(source), steps)
            return None if moved is None else (source, *moved)
    return None


def _chains(end: fx.Node) -> Iterator[list[fx.Node]]:
    """Yield ever longer runs of ops that rearrange elements, from first to last, up to ``end``."""
    steps: list[fx.Node] = []
    node = end
    while node.target in (*_RESHAPES, *_SWAPS, *_PERMUTES, *_COPIES) and len(steps) < 8:
        steps = [node, *steps]
        node = node.all_input_nodes[0]
        if end.target in _RESHAPES and len(steps) > 2 and result_shapes(node) is not None:
            yield steps


def _permuted_dim(shape: Shape, steps: list[fx.Node]) -> tuple[int, Permutation] | None:
    """Return the one dim whose entries some steps permute, and the entry that lands at each place.

    None if they mix several dims, or move nothing.
    """
    found: list[tuple[int, Permutation]] = []
    for dim, size in enumerate(shape):
        numbers = np.arange(size).reshape([-1 if k == dim else 1 for k in range(len(shape))])
        moved = np.broadcast_to(numbers, shape)
        for step in steps:
            order = _order(step)
            moved = moved.transpose(order) if order else moved.reshape(_shape(step))
        along = np.moveaxis(moved, dim, 0).reshape(size, -1)
        if (along != along[:, :1]).any():
            return None
        if (along[:, 0] != np.arange(size)).any():
            found.append((dim, along[:, 0]))
    return found[0] if len(found) == 1 else None


def _order(step: fx.Node) -> list[int]:
    """Return the order in which a step takes the dims of its input; nothing if it keeps it."""
    rank = len(_shape(step))
    if step.target in _PERMUTES:
        return [int(dim) % rank for dim in step.args[1]]  # type: ignore[union-attr, arg-type]
    if step.target not in _SWAPS:
        return []
    order = list(range(rank))
    first, second = step.args[1:3]
    order[first], order[second] = order[second], order[first]  # type: ignore[index]
    return order


def _shape(node: fx.Node) -> Shape:
    shapes = result_shapes(node)
    assert shapes is not None
    return shapes[0]


def _select(
    module: fx.GraphModule, node: fx.Node, source: fx.Node, dim: int, places: Permutation
) -> None:
    constant = torch.from_numpy(places.copy())
    index = add_constant(module, f"{node.name}_places", constant, node)
    index.meta["val"] = constant
    with module.graph.inserting_before(node):
        selected = module.graph.call_function(
            torch.ops.aten.index_select.default, (source, dim, index)
        )
    selected.meta = dict(node.meta)
    node.replace_all_uses_with(selected)
    while not node.users and node is not source:
        before = node.all_input_nodes[0]
        module.graph.erase_node(node)
        node = before
