"""Masked execution: the full-size network in which absent units behave as if removed.

Every op that adds up its input along a prunable axis gets that input multiplied by a *gate*: one
where a unit is kept, zero where it is absent. Ops that take statistics over such an axis (norms,
means, softmax) are replaced by kernels that count kept entries only. What absent slices hold in
between does not matter, since nothing kept reads it; so the network computes exactly what the
physically pruned one computes. Gates are ordinary factors, so the result is differentiable in them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from graphprune.coalition import kept_outputs
from graphprune.errors import OptionError
from graphprune.graph import DependencyGraph, Kept
from graphprune.groups import UnitIds
from graphprune.labels.coupler import ArgumentPath, MaskedKernel
from graphprune.ops.resize import argument

GATES = "unit_gates"
"""Name of the gated graph's first input."""

UnitGates = Tensor
"""(n_units + 1,) or (batch, n_units + 1) floats, 1 = kept; the last column is 1 for ever."""


class MaskedNetwork(nn.Module):
    """A full-size network with some units masked, called like the model itself.

    Args:
        graph: The traced network.
        kept: For every unit whether it is kept.
        shared: Share the traced weights, which must then not be cast or trained.
    """

    def __init__(self, graph: DependencyGraph, kept: Kept, *, shared: bool = False) -> None:
        super().__init__()
        absent = ~np.asarray(kept, bool)
        gated = gated_module(graph, absent)
        # The network owns its weights, so that casting it leaves the traced ones alone.
        self.network = (gated if shared else copy.deepcopy(gated)).eval()
        self.register_buffer("gates", unit_gates(torch.from_numpy(~absent)))
        # Not a method of the graph: copies of the network would take the whole graph along.
        self._structure = graph.output_structure
        self._narrowed = kept_outputs(graph, ~absent)
        for (place, dim), entries in self._narrowed.items():
            self.register_buffer(f"output_{place}_{dim}", torch.from_numpy(entries))

    def forward(self, *inputs: Any) -> Any:
        """Return what the model returns, with the masked units absent.

        Of an output that may shrink, only the entries that are kept: what the network computes for
        the others means nothing.
        """
        flat = list(self.network(self.gates, *pytree.tree_leaves(inputs)))
        for place, dim in self._narrowed:
            entries = self.get_buffer(f"output_{place}_{dim}")
            flat[place] = flat[place].index_select(dim, entries)
        return pytree.tree_unflatten(flat, self._structure)


def mask_network(graph: DependencyGraph, kept: Kept, *, shared: bool = False) -> MaskedNetwork:
    """Return the full-size network with every unit outside ``kept`` masked."""
    return MaskedNetwork(graph, kept, shared=shared)


def gated_module(
    graph: DependencyGraph, units: npt.NDArray[np.bool_] | None = None
) -> fx.GraphModule:
    """Return the traced network with gates; it shares the traced weights.

    Its first input holds the gates of all units (:data:`UnitGates`), the others are the network's
    flat inputs; it returns the flat list of outputs.

    Args:
        graph: The network.
        units: Which units may be absent; all by default. Gates of others are left out, so the
            graph of a game on one group is smaller.
    """
    return _Gating(graph, units).build()


def unit_gates(kept: Tensor, dtype: torch.dtype = torch.float32) -> UnitGates:
    """Turn coalitions (n_units,) or (batch, n_units) into gates with the constant last column."""
    rows = kept.to(dtype)
    return torch.cat([rows, rows.new_ones(*rows.shape[:-1], 1)], -1)


Place = tuple[int, int, int]
"""Dim, outer and repeats of a ``BatchPlace``, as a tuple because fx stores no records."""


def lay_gates(gates: UnitGates, index: Tensor, rank: int, dim: int, place: Place | None) -> Tensor:
    """Lay unit gates along one axis of a tensor, ready to multiply.

    Args:
        gates: (n_units + 1,) or (batch, n_units + 1).
        index: Column of ``gates`` for every entry along the axis.
        rank: Dims of the tensor that will be multiplied.
        dim: The axis, another than that of the batch.
        place: Where the tensor holds the batch, if it does and that is known.
    """
    values = gates.index_select(-1, index)
    shape = [1] * rank
    shape[dim] = index.numel()
    if place is None:
        return (values if values.dim() == 1 else shared_gates(values)).reshape(shape)
    if values.dim() == 1:
        return values.reshape(shape)
    batch_dim, outer, repeats = place
    if repeats > 1:
        values = values.repeat_interleave(repeats, 0)
    if outer > 1:
        values = values.repeat(outer, 1)
    shape[batch_dim] = values.shape[0]
    laid = values if batch_dim < dim else values.mT
    return laid.reshape(shape)


def lay_folded_gates(gates: UnitGates, index: Tensor, x: Tensor, place: Place) -> Tensor:
    """Lay unit gates along an axis into which the batch is folded.

    Args:
        gates: (n_units + 1,) or (batch, n_units + 1).
        index: Column of ``gates`` for every entry that belongs to one sample.
        x: The tensor that will be multiplied.
        place: Where it holds the batch.
    """
    dim, outer, repeats = place
    values = gates.index_select(-1, index).unflatten(-1, (outer, repeats))
    batch = x.shape[dim] // index.numel()
    shared = values.dim() == 2
    laid: Tensor = values[:, None].expand(-1, batch, -1) if shared else values.transpose(0, 1)
    return laid.reshape([-1 if k == dim else 1 for k in range(x.dim())])


def shared_gates(values: Tensor) -> Tensor:
    """Reduce the gates of a batch to those that all its samples share.

    A tensor that does not hold the batch (a weight made from others, say) is one for all samples,
    so their coalitions must agree on its units. The mean passes gradients to every sample.

    Raises:
        OptionError: They do not agree.
    """
    if not bool((values == values[:1]).all()):
        raise OptionError(
            "samples of one batch have different coalitions of units that are computed "
            "once for the whole batch",
            hint="evaluate one coalition at a time",
        )
    mean: Tensor = values.mean(0)
    return mean


def apply_gate(x: Tensor, gate: Tensor) -> Tensor:
    """Multiply by a gate in the tensor's own precision."""
    return x * gate.to(x.dtype)


def without_batch(gate: Tensor, x: Tensor, batch_dim: int) -> Tensor:
    """Drop the dim of the batch from a gate, if ``x`` has lost its batch of one to a squeeze."""
    return gate.squeeze(batch_dim) if gate.dim() > x.dim() else gate


def multiply_masks(left: Tensor, right: Tensor) -> Tensor:
    """Combine the masks of two axes."""
    return left * right


class _Gating:
    def __init__(self, graph: DependencyGraph, units: npt.NDArray[np.bool_] | None) -> None:
        self._graph = graph
        self._active = np.ones(graph.n_units, bool) if units is None else units
        self._new = fx.Graph()
        self._copied: dict[fx.Node, fx.Node] = {}
        self._laid: dict[tuple[object, ...], fx.Node] = {}
        self._attributes: dict[str, Any] = {}
        self._gates = self._new.placeholder(GATES)

    def build(self) -> fx.GraphModule:
        gates, statistics = self._gates_by_op(), self._statistics_by_op()
        for node in self._graph.program.module.graph.nodes:
            if node.op == "output":
                self._new.output(fx.map_arg(tuple(node.args[0]), self._copied.__getitem__))
                continue
            if node.op == "get_attr":
                if not node.users:
                    continue
                self._attributes[str(node.target)] = _attribute(self._graph.program.module, node)
            made = self._copied[node] = self._new.node_copy(node, self._copied.__getitem__)
            if made.target is torch.ops.aten.view.default:
                # Masked kernels may lay a tensor out in memory in another way than their op does.
                made.target = torch.ops.aten.reshape.default
            for path, dim, units in gates.get(node.name, ()):
                self._gate_input(node, made, path, dim, units)
            # Last, since the mask becomes the first argument.
            if node.name in statistics:
                self._use_kernel(node, made, *statistics[node.name])
        return fx.GraphModule(self._attributes, self._new, "GatedNetwork")

    def _touches(self, units: UnitIds) -> bool:
        return bool(self._active[units[units >= 0]].any())

    def _gates_by_op(self) -> Mapping[str, list[tuple[ArgumentPath, int, UnitIds]]]:
        found: dict[str, list[tuple[ArgumentPath, int, UnitIds]]] = {}
        for gate, units in self._graph.gates():
            if self._touches(units):
                found.setdefault(gate.op, []).append((gate.path, gate.dim, units))
        return found

    def _statistics_by_op(
        self,
    ) -> Mapping[str, tuple[MaskedKernel, ArgumentPath, dict[int, UnitIds]]]:
        return {
            statistic.op: (statistic.kernel, statistic.path, touched)
            for statistic, along in self._graph.statistics()
            if (touched := {dim: units for dim, units in along.items() if self._touches(units)})
        }

    def _use_kernel(
        self,
        node: fx.Node,
        made: fx.Node,
        kernel: MaskedKernel,
        path: ArgumentPath,
        along: dict[int, UnitIds],
    ) -> None:
        """Replace an op by its masked kernel, whose first argument is the mask."""
        source = self._graph.input_node(node.name, path)
        mask: fx.Node | None = None
        with self._new.inserting_before(made):
            for dim, units in along.items():
                laid = self._lay(source, dim, units)
                mask = (
                    laid if mask is None else self._new.call_function(multiply_masks, (mask, laid))
                )
            mask = self._fitted(mask, source) if mask is not None else None
        count = len(made.target._schema.arguments)  # type: ignore[union-attr]
        arguments = tuple(argument(made, position) for position in range(count))
        made.target = kernel
        made.args, made.kwargs = (mask, *arguments), {}

    def _gate_input(
        self, node: fx.Node, made: fx.Node, path: ArgumentPath, dim: int, units: UnitIds
    ) -> None:
        source = self._graph.input_node(node.name, path)
        rank = self._graph.rank(source)
        with self._new.inserting_before(made):
            laid = self._fitted(self._lay(source, dim % rank, units), source)
            gated = self._new.call_function(apply_gate, (_at(made.args, path), laid))
        made.args = _replaced(made.args, path, gated)

    def _lay(self, source: fx.Node, dim: int, units: UnitIds) -> fx.Node:
        """Return the node that lays the gates of ``units`` along an axis; made once per axis."""
        index = np.where(units < 0, self._graph.n_units, units)
        place = self._place(source)
        if place is not None and place[0] == dim:
            numbered = index.reshape(place[1], -1, place[2])[:, 0].reshape(-1)
            arguments = (self._gates, self._index(numbered), self._copied[source], place)
            return self._new.call_function(lay_folded_gates, arguments)
        key = (units.tobytes(), self._graph.rank(source), dim, place)
        if key not in self._laid:
            self._laid[key] = self._new.call_function(
                lay_gates, (self._gates, self._index(index), *key[1:])
            )
        return self._laid[key]

    def _fitted(self, gate: fx.Node, source: fx.Node) -> fx.Node:
        place = self._place(source)
        if not self._squeezes or place is None:
            return gate
        return self._new.call_function(without_batch, (gate, self._copied[source], place[0]))

    @cached_property
    def _squeezes(self) -> bool:
        """Whether the network drops a batch of one somewhere."""
        nodes = self._graph.nodes.values()
        return any(node.target is torch.ops.aten.squeeze.default for node in nodes)

    def _place(self, source: fx.Node) -> Place | None:
        place = self._graph.batch_place(source)
        return (place.dim, place.outer, place.repeats) if place and place.known else None

    def _index(self, index: npt.NDArray[np.int64]) -> fx.Node:
        name = f"gate_index_{len(self._attributes)}"
        self._attributes[name] = nn.Buffer(torch.from_numpy(index.copy()))
        return self._new.get_attr(name)


def _attribute(module: fx.GraphModule, node: fx.Node) -> Any:
    owner, _, name = str(node.target).rpartition(".")
    found = getattr(module.get_submodule(owner), name)
    is_constant = isinstance(found, Tensor) and not isinstance(found, nn.Parameter)
    return nn.Buffer(found) if is_constant else found


def _at(arguments: tuple[Any, ...], path: ArgumentPath) -> Any:
    found: Any = arguments
    for place in path:
        found = found[place]
    return found


def _replaced(arguments: Any, path: ArgumentPath, value: Any) -> Any:
    head, rest = path[0], path[1:]
    changed = list(arguments)
    changed[head] = _replaced(changed[head], rest, value) if rest else value
    return tuple(changed) if isinstance(arguments, tuple) else changed
