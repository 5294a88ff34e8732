"""Readers: layers that read units through a weight of their own, so that a refit can mend a loss.

Where a unit goes, a layer that multiplies its input by a parameter can make up for some of what it
loses by other weights on what is left. Consumers without such a weight (products of two
activations, weights that are computed or shared) cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from graphprune.columns import LinearLayer, linear_layers
from graphprune.graph import DependencyGraph
from graphprune.groups import UnitIds


@dataclass(frozen=True)
class Block:
    """Units that have equally many columns in one group of channels of a layer.

    Args:
        units: (n,) their numbers.
        columns: (n, size) their columns, ascending.
    """

    units: UnitIds
    columns: UnitIds

    @property
    def size(self) -> int:
        """Columns of a unit."""
        return int(self.columns.shape[1])

    def where(self, chosen: npt.NDArray[np.bool_]) -> Block:
        """Return those units of this block that are chosen, (n,) Bool."""
        return Block(self.units[chosen], self.columns[chosen])

    def parts(self, most: int) -> Iterator[Block]:
        """Yield these units again, not more than so many at a time."""
        for first in range(0, len(self.units), most):
            here = slice(first, first + most)
            yield Block(self.units[here], self.columns[here])


@dataclass(frozen=True)
class Reader:
    """A layer that reads units.

    Args:
        layer: The layer; its node has the same name in the gated network.
        units: (groups, columns) the unit that each column of its input belongs to, -1 = always
            there.
        outputs: How many outputs a group has.
    """

    layer: LinearLayer
    units: UnitIds
    outputs: int

    @cached_property
    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """For every group of channels, its units by how many columns they have there."""
        return tuple(tuple(_blocks(row)) for row in self.units)


def _blocks(row: UnitIds) -> Iterator[Block]:
    order = np.argsort(row, kind="stable")
    order = order[row[order] >= 0]
    units, first, counts = np.unique(row[order], return_index=True, return_counts=True)
    for size in np.unique(counts):
        chosen = np.flatnonzero(counts == size)
        yield Block(units[chosen], order[first[chosen, None] + np.arange(size)])


def readers_of(graph: DependencyGraph) -> tuple[Reader, ...]:
    """Return the layers that read units through a weight of their own, in execution order."""
    layers = linear_layers(graph.program.module)
    found: dict[str, Reader] = {}
    for gate, units in graph.gates():
        layer = layers.get(gate.op)
        if layer is None or graph.input_node(gate.op, gate.path).name != layer.source:
            continue
        rank = graph.rank(graph.nodes[layer.source])
        weight = graph.program.module.get_parameter(layer.weight)
        # The channels' dim; a window over a whole axis has gates along that one, too.
        if gate.dim % rank == rank + 1 - weight.dim():
            spread = layer.layout.over_columns(torch.from_numpy(units))
            outputs = layer.layout.matrix(weight).shape[1]
            found[layer.node] = Reader(layer, spread.numpy(), outputs)
    return tuple(reader for name in layers if (reader := found.get(name)) is not None)
