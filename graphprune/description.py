"""Description: a network's groups and their costs, and what is pinned, as plain records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import fx

from graphprune.analysis import overload_name
from graphprune.cost import Cost, CostModel, Floats
from graphprune.graph import DependencyGraph, PinnedAxis
from graphprune.groups import Member, PruningGroup, entries_per_unit
from graphprune.kinds import UnitKinds
from graphprune.tracing import module_path, source_line


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberFacts:
    """One parameter axis that units of a group live on.

    Args:
        parameter: Name of the tensor.
        dim: The axis.
        role: ``producer``, ``consumer`` or ``follower``.
        size: Its length.
        entries_per_unit: How many of its entries go with one unit; None where units differ.
        op: What reads the tensor first.
        module: Dotted path of the module that calls this op.
        source: ``file:line`` of the call, where known.
    """

    parameter: str
    dim: int
    role: str
    size: int
    entries_per_unit: int | None
    op: str
    module: str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupFacts:
    """One group.

    Args:
        name: Its name.
        units: How many units it has.
        kind: What a unit is, see :mod:`graphprune.kinds`.
        entries_per_unit: Entries that a unit has on the axis that names the group; None where units
            differ.
        params_per_unit: Parameters that go with one unit, on average.
        macs_per_unit: Multiply-accumulates that go with one unit, on average.
        params: Parameters on which units of the group lie: without the whole group they are gone.
        macs: Multiply-accumulates that take part in it, likewise.
        members: Every parameter axis that its units live on, producers first.
    """

    name: str
    units: int
    kind: str
    entries_per_unit: int | None
    params_per_unit: float
    macs_per_unit: float
    params: int
    macs: int
    members: tuple[MemberFacts, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorFacts:
    """An input or output of the network.

    Args:
        name: Of the argument, or the place in what the model returns.
        shape: Sizes; ``N`` stands for the batch where it is dynamic.
        dtype: E.g. ``float32``.
        unpinned: Of an output: it may shrink.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    unpinned: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class UnknownOp:
    """An op without a rule that pinned something.

    Args:
        op: Its overload.
        node: Its name in the graph.
        module: Dotted path of the module that called it.
        source: ``file:line`` of the call, where known.
    """

    op: str
    node: str
    module: str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """How much of a network lies on units, in [0, 1]."""

    params: float
    macs: float


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """All that is known about a network.

    Args:
        cost: Of the whole network.
        prunable: The share of it that lies on units.
        groups: In execution order.
        pinned: Producing axes with entries that stay.
        unknown: Ops without a rule that pinned something.
        unused: Parameters and buffers that the forward does not read in evaluation mode.
        inputs: What the network takes.
        outputs: What it returns.
    """

    cost: Cost
    prunable: Share
    groups: tuple[GroupFacts, ...]
    pinned: tuple[PinnedAxis, ...]
    unknown: tuple[UnknownOp, ...]
    unused: tuple[str, ...]
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]


def describe(graph: DependencyGraph) -> NetworkFacts:
    """Return all that is known about a network."""
    costs = CostModel(graph)
    whole, bare = costs.total(graph.all_kept()), costs.total(~graph.all_kept())
    return NetworkFacts(
        cost=whole,
        prunable=Share(
            params=_share(whole.params - bare.params, whole.params),
            macs=_share(whole.macs - bare.macs, whole.macs),
        ),
        groups=tuple(_group_facts(graph, costs)),
        pinned=graph.pinned,
        unknown=tuple(_unknown_ops(graph)),
        unused=graph.program.unused,
        inputs=tuple(_inputs(graph)),
        outputs=tuple(_outputs(graph)),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


# ---- groups -------------------------------------------------------------------------------------


def _group_facts(graph: DependencyGraph, costs: CostModel) -> Iterator[GroupFacts]:
    per_unit = {kind: costs.marginal(kind) for kind in ("params", "macs")}
    whole, kinds, readers = costs.total(graph.all_kept()), UnitKinds(graph), _first_readers(graph)
    for group in graph.groups:
        without = costs.total(_without(graph, group))
        yield GroupFacts(
            name=group.name,
            units=group.n_units,
            kind=kinds.of(group),
            entries_per_unit=_uniform(group, group.members[0]),
            params_per_unit=_mean(per_unit["params"], group),
            macs_per_unit=_mean(per_unit["macs"], group),
            params=whole.params - without.params,
            macs=whole.macs - without.macs,
            members=tuple(_member_facts(group, member, readers) for member in group.members),
        )


def _without(graph: DependencyGraph, group: PruningGroup) -> np.ndarray:
    kept = graph.all_kept()
    kept[group.span] = False
    return kept


def _mean(per_unit: Floats, group: PruningGroup) -> float:
    return float(per_unit[group.span].mean())


def _uniform(group: PruningGroup, member: Member) -> int | None:
    counts = entries_per_unit(group, member)
    present = counts[counts > 0]
    return int(present[0]) if (present == present[0]).all() else None


def _member_facts(
    group: PruningGroup, member: Member, readers: Mapping[str, fx.Node]
) -> MemberFacts:
    reader = readers.get(member.parameter)
    return MemberFacts(
        parameter=member.parameter,
        dim=member.dim,
        role=member.role,
        size=member.units.size,
        entries_per_unit=_uniform(group, member),
        op="" if reader is None else overload_name(reader),
        module="" if reader is None else module_path(reader),
        source="" if reader is None else source_line(reader),
    )


def _first_readers(graph: DependencyGraph) -> Mapping[str, fx.Node]:
    """Return, by the first name of a parameter, the op that reads it first."""
    found: dict[str, fx.Node] = {}
    order = {node: place for place, node in enumerate(graph.nodes.values())}
    for node in graph.nodes.values():
        name = graph.program.aliases.get(str(node.target)) if node.op == "get_attr" else None
        if name is not None and node.users:
            first = min(node.users, key=order.__getitem__)
            known = found.setdefault(name, first)
            found[name] = min(known, first, key=order.__getitem__)
    return found


# ---- ops, inputs and outputs --------------------------------------------------------------------


def _unknown_ops(graph: DependencyGraph) -> Iterator[UnknownOp]:
    ops = dict.fromkeys(pin.op for pin in graph.analysis.reports.pins)
    for name in ops:
        node = graph.nodes.get(name)
        if node is not None and node.op == "call_function":
            overload = overload_name(node)
            if overload in graph.unknown_ops:
                yield UnknownOp(
                    op=overload, node=name, module=module_path(node), source=source_line(node)
                )


def _inputs(graph: DependencyGraph) -> Iterator[TensorFacts]:
    for node in graph.nodes.values():
        if node.op == "placeholder":
            yield _tensor_facts(graph, node, str(node.target))


def _outputs(graph: DependencyGraph) -> Iterator[TensorFacts]:
    for output in graph.outputs:
        if output.node:
            unpinned = output.place in graph.analysis.unpinned
            yield _tensor_facts(graph, graph.nodes[output.node], output.name, unpinned=unpinned)


def _tensor_facts(
    graph: DependencyGraph, node: fx.Node, name: str, *, unpinned: bool = False
) -> TensorFacts:
    value = graph.analysis.values.get((node.name, None))
    if value is None:
        return TensorFacts(name=name, shape=(), dtype="")
    shape: list[int | str] = list(value.shape)
    place = graph.batch_place(node)
    if place is not None and place.known and graph.program.dynamic_batch:
        per_sample = place.outer * place.repeats
        shape[place.dim] = "N" if per_sample == 1 else f"{per_sample}N"
    dtype = str(node.meta["val"].dtype).removeprefix("torch.")
    return TensorFacts(name=name, shape=tuple(shape), dtype=dtype, unpinned=unpinned)
