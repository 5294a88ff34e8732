"""Resize: what a rewrite function sees when surgery shrinks the tensors around an op."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from graphprune.constants import add_constant

Kept = npt.NDArray[np.int64]
"""Indices along an axis that remain, ascending."""

KeptAlong = Callable[[fx.Node, int | None, int], Kept | None]
"""(node, index of the result or None, dim) -> indices that remain, None if the axis is whole."""


@dataclass(frozen=True, slots=True)
class Resize:
    """One call in the graph whose tensors shrink.

    Args:
        node: The call; rewrites change its arguments.
        kept_along: What remains of an axis.
        shape_of: Shape of a node's result before surgery.
    """

    node: fx.Node
    kept_along: KeptAlong
    shape_of: Callable[[fx.Node, int | None], tuple[int, ...]]

    # ---- what shrinks ------------------------------------------------------------------------

    def kept(self, dim: int, result: int | None = None) -> Kept | None:
        """Return what remains of the result's axis ``dim``; None if all of it."""
        return self.kept_along(self.node, result, dim)

    def kept_in(self, position: int, dim: int) -> Kept | None:
        """Return what remains of the axis ``dim`` of the tensor argument at ``position``."""
        return self.kept_along(self.tensor(position), None, dim)

    def shape(self, result: int | None = None) -> tuple[int, ...]:
        """Return the result's shape before surgery."""
        return self.shape_of(self.node, result)

    def shape_in(self, position: int) -> tuple[int, ...]:
        """Return the shape of the tensor argument at ``position`` before surgery."""
        return self.shape_of(self.tensor(position), None)

    def is_symbolic(self, position: int, dim: int) -> bool:
        """Whether the tensor argument at ``position`` has a size along ``dim`` that may vary."""
        made = self.tensor(position).meta.get("val")
        return isinstance(made, torch.Tensor) and isinstance(made.shape[dim], torch.SymInt)

    # ---- arguments ---------------------------------------------------------------------------

    def tensor(self, position: int) -> fx.Node:
        """Return the node that makes the tensor argument at ``position``."""
        node = self.argument(position)
        assert isinstance(node, fx.Node)
        return node

    def argument(self, position: int, default: Any = None) -> Any:
        """Return an argument by its place in the schema."""
        return argument(self.node, position, default)

    def set(self, position: int, value: Any) -> None:
        """Replace an argument by its place in the schema."""
        set_argument(self.node, position, value)

    def sizes(self, sizes: list[Any], first: int = 0) -> list[Any]:
        """Return what remains of literal sizes of the result's dims from ``first`` on."""
        before = self.shape()
        remaining = list(sizes)
        for place, size in enumerate(sizes):
            kept = self.kept(first + place)
            if kept is not None and size != -1:
                remaining[place] = self.scaled(size, len(kept), before[first + place])
        return remaining

    def scaled(self, size: Any, kept: int, before: int) -> Any:
        """Return ``size * kept // before``, also where ``size`` is a symbolic node."""
        if not isinstance(size, fx.Node):
            return int(size) * kept // before
        graph = self.node.graph
        with graph.inserting_before(self.node):
            product = graph.call_function(operator.mul, (size, kept))
            return graph.call_function(operator.floordiv, (product, before))

    def constant_of(self, node: fx.Node) -> Kept:
        """Return what a constant vector of integers holds, by the node that reads or copies it."""
        source = node
        while source.op != "get_attr":
            source = source.all_input_nodes[0]
        owner, _, name = str(source.target).rpartition(".")
        module = self.node.graph.owning_module
        assert module is not None
        held: Kept = getattr(module.get_submodule(owner), name).detach().cpu().numpy()
        return held.astype(np.int64)

    def constant(self, tensor: torch.Tensor) -> fx.Node:
        """Add a constant of its own to the network; return the node that reads it."""
        module = self.node.graph.owning_module
        assert module is not None
        return add_constant(module, f"{self.node.name}_index", tensor, self.node)

    def retarget(self, target: Any, arguments: tuple[Any, ...]) -> None:
        """Call another overload with these arguments instead."""
        self.node.target = target
        self.node.args = arguments
        self.node.kwargs = {}


def argument(node: fx.Node, position: int, default: Any = None) -> Any:
    """Return a call's argument by its place in the op's schema."""
    if position < len(node.args):
        return node.args[position]
    schema = getattr(node.target, "_schema", None)
    if schema is None or position >= len(schema.arguments):
        return default
    declared = schema.arguments[position]
    if declared.name in node.kwargs:
        return node.kwargs[declared.name]
    return declared.default_value if declared.has_default_value() else default


def set_argument(node: fx.Node, position: int, value: Any) -> None:
    """Replace a call's argument by its place in the op's schema."""
    if position < len(node.args):
        node.update_arg(position, value)
        return
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    node.update_kwarg(target._schema.arguments[position].name, value)
