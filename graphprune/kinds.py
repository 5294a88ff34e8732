"""Kinds of units: what the smallest removable slice of a group is called.

| Kind | One unit is |
|---|---|
| ``channel`` | one entry along the axis of a convolution's weight |
| ``feature`` | one entry along the axis of any other weight |
| ``head`` | all channels of an attention head |
| ``head column`` | the same column of every attention head |
| ``channel group``, ``feature group`` | several of these that only go together |

What is a head and what a column is read off the products of two activations (attention scores and
their use): heads lie along the dims over which such a product is repeated, columns along those that
it multiplies.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from torch import fx

from graphprune.analysis import overload_name
from graphprune.graph import DependencyGraph
from graphprune.groups import PruningGroup, entries_per_unit

_PRODUCTS = {
    "aten.scaled_dot_product_attention.default": (0, 1, 2),
    "aten.matmul.default": (0, 1),
    "aten.bmm.default": (0, 1),
    "aten.baddbmm.default": (1, 2),
}
"""Ops that multiply activations, and the places of their operands; the last two dims are those of
the product."""


Dims = Collection[int]


class UnitKinds:
    """Tells what the units of one network's groups are.

    Args:
        graph: The network.
    """

    def __init__(self, graph: DependencyGraph) -> None:
        self._graph = graph
        self._in_heads = np.zeros(graph.n_units, bool)
        self._in_columns = np.zeros(graph.n_units, bool)
        self._convolved = frozenset(self._weights_of_convolutions())
        for operand, repeated in self._operands():
            for dim, units in graph.axes.get((operand.name, None), {}).items():
                marks = self._in_heads if dim in repeated else self._in_columns
                marks[units[units >= 0]] = True

    def of(self, group: PruningGroup) -> str:
        """Return what a unit of a group is called."""
        several = bool((entries_per_unit(group, group.members[0]) > 1).any())
        if self._in_heads[group.span].any():
            return "head"
        if several and self._in_columns[group.span].any():
            return "head column"
        single = "channel" if group.parameter in self._convolved else "feature"
        return f"{single} group" if several else single

    def _operands(self) -> Iterator[tuple[fx.Node, Dims]]:
        """Yield the activations that enter a product with another, and dims that it runs over."""
        for node in self._graph.nodes.values():
            overload = overload_name(node) if node.op == "call_function" else ""
            if overload == "aten.einsum.default":
                found = self._of_einsum(node)
            else:
                places = ((place,) for place in _PRODUCTS.get(overload, ()))
                operands = [self._graph.input_node(node.name, path) for path in places]
                found = [(made, range(self._graph.rank(made) - 2)) for made in operands]
            if not any(self._is_constant(made) for made, _ in found):
                yield from found

    def _of_einsum(self, node: fx.Node) -> list[tuple[fx.Node, Dims]]:
        """Return the two operands; the product runs over letters that both and the result have."""
        inputs, _, output = str(node.args[0]).replace(" ", "").partition("->")
        terms = inputs.split(",")
        if len(terms) != 2 or "." in inputs:
            return []
        shared = set(terms[0]) & set(terms[1]) & set(output)
        return [
            (
                self._graph.input_node(node.name, (1, place)),
                [dim for dim, letter in enumerate(term) if letter in shared],
            )
            for place, term in enumerate(terms)
        ]

    def _is_constant(self, node: fx.Node) -> bool:
        return self._graph.analysis.values[node.name, None].constant

    def _weights_of_convolutions(self) -> Iterator[str]:
        aliases = self._graph.program.aliases
        for node in self._graph.nodes.values():
            convolved = any("conv" in overload_name(user) for user in node.users)
            if node.op == "get_attr" and str(node.target) in aliases and convolved:
                yield aliases[str(node.target)]
