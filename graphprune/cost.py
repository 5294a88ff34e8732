"""Costs: units, parameters, multiply-accumulates and latency of a network with any coalition kept.

Every cost is a sum of products of axis lengths: a weight has ``out * in * kernel`` entries, a
convolution does ``out * in * kernel * positions`` multiply-accumulates. A unit shortens every axis
it lives on, so what goes with it is counted too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from graphprune.graph import DependencyGraph, Kept
from graphprune.groups import UnitIds
from graphprune.operations import Axis, operation_axes, parameter_axes

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a network costs.

    Args:
        units: Prunable units that are kept.
        params: Entries of all parameters that the forward reads (buffers do not count).
        macs: Multiply-accumulates of convolutions, matrix products, recurrent layers and attention,
            for one sample; biases, norms and activations do not count.
        latency: Seconds of one run; None where nobody measured.
    """

    units: int
    params: int
    macs: int
    latency: float | None = None

    def of(self, kind: str) -> float:
        """Return one cost by name: ``units``, ``params``, ``macs`` or ``latency``."""
        costs = self.by_name()
        return costs.get(kind, 0.0) if kind == "latency" else costs[kind]

    def by_name(self) -> dict[str, float]:
        """Return all costs; the latency only where it was measured."""
        costs: dict[str, float] = {"units": self.units, "params": self.params, "macs": self.macs}
        if self.latency is not None:
            costs["latency"] = self.latency
        return costs


@dataclass(frozen=True, eq=False, slots=True)
class LatencyTerm:
    """A part of the latency that is proportional to the lengths of some axes.

    Args:
        seconds: For every entry of the product of the axes.
        axes: The axes; none for a part that stays whatever goes.
    """

    seconds: float
    axes: tuple[Axis, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class LatencyModel:
    """How long a network takes with any coalition kept, see :func:`graphprune.latency_model`.

    Args:
        terms: Parts that add up.
        widths: By group, the numbers of units that are worth having, ascending and with all of
            them last: others take as long as the next one. Groups that are not listed may have any.
        threads: Threads that one operator might use.
        batch: Samples in a run.
    """

    terms: tuple[LatencyTerm, ...]
    widths: Mapping[str, tuple[int, ...]]
    threads: int
    batch: int


@dataclass(frozen=True)
class _Product:
    """A constant times the lengths of some axes (rows of the length table)."""

    constant: float
    axes: tuple[int, ...]


class CostModel:
    """Costs of one network.

    Args:
        graph: The traced network.
        latency: How long it takes; None if that is not asked for.
    """

    def __init__(self, graph: DependencyGraph, latency: LatencyModel | None = None) -> None:
        self._graph = graph
        self._rows: dict[bytes, int] = {}
        self._units: list[UnitIds] = []
        self._at_first: dict[str, Floats] = {}
        self._params = [self._product(axes) for axes in parameter_axes(graph)]
        self._macs = [
            self._product(axes, 1.0 / graph.batch_size) for _, axes in operation_axes(graph)
        ]
        terms = () if latency is None else latency.terms
        self._latency = [self._product(term.axes, term.seconds) for term in terms]

    def total(self, kept: Kept) -> Cost:
        """Return the costs of the network with ``kept`` (n_units,) Bool."""
        lengths = self._lengths(np.asarray(kept, bool))
        return Cost(
            units=int(np.count_nonzero(kept)),
            params=round(_sum(self._params, lengths)),
            macs=round(_sum(self._macs, lengths)),
            latency=_sum(self._latency, lengths) if self._latency else None,
        )

    def marginal(self, kind: str, kept: Kept | None = None) -> Floats:
        """Return, for every unit, what it costs: (n_units,).

        Args:
            kind: ``units``, ``params``, ``macs`` or ``latency``.
            kept: A coalition, (n_units,) Bool; all units by default. A unit in it costs what goes
                if it alone is removed, another what comes if it alone is added.
        """
        if kind == "units":
            return np.ones(self._graph.n_units)
        present = self._graph.all_kept() if kept is None else np.asarray(kept, bool)
        saved = np.zeros(self._graph.n_units)
        lengths = self._lengths(present)
        products = {"params": self._params, "macs": self._macs, "latency": self._latency}
        for product in products[kind]:
            self._add_savings(saved, product, lengths, present)
        return saved

    def price(self, kind: str, kept: Kept) -> Floats:
        """Return what units cost on average along the way to a coalition, (n_units,), mean about 1.

        A unit that is read by layers which shrink, too, costs less by then. (The integral of the
        marginal cost along the way is its Aumann-Shapley price; two points stand for it.)

        Args:
            kind: As for :meth:`marginal`.
            kept: The coalition, (n_units,) Bool.
        """
        if kind not in self._at_first:
            self._at_first[kind] = self.marginal(kind)
        cost = (self._at_first[kind] + self.marginal(kind, kept)) / 2
        mean = max(float(cost.mean()), 1e-300) if cost.size else 1.0
        return np.maximum(cost / mean, 1e-12)

    def _add_savings(
        self, saved: Floats, product: _Product, lengths: Floats, present: Kept
    ) -> None:
        if not product.axes:
            return
        touched = np.unique(np.concatenate([self._units[row] for row in product.axes]))
        touched = touched[touched >= 0]
        before, after = (np.full(touched.size, product.constant) for _ in range(2))
        for row in product.axes:
            counts = self._counts_of(row, touched)
            with_it = lengths[row] + counts * ~present[touched]
            before *= with_it
            after *= with_it - counts
        saved[touched] += before - after

    def _counts_of(self, row: int, units: UnitIds) -> Floats:
        present, counts = np.unique(self._units[row], return_counts=True)
        place = np.searchsorted(present, units).clip(max=present.size - 1)
        return np.where(present[place] == units, counts[place], 0).astype(np.float64)

    # ---- axis lengths ------------------------------------------------------------------------

    def _product(self, axes: Sequence[Axis], constant: float = 1.0) -> _Product:
        rows = []
        for axis in axes:
            if axis.units is None:
                constant *= axis.size
            else:
                rows.append(self._row(axis.units))
        return _Product(constant, tuple(rows))

    def _row(self, units: UnitIds) -> int:
        key = units.tobytes()
        if key not in self._rows:
            self._rows[key] = len(self._units)
            self._units.append(units)
        return self._rows[key]

    def _lengths(self, kept: Kept) -> Floats:
        lengths: Floats = self._fixed + self._table @ kept.astype(np.float64)
        return lengths

    @cached_property
    def _fixed(self) -> Floats:
        return np.array([np.count_nonzero(units < 0) for units in self._units], np.float64)

    @cached_property
    def _table(self) -> csr_matrix:
        """Entries that a unit has on an axis: (axes, units)."""
        rows = [np.full(np.count_nonzero(u >= 0), k) for k, u in enumerate(self._units)]
        columns = [units[units >= 0] for units in self._units]
        shape = (len(self._units), self._graph.n_units)
        if not rows:
            return csr_matrix(shape)
        flat = np.concatenate(rows), np.concatenate(columns)
        return csr_matrix((np.ones(flat[0].size), flat), shape=shape)


def _sum(products: list[_Product], lengths: Floats) -> float:
    return float(sum(p.constant * math.prod(lengths[row] for row in p.axes) for p in products))
