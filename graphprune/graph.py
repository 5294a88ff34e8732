"""The dependency graph: tensor axes, which of them are coupled and by what, and what is pinned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import fx, nn
from torch.utils import _pytree as pytree

from graphprune.analysis import (
    Analysis,
    ParameterAxis,
    ResultKey,
    analyse,
)
from graphprune.batching import BatchPlace
from graphprune.errors import OptionError
from graphprune.groups import Partition, PruningGroup, UnitIds, partition, unit_axes
from graphprune.labels.coupler import Gate, Pin, Statistic
from graphprune.outputs import NetworkOutput, chosen_outputs, outputs_of, patterns_of
from graphprune.tracing import TracedProgram, module_path, source_line, trace_program

Kept = npt.NDArray[np.bool_]
"""A coalition of the whole network: for every unit, whether it is kept."""


@dataclass(frozen=True, slots=True)
class PinnedAxis:
    """A parameter axis of which some or all entries may not be pruned, and why.

    Args:
        parameter: Name of the tensor.
        dim: The axis.
        size: Its length.
        n_pinned: How many of its entries are pinned.
        reason: What pins them, in words.
        op: Node in the graph where that happens.
        module: Dotted path of the module that called the op.
        source: ``file:line`` of the call, where known.
    """

    parameter: str
    dim: int
    size: int
    n_pinned: int
    reason: str
    op: str
    module: str
    source: str


@dataclass(frozen=True)
class DependencyGraph:
    """A traced network with its axes, couplings and groups.

    Args:
        program: The traced program.
        analysis: Labels and classes.
        partition: Units and groups.
        axes: For every tensor that can shrink, by dim, the unit of each entry.
    """

    program: TracedProgram
    analysis: Analysis
    partition: Partition
    axes: Mapping[ResultKey, Mapping[int, UnitIds]]

    @property
    def groups(self) -> tuple[PruningGroup, ...]:
        """Pruning groups in execution order."""
        return self.partition.groups

    @property
    def n_units(self) -> int:
        """Number of units in the network."""
        return self.partition.n_units

    @property
    def example_inputs(self) -> tuple[Any, ...]:
        """The inputs that the network was traced with."""
        return self.program.example_inputs

    @property
    def unknown_ops(self) -> Mapping[str, int]:
        """Overloads without a rule that pinned something, and how often each occurs."""
        return self.analysis.unknown

    @cached_property
    def nodes(self) -> Mapping[str, fx.Node]:
        """Nodes of the traced graph by name."""
        return {node.name: node for node in self.program.module.graph.nodes}

    def group(self, name: str) -> PruningGroup:
        """Return a group by name.

        Raises:
            OptionError: There is no such group.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise OptionError(
            f"there is no group {name!r}", hint="`graphprune inspect MODEL` lists the groups"
        )

    def units_of(self, name: str) -> tuple[UnitIds, ...]:
        """Return the units along every axis that can shrink of all results of a node."""
        return self._units_by_node.get(name, ())

    @cached_property
    def _units_by_node(self) -> Mapping[str, tuple[UnitIds, ...]]:
        found: dict[str, tuple[UnitIds, ...]] = {}
        for (name, _), by_dim in self.axes.items():
            found[name] = (*found.get(name, ()), *by_dim.values())
        return found

    def rank(self, node: fx.Node) -> int:
        """Number of dims of a node's (first) result."""
        return self.analysis.values[node.name, None].rank

    @property
    def batch_size(self) -> int:
        """Leading size of the example inputs."""
        return self.program.batch_size

    def batch_place(self, node: fx.Node) -> BatchPlace | None:
        """Return where a tensor holds the samples of the batch; None if it does not."""
        return self.analysis.batch_places.get(node.name)

    @property
    def output_structure(self) -> pytree.TreeSpec:
        """How flat outputs make up what the model returns."""
        codegen = self.program.module.graph._codegen
        structure: pytree.TreeSpec = codegen.pytree_info.out_spec  # type: ignore[attr-defined]
        return structure

    @cached_property
    def outputs(self) -> tuple[NetworkOutput, ...]:
        """What the network returns, in flat order."""
        return outputs_of(self.program.module)

    @cached_property
    def output_units(self) -> Mapping[int, Mapping[int, UnitIds]]:
        """By place of an output and by dim, the unit of each entry, where entries can go."""
        found = {o.place: self.axes.get((o.node, None), {}) for o in self.outputs}
        return {place: by_dim for place, by_dim in found.items() if by_dim}

    def unflatten_outputs(self, outputs: Sequence[Any]) -> Any:
        """Give flat outputs the structure that the model returns."""
        return pytree.tree_unflatten(list(outputs), self.output_structure)

    def all_kept(self) -> Kept:
        """Return the grand coalition: every unit kept."""
        return np.ones(self.n_units, bool)

    @cached_property
    def parameter_units(self) -> Mapping[str, Mapping[int, UnitIds]]:
        """By name (any of them) and dim, the unit of each entry of tensors that can shrink."""
        class_of, unit_of = self.analysis.solution.class_of, self.partition.unit_of_class
        first: dict[str, dict[int, UnitIds]] = {}
        for axis in self.analysis.parameter_axes:
            units = unit_of[class_of[axis.atoms]]
            if (units >= 0).any():
                first.setdefault(axis.parameter, {})[axis.dim] = units
        return {
            name: first[canonical]
            for name, canonical in self.program.aliases.items()
            if canonical in first
        }

    @cached_property
    def needed(self) -> tuple[UnitIds, ...]:
        """Sets of units of which one at least must be kept, or some axis would be empty."""
        distinct: dict[bytes, UnitIds] = {}
        every = [units for by_dim in self.axes.values() for units in by_dim.values()]
        every += [units for by_dim in self.parameter_units.values() for units in by_dim.values()]
        for units in every:
            if (units >= 0).all():
                unique = np.unique(units)
                distinct[unique.tobytes()] = unique
        return tuple(distinct.values())

    # ---- what the network does with absent units -----------------------------------------------

    def gates(self) -> Iterator[tuple[Gate, UnitIds]]:
        """Yield the inputs that must read zero in absent slices, and the units along them."""
        for gate in self.analysis.reports.gates:
            source = self.input_node(gate.op, gate.path)
            rank = len(self.analysis.values[source.name, None].shape)
            units = self.axes.get((source.name, None), {}).get(gate.dim % rank)
            if units is not None:
                yield gate, units

    def statistics(self) -> Iterator[tuple[Statistic, Mapping[int, UnitIds]]]:
        """Yield the ops that take statistics over prunable axes, and the units along those."""
        for statistic in self.analysis.reports.statistics:
            source = self.input_node(statistic.op, statistic.path)
            along = self.axes.get((source.name, None), {})
            touched = {dim: along[dim] for dim in statistic.dims if dim in along}
            if touched:
                yield statistic, touched

    def input_node(self, op: str, path: tuple[int, ...]) -> fx.Node:
        """Return the node that makes an op's input at a place in its arguments."""
        argument: Any = self.nodes[op].args[path[0]]
        for place in path[1:]:
            argument = argument[place]
        assert isinstance(argument, fx.Node)
        return argument

    # ---- what is pinned ------------------------------------------------------------------------

    @cached_property
    def pinned(self) -> tuple[PinnedAxis, ...]:
        """Producing axes with entries that may not be pruned, with the first reason of each."""
        found: list[PinnedAxis] = []
        for axis in self.analysis.parameter_axes:
            if axis.produces:
                found += self._pins_of(axis)
        return tuple(found)

    def _pins_of(self, axis: ParameterAxis) -> Iterator[PinnedAxis]:
        pins = self.analysis.solution.pins
        counts: dict[tuple[str, str], int] = {}
        for cls in self.analysis.solution.class_of[axis.atoms].tolist():
            if cls in pins:
                pin = pins[cls][0]
                counts[pin.op, pin.reason] = counts.get((pin.op, pin.reason), 0) + 1
        for (op, reason), count in counts.items():
            node = self.nodes.get(op)
            yield PinnedAxis(
                parameter=axis.parameter,
                dim=axis.dim,
                size=axis.atoms.size,
                n_pinned=count,
                reason=reason,
                op=op,
                module=module_path(node) if node is not None else "",
                source=source_line(node) if node is not None else "",
            )

    def reason(self, key: ResultKey, dim: int) -> str:
        """Return why no entry of an axis can go, '' if some can."""
        if dim in self.axes.get(key, {}):
            return ""
        classes = self.analysis.solution.axes.get(key, {}).get(dim)
        if classes is None:
            return "fixed size"
        return self._class_reason(np.unique(classes).tolist())

    def _class_reason(self, classes: list[int]) -> str:
        for cls in classes:
            pins: tuple[Pin, ...] = self.analysis.solution.pins.get(cls, ())
            if pins:
                return pins[0].reason
        return "no parameter produces it"


def trace(
    model: nn.Module,
    example_inputs: tuple[Any, ...],
    *,
    unpin_outputs: bool | str | Sequence[str] = False,
) -> DependencyGraph:
    """Trace a model and find its pruning groups.

    Args:
        model: Any module that ``torch.export`` accepts; it is not changed.
        example_inputs: Positional inputs, batch first; a batch of one is doubled.
        unpin_outputs: Outputs whose axes may shrink like all others, so that the pruned network
            returns less: True for all, or patterns of their names (``logits``, ``1``).

    Raises:
        TraceError: The model cannot be traced.
        OptionError: A pattern matches no output.
    """
    return dependency_graph(
        trace_program(model, example_inputs), unpin_outputs=patterns_of(unpin_outputs)
    )


def dependency_graph(
    program: TracedProgram, *, unpin_outputs: Sequence[str] = ()
) -> DependencyGraph:
    """Analyse a traced program; ``unpin_outputs`` are patterns of outputs that may shrink."""
    unpinned = chosen_outputs(outputs_of(program.module), unpin_outputs)
    analysis = analyse(program, frozenset(output.place for output in unpinned))
    parts = partition(analysis)
    axes = {
        key: by_dim
        for key, classes in analysis.solution.axes.items()
        if (by_dim := unit_axes(classes, parts.unit_of_class))
    }
    return DependencyGraph(program, analysis, parts, axes)
