"""Coalitions of a whole network: which units are kept, and which entries of tensors that means."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from graphprune.errors import SurgeryError
from graphprune.graph import DependencyGraph, Kept
from graphprune.groups import UnitIds

Indices = npt.NDArray[np.int64]


def check_coalition(graph: DependencyGraph, kept: Kept) -> Kept:
    """Return ``kept`` as a Bool array that fits the graph and leaves no axis empty.

    Raises:
        SurgeryError: It does not.
    """
    kept = np.asarray(kept, bool)
    if kept.shape != (graph.n_units,):
        raise SurgeryError(
            f"a coalition of shape {kept.shape} for a network of {graph.n_units} units",
            hint="plans fit the network that they were made for; select again",
        )
    for needed in graph.needed:
        if not kept[needed].any():
            group = next(g for g in graph.groups if needed[0] < g.first + g.n_units)
            raise SurgeryError(
                f"nothing would be left of an axis fed by group {group.name}",
                hint="keep at least one of its units",
            )
    return kept


def removed_entries(graph: DependencyGraph, kept: Kept) -> dict[str, dict[int, tuple[int, ...]]]:
    """Return what surgery removes: parameter or buffer name -> dim -> indices, ascending."""
    found: dict[str, dict[int, tuple[int, ...]]] = {}
    for name, by_dim in graph.parameter_units.items():
        for dim, units in by_dim.items():
            gone = np.flatnonzero(~stays(units, kept))
            if gone.size:
                found.setdefault(name, {})[dim] = tuple(int(k) for k in gone)
    return found


def kept_entries(graph: DependencyGraph, name: str, kept: Kept) -> dict[int, Indices]:
    """Return what remains of a parameter or buffer, by dim; dims that stay whole are left out."""
    found = {}
    for dim, units in graph.parameter_units.get(name, {}).items():
        remains = stays(units, kept)
        if not remains.all():
            found[dim] = np.flatnonzero(remains)
    return found


def kept_value(graph: DependencyGraph, name: str, kept: Kept, value: Tensor) -> Tensor:
    """Return of what a node of the whole network gave that which the smaller one has."""
    for dim, units in graph.axes.get((name, None), {}).items():
        remains = stays(units, kept)
        if not remains.all():
            index = torch.from_numpy(remains).nonzero().squeeze(1)
            value = value.index_select(dim, index.to(value.device))
    return value


def removed_outputs(graph: DependencyGraph, kept: Kept) -> dict[str, dict[int, tuple[int, ...]]]:
    """Return what goes of outputs that may shrink: name -> dim -> indices, ascending."""
    found: dict[str, dict[int, tuple[int, ...]]] = {}
    for (place, dim), remains in _narrowed_outputs(graph, kept).items():
        gone = tuple(int(k) for k in np.flatnonzero(~remains))
        found.setdefault(graph.outputs[place].name, {})[dim] = gone
    return found


def kept_outputs(graph: DependencyGraph, kept: Kept) -> dict[tuple[int, int], Indices]:
    """Return what remains of outputs, by place and dim; dims that stay whole are left out."""
    narrowed = _narrowed_outputs(graph, kept)
    return {where: np.flatnonzero(remains) for where, remains in narrowed.items()}


def _narrowed_outputs(graph: DependencyGraph, kept: Kept) -> dict[tuple[int, int], Kept]:
    return {
        (place, dim): remains
        for place, by_dim in graph.output_units.items()
        for dim, units in by_dim.items()
        if not (remains := stays(units, kept)).all()
    }


def stays(units: UnitIds, kept: Kept) -> Kept:
    """Return for every entry of an axis whether it remains."""
    return (units < 0) | kept[units]
