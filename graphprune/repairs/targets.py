"""What a layer should give, so that the network goes on as the unpruned one does.

First of all what the unpruned layer gives. But where the layer's output is added to a stream, the
stream's other part carries an error already, and the layer can make up for it. So its output is
followed through everything that is affine in it entry by entry (batch norms, scales, views,
additions of what is known by then) up to the last addition, F. Where the unpruned network has f
there and the path maps an output y to P(y) = A y + c, the target is the y with P(y) = f.

A only moves and scales entries: every entry of P(y) reads at most one of y. Its inverse therefore
follows from its transpose, which differentiation gives: A^-1 e = A^T e / A^T A 1, where the
denominator holds the squared scales. Entries that no path leads to keep the unpruned output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from graphprune.analysis import overload_name
from graphprune.ops.resize import argument
from graphprune.repairs.lockstep import Lookup, evaluated

ShapeOf = Callable[[fx.Node], tuple[int, ...] | None]

_SMALLEST = 1e-6
"""Squared scales below this share of the largest count as zero: nothing can be made up there."""


@dataclass(frozen=True)
class Target:
    """Where a layer's output goes.

    Args:
        layer: The node.
        path: Nodes that are affine in its output, in order; each reads the one before it only once
            and nothing else that is not known by then.
        end: The last addition among them; the layer itself if there is none.
    """

    layer: fx.Node
    path: tuple[fx.Node, ...]
    end: fx.Node

    @property
    def corrects(self) -> bool:
        """Whether the layer can make up for the error of what it is added to."""
        return self.end is not self.layer


def target_of(layer: fx.Node, shape_of: ShapeOf) -> Target:
    """Follow a layer's output.

    Args:
        layer: The node, in the pruned network.
        shape_of: Shapes in the unpruned network, by node.
    """
    path = affine_path(layer, shape_of)
    additions = [place for place, each in enumerate(path) if overload_name(each) in _ADDITIONS]
    if not additions:
        return Target(layer, path, layer)
    return Target(layer, path[: additions[-1] + 1], path[additions[-1]])


def affine_path(layer: fx.Node, shape_of: ShapeOf) -> tuple[fx.Node, ...]:
    """Follow a layer's output for as long as all that is made of it is affine in it.

    Args:
        layer: The node, in the pruned network.
        shape_of: Shapes in the unpruned network, by node.
    """
    order = {node: place for place, node in enumerate(layer.graph.nodes)}
    known = order[layer]
    path: list[fx.Node] = []
    node = layer
    while (following := only_user(node)) is not None and _is_affine(following, node, shape_of):
        others = [source for source in following.all_input_nodes if source is not node]
        if any(order[other] > known and other.op != "get_attr" for other in others):
            break
        path.append(following)
        node = following
    return tuple(path)


def corrected(target: Target, output: Tensor, wanted: Tensor, lookup: Lookup) -> Tensor:
    """Return the output that makes the path end in what is wanted.

    Args:
        target: The layer's.
        output: The unpruned layer's output, of the pruned layer's shape.
        wanted: The unpruned network's value at the path's end, of the pruned one's shape.
        lookup: Values of the pruned network.
    """
    follow = followed(target.layer, target.path, lookup)
    with torch.enable_grad():
        leaf = output.detach().clone().requires_grad_()
        reached = follow(leaf)
        (back,) = torch.autograd.grad(reached, leaf, wanted - reached.detach())
    squares = squared_scales(target, output, lookup)
    usable = matters(squares)
    return torch.where(usable, output + back / squares.where(usable, 1.0), output)


def squared_scales(target: Target, output: Tensor, lookup: Lookup) -> Tensor:
    """Return by what square a change of each entry is scaled along the path, as ``output``."""
    follow = followed(target.layer, target.path, lookup)
    with torch.enable_grad():
        leaf = torch.zeros_like(output).requires_grad_()
        reached = follow(leaf)
        with torch.no_grad():
            slope = follow(torch.ones_like(output)) - reached
        (squares,) = torch.autograd.grad(reached, leaf, slope)
    return squares


def matters(squares: Tensor) -> Tensor:
    """Return the entries whose squared scale is not as good as zero."""
    return squares > _SMALLEST * squares.max()


def followed(layer: fx.Node, path: Sequence[fx.Node], lookup: Lookup) -> Callable[[Tensor], Tensor]:
    """Return what makes of a layer's output the value at the end of a path.

    Args:
        layer: The node.
        path: Nodes that follow it, in order.
        lookup: Values of the network.
    """

    def follow(output: Tensor) -> Tensor:
        made: dict[fx.Node, Any] = {layer: output}
        for node in path:
            made[node] = evaluated(node, lambda read: made[read] if read in made else lookup(read))
        found: Tensor = made[path[-1]] if path else output * 1
        return found

    return follow


def only_user(node: fx.Node) -> fx.Node | None:
    """Return what reads a node, if that is one node."""
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _is_affine(node: fx.Node, source: fx.Node, shape_of: ShapeOf) -> bool:
    """Whether every entry of a call is affine in one entry of ``source``, its only such input."""
    if node.op != "call_function":
        return False
    overload = overload_name(node)
    if overload in _ADDITIONS | _SCALES:
        others = [read for read in node.all_input_nodes if read is not source]
        # By constants only: what activations scale by is not the same in both networks.
        allowed = overload in _ADDITIONS or all(other.op == "get_attr" for other in others)
        # An input that is broadcast is read several times, and so is one that meets itself.
        once = shape_of(node) == shape_of(source) and node.args[0] is not node.args[1]
        return allowed and once
    if overload in _QUOTIENTS:
        return node.args[0] is source and not isinstance(node.args[1], fx.Node)
    if overload in _EVALUATED:
        return node.args[0] is source and argument(node, _EVALUATED[overload]) is False
    return overload in _MOVES and node.args[0] is source


_ADDITIONS = frozenset({"aten.add.Tensor", "aten.sub.Tensor"})
_SCALES = frozenset({"aten.mul.Tensor"})
_QUOTIENTS = frozenset({"aten.div.Tensor"})

_EVALUATED = {
    "aten.batch_norm.default": 5,
    "aten.dropout.default": 2,
    "aten.feature_dropout.default": 2,
}
"""Ops that are affine in evaluation mode, and where they are told that they train."""

_MOVES = frozenset(
    {
        "aten.alias.default",
        "aten.clone.default",
        "aten.contiguous.default",
        "aten.flatten.using_ints",
        "aten.permute.default",
        "aten.reshape.default",
        "aten.roll.default",
        "aten.slice.Tensor",
        "aten.squeeze.dim",
        "aten.transpose.int",
        "aten.unflatten.int",
        "aten.unsqueeze.default",
        "aten.view.default",
    }
)
"""Ops that only move entries, or drop some."""
