"""Groups: the units of a network, gathered by the axes they live on.

A *unit* is one class of atoms: all slices, in all tensors, that exist together. A *group* is the
set of units whose slices are produced on the same parameter axes; they compete for the same widths.
A unit must be produced by some parameter and free of pins, else it stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from graphprune.analysis import Analysis, ParameterAxis

UnitIds = npt.NDArray[np.int64]
"""Unit of every entry along an axis, counted over the whole network; -1 where an entry stays."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Entries of one axis of one parameter or buffer.

    Args:
        parameter: Name of the tensor.
        dim: The axis.
        indices: Entries along it, ascending.
        role: ``producer`` (computes the unit), ``consumer`` (reads it) or ``follower`` (a norm's
            weight, a bias, running statistics: as wide as what passes).
    """

    parameter: str
    dim: int
    indices: tuple[int, ...]
    role: str


@dataclass(frozen=True)
class Member:
    """One axis of one parameter on which units of a group live.

    Args:
        parameter: Name of the tensor.
        dim: The axis.
        role: See :class:`Slice`.
        units: Unit of every entry, counted over the whole network; -1 where an entry stays.
    """

    parameter: str
    dim: int
    role: str
    units: UnitIds


@dataclass(frozen=True, slots=True)
class Unit:
    """The smallest removable slice of a group: a channel, a head, a column.

    Args:
        group: Name of its group.
        index: Place in the group.
        slices: All entries of parameters and buffers that go with it.
    """

    group: str
    index: int
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class PruningGroup:
    """Units that live on the same axes.

    Args:
        name: Name of the first parameter that produces the units, in execution order (with ``#2``
            and so on where one parameter begins several groups).
        first: Number of its first unit, counted over the whole network.
        n_units: How many units it has.
        members: Every parameter axis that its units live on, producers first.
    """

    name: str
    first: int
    n_units: int
    members: tuple[Member, ...]

    def __len__(self) -> int:
        return self.n_units

    @property
    def span(self) -> slice:
        """Where its units lie among those of the whole network."""
        return slice(self.first, self.first + self.n_units)

    @property
    def parameter(self) -> str:
        """Name of the parameter that names the group; its axis 0 orders the units."""
        return self.members[0].parameter

    @property
    def dim(self) -> int:
        """The axis of :attr:`parameter` along which the units are ordered."""
        return self.members[0].dim

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """Units by their first index along the axis that names the group."""
        slices: list[list[Slice]] = [[] for _ in range(self.n_units)]
        for member in self.members:
            local = member.units - self.first
            inside = (local >= 0) & (local < self.n_units)
            order = np.argsort(local[inside], kind="stable")
            indices, owners = np.nonzero(inside)[0][order], local[inside][order]
            starts = np.flatnonzero(np.diff(owners, prepend=-1))
            for run in np.split(np.arange(owners.size), starts[1:]):
                if run.size:
                    slices[int(owners[run[0]])].append(
                        Slice(
                            member.parameter,
                            member.dim,
                            tuple(int(k) for k in indices[run]),
                            member.role,
                        )
                    )
        return tuple(Unit(self.name, k, tuple(found)) for k, found in enumerate(slices))


@dataclass(frozen=True)
class Partition:
    """All units of a network.

    Args:
        groups: Groups in execution order of their first producers.
        unit_of_class: Unit of every class of atoms; -1 for classes that stay.
    """

    groups: tuple[PruningGroup, ...]
    unit_of_class: UnitIds

    @property
    def n_units(self) -> int:
        """Number of units in the network."""
        return sum(group.n_units for group in self.groups)


def partition(analysis: Analysis) -> Partition:
    """Gather the prunable classes of an analysis into groups."""
    class_of = analysis.solution.class_of
    axes = sorted(analysis.parameter_axes, key=lambda axis: (axis.order, axis.parameter, axis.dim))
    signatures = _signatures(analysis, axes)
    by_signature: dict[tuple[int, ...], list[int]] = {}
    for cls, signature in sorted(signatures.items(), key=lambda item: item[1]):
        by_signature.setdefault(signature, []).append(cls)
    unit_of_class = np.full(analysis.solution.n_classes, -1, np.int64)
    first, layout = 0, []
    for signature, classes in by_signature.items():
        ordered = _ordered(classes, class_of[axes[signature[0]].atoms])
        unit_of_class[ordered] = np.arange(first, first + len(ordered))
        layout.append((axes[signature[0]], first, len(ordered)))
        first += len(ordered)
    members = [
        Member(axis.parameter, axis.dim, axis.role, unit_of_class[class_of[axis.atoms]])
        for axis in axes
    ]
    return Partition(_groups(layout, members), unit_of_class)


def _signatures(analysis: Analysis, axes: list[ParameterAxis]) -> dict[int, tuple[int, ...]]:
    """Return, for every prunable class, the producing axes it lives on."""
    found: dict[int, list[int]] = {}
    pins, class_of = analysis.solution.pins, analysis.solution.class_of
    for place, axis in enumerate(axes):
        if axis.produces:
            for cls in np.unique(class_of[axis.atoms]).tolist():
                if cls not in pins:
                    found.setdefault(cls, []).append(place)
    return {cls: tuple(places) for cls, places in found.items()}


def _ordered(classes: list[int], along: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Order classes by where each first occurs along an axis."""
    present, first = np.unique(along, return_index=True)
    place = dict(zip(present.tolist(), first.tolist(), strict=True))
    return np.array(sorted(classes, key=place.__getitem__), np.int64)


def _groups(
    layout: list[tuple[ParameterAxis, int, int]], members: list[Member]
) -> tuple[PruningGroup, ...]:
    owners = np.concatenate(
        [np.full(n_units, k, np.int64) for k, (_, _, n_units) in enumerate(layout)]
        or [np.zeros(0, np.int64)]
    )
    of_group: list[list[Member]] = [[] for _ in layout]
    for member in members:
        for group in np.unique(owners[member.units[member.units >= 0]]).tolist():
            of_group[group].append(member)
    seen: dict[str, int] = {}
    groups = []
    for place, (axis, first, n_units) in enumerate(layout):
        seen[axis.parameter] = seen.get(axis.parameter, 0) + 1
        count = seen[axis.parameter]
        name = axis.parameter if count == 1 else f"{axis.parameter}#{count}"
        named_first = sorted(
            of_group[place],
            key=lambda member: (
                (member.parameter, member.dim) != (axis.parameter, axis.dim),
                member.role != "producer",
            ),
        )
        groups.append(PruningGroup(name, first, n_units, tuple(named_first)))
    return tuple(groups)


def entries_per_unit(group: PruningGroup, member: Member) -> npt.NDArray[np.int64]:
    """Return how many entries of a member's axis go with each unit of the group, (n_units,)."""
    local = member.units - group.first
    inside = local[(local >= 0) & (local < group.n_units)]
    return np.bincount(inside, minlength=group.n_units)


def unit_axes(
    axes: Mapping[int, npt.NDArray[np.int64]], unit_of_class: UnitIds
) -> dict[int, UnitIds]:
    """Turn classes along axes into units, dropping the axes on which nothing can go."""
    found = {dim: unit_of_class[classes] for dim, classes in axes.items()}
    return {dim: units for dim, units in found.items() if (units >= 0).any()}
