"""From reports to classes: which atoms are one, and which class lies where along every axis.

Three things happen here. Unions are solved at once (connected components). The **rectangular
closure** makes every factor depend on one dim only: tensors lose whole rows or whole columns, so
where atoms vary along several dims the rows (or the columns, whichever leaves more classes) are
united. Classes that cannot go at all are pinned, each with its reason.

Where an op sums over one of two such dims (attention scores, over the columns of every head) the
lines that remain are the first choice: whole heads. Where that leaves nothing to remove, the summed
dim shrinks instead.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import compress
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from graphprune.labels.coupler import Pin, Reports, Span, Union
from graphprune.labels.value import Factor, Value, distinct, varying

Classes = npt.NDArray[np.int64]
"""Class of every entry along one axis."""

CLOSURE = "(shape)"
"""Op name of the couplings that the rectangular closure adds."""


Key = TypeVar("Key", bound=Hashable)
"""What names a tensor."""


@dataclass(frozen=True)
class Solution(Generic[Key]):
    """Classes of atoms.

    Args:
        class_of: Class of every atom.
        n_classes: How many classes there are.
        axes: For every value, by dim, the class of each entry; only dims that some factor
            describes.
        pins: For every pinned class, the reports that pinned it, in execution order.
        settled: Unions that spans came to, once it was clear along which dim each shrinks.
    """

    class_of: Classes
    n_classes: int
    axes: Mapping[Key, Mapping[int, Classes]]
    pins: Mapping[int, tuple[Pin, ...]]
    settled: tuple[Union, ...] = ()


def solve(reports: Reports, values: Mapping[Key, Value]) -> Solution[Key]:
    """Solve the reports of all rules.

    Args:
        reports: What the rules reported.
        values: Every tensor of the graph by any key.
    """
    factors = _distinct_factors(values.values())
    solver = _solved(reports, values, factors, frozenset())
    stuck = solver.stuck(reports.spans)
    if stuck:
        other = _solved(reports, values, factors, stuck)
        if other.n_units() > solver.n_units():
            solver = other
    pinned = solver.pinned_mask()
    axes = {key: solver.axes(value, pinned) for key, value in values.items() if value.factors}
    return Solution(solver.class_of, solver.n_classes, axes, solver.pinned(), tuple(solver.settled))


def _solved(
    reports: Reports,
    values: Mapping[Key, Value],
    factors: list[Factor],
    by_columns: frozenset[int],
) -> _Solver:
    """Solve with the spans ``by_columns`` losing slices along the dim that their op sums over."""
    solver = _Solver(reports, by_columns)
    while (
        solver.follow()
        or solver.hold()
        or solver.close(factors)
        or solver.choose()
        or solver.reconcile(values.values())
        or solver.settle()
    ):
        pass
    solver.pin_whole_axes(factors)
    return solver


def _distinct_factors(values: Iterable[Value]) -> list[Factor]:
    seen: dict[tuple[tuple[int, ...], bytes], Factor] = {}
    for value in values:
        for factor in value.factors:
            seen.setdefault((factor.shape, factor.tobytes()), factor)
    return list(seen.values())


class _Solver:
    def __init__(self, reports: Reports, by_columns: frozenset[int]) -> None:
        self._n_atoms = max(reports.n_atoms, 1)
        self._left = [union.left.reshape(-1) for union in reports.unions]
        self._right = [union.right.reshape(-1) for union in reports.unions]
        self._pins = list(reports.pins)
        self._choices = list(reports.choices)
        self._open = [span for span in reports.spans if not span.summed]
        self._produced = distinct(np.concatenate([np.zeros(0, np.int64), *reports.produced]))
        self.settled: list[Union] = []
        for k, span in enumerate(reports.spans):
            if span.summed and k in by_columns:
                self._unite_rows(span)
            elif span.summed:
                self._settle(span)
        self._components()

    def _settle(self, span: Span) -> None:
        """Make the two sides of a span one."""
        self._unite_at(span.op, span.narrow, span.wide)

    def _unite_rows(self, span: Span) -> None:
        """Unite what lies along the dims of ``narrow``, and keep ``narrow`` whole."""
        for dim in varying(span.narrow):
            self._unite_at(span.op, span.wide, span.wide.take([0], dim))
        self._pin_narrow(span)

    def _unite_at(self, op: str, left: Factor, right: Factor) -> None:
        left, right = np.broadcast_arrays(left, right)
        self._unite(left, right)
        self.settled.append(Union(left.reshape(-1), right.reshape(-1), op))

    def _pin_narrow(self, span: Span) -> None:
        reason = "meets a tensor that shrinks along another of its dims"
        self._pins.append(Pin(distinct(span.narrow), reason, span.op))

    def _components(self) -> None:
        empty = np.zeros(0, np.int64)
        left = np.concatenate([*self._left, empty])
        right = np.concatenate([*self._right, empty])
        self.n_classes, labels = _connected(left, right, self._n_atoms)
        self.class_of: Classes = labels
        self._left, self._right = [left], [right]

    def _unite(self, left: Factor, right: Factor) -> None:
        left, right = np.broadcast_arrays(left, right)
        self._left.append(left.reshape(-1))
        self._right.append(right.reshape(-1))

    def follow(self) -> bool:
        """Unite both sides of spans whose narrow side is computed by a layer; whether any were.

        A layer makes one number per row to scale it with (scores per head, a gate per channel):
        the rows are what exists, and they go together with what scales them.
        """
        free = np.zeros(self.n_classes, bool)
        free[self.class_of[self._produced]] = True
        free &= ~self.pinned_mask()
        made = [free[self.class_of[span.narrow]].any() for span in self._open]
        for span in compress(self._open, made):
            self._settle(span)
        self._open = [span for span, found in zip(self._open, made, strict=True) if not found]
        if any(made):
            self._components()
        return any(made)

    def hold(self) -> bool:
        """Unite lines of what spans a narrow side that stays whole; whether any were apart."""
        changed = False
        pinned = self.pinned_mask()
        for span in self._open:
            stays = pinned[self.class_of[span.narrow]].all()
            if stays and self._dim_of(self.class_of[span.wide]) is None:
                for dim in varying(span.narrow):
                    self._unite(span.wide, span.wide.take([0], dim))
                changed = True
        if changed:
            self._components()
        return changed

    def settle(self) -> bool:
        """Unite or pin the narrow side of every span, by the dim along which the wide one shrinks.

        Called when every factor depends on one dim at most.
        """
        for span in self._open:
            dim = self._dim_of(self.class_of[span.wide])
            if dim is not None and dim in varying(span.narrow):
                self._settle(span)
            else:
                self._pin_narrow(span)
        changed = bool(self._open)
        self._open = []
        if changed:
            self._components()
        return changed

    def choose(self) -> bool:
        """Let what meets several factors follow the one that can lose most; whether any is left.

        One at a time: what is pinned here counts for the next.
        """
        if not self._choices:
            return False
        choice, *self._choices = self._choices
        best = max(choice.factors, key=self._n_removable)
        self._unite_at(choice.op, best, choice.follower)
        for other in choice.factors:
            if other is not best:
                reason = "shares its axis with units of another kind"
                self._pins.append(Pin(distinct(other), reason, choice.op))
        self._components()
        return True

    def close(self, factors: list[Factor]) -> bool:
        """Unite rows or columns of factors that depend on several dims; whether any did."""
        changed = False
        pinned = self.pinned_mask()
        for factor in factors:
            classes = self.class_of[factor]
            if factor.ndim < 2 or self._dim_of(classes) is not None:
                continue
            best = max(varying(factor), key=lambda dim: _n_free(classes, dim, pinned))
            for dim in varying(factor):
                if dim != best:
                    self._unite(factor, factor.take([0], dim))
            changed = True
        if changed:
            self._components()
        return changed

    def reconcile(self, values: Iterable[Value]) -> bool:
        """Unite the classes of two factors of one tensor that lie along one dim.

        A factor whose classes are all pinned removes nothing and is in nobody's way.
        """
        changed = False
        pinned = self.pinned_mask()
        for value in values:
            if len(value.factors) < 2:
                continue
            along: dict[int, Classes] = {}
            for factor in value.factors:
                classes = self.class_of[factor]
                dim = self._dim_of(classes)
                if dim is None or dim < 0 or pinned[classes].all():
                    continue
                atoms = _along(factor, dim)
                known = along.setdefault(dim, atoms)
                if not np.array_equal(self.class_of[known], self.class_of[atoms]):
                    self._unite(known, atoms)
                    changed = True
        if changed:
            self._components()
        return changed

    def pin_whole_axes(self, factors: list[Factor]) -> None:
        """Pin classes that fill an axis alone: removing them would leave nothing."""
        for factor in factors:
            classes = self.class_of[factor]
            if (classes == classes.flat[0]).all():
                self._pins.append(Pin(distinct(factor), "one unit fills the whole axis", CLOSURE))

    def axes(self, value: Value, pinned: npt.NDArray[np.bool_]) -> dict[int, Classes]:
        """Return the classes along every dim that a factor describes.

        Of several along one dim, those that are all ``pinned`` give way.
        """
        found: dict[int, Classes] = {}
        stuck: dict[int, Classes] = {}
        for factor in value.factors:
            classes = self.class_of[factor]
            dim = self._dim_of(classes)
            if dim is None or not varying(factor):
                continue
            if dim < 0:  # one class everywhere: shown on the first dim it describes
                dim = varying(factor)[0]
            (stuck if pinned[classes].all() else found)[dim] = _along(classes, dim)
        return {**stuck, **found}

    def pinned(self) -> dict[int, tuple[Pin, ...]]:
        """Return the pins of every pinned class."""
        found: dict[int, list[Pin]] = {}
        for pin in self._pins:
            for cls in distinct(self.class_of[pin.atoms]).tolist():
                found.setdefault(cls, []).append(pin)
        return {cls: tuple(pins) for cls, pins in found.items()}

    def stuck(self, spans: list[Span]) -> frozenset[int]:
        """Return the spans at which an op sums over a tensor of which nothing can go."""
        pinned = self.pinned_mask()
        return frozenset(
            k
            for k, span in enumerate(spans)
            if span.summed and pinned[self.class_of[span.wide]].all()
        )

    def n_units(self) -> int:
        """How many classes that a layer computes may go."""
        return self._n_removable(self._produced)

    def _n_removable(self, atoms: Factor) -> int:
        return int((~self.pinned_mask()[distinct(self.class_of[atoms])]).sum())

    def pinned_mask(self) -> npt.NDArray[np.bool_]:
        """Return which classes are pinned."""
        mask = np.zeros(self.n_classes, bool)
        for pin in self._pins:
            mask[self.class_of[pin.atoms]] = True
        return mask

    @staticmethod
    def _dim_of(classes: Classes) -> int | None:
        """The dim that alone decides the class; -1 if there is one class; None if several do."""
        if (classes == classes.flat[0]).all():
            return -1
        deciding = [
            dim
            for dim, size in enumerate(classes.shape)
            if size > 1 and not (classes == classes.take([0], dim)).all()
        ]
        return deciding[0] if len(deciding) == 1 else None


def _along(array: npt.NDArray[np.int64], dim: int) -> npt.NDArray[np.int64]:
    index = tuple(slice(None) if k == dim else 0 for k in range(array.ndim))
    return array[index]


def _n_free(classes: Classes, dim: int, pinned: npt.NDArray[np.bool_]) -> int:
    """How many prunable classes remain if all lines across ``dim`` are united."""
    lines = np.moveaxis(classes, dim, 0).reshape(classes.shape[dim], -1)
    present, inverse = np.unique(lines, return_inverse=True)
    rows = np.repeat(np.arange(lines.shape[0]), lines.shape[1])
    count, labels = _connected(
        rows, lines.shape[0] + inverse.reshape(-1), lines.shape[0] + present.size
    )
    stuck = np.unique(labels[lines.shape[0] :][pinned[present]])
    return count - stuck.size


def _connected(
    left: npt.NDArray[np.int64], right: npt.NDArray[np.int64], n_nodes: int
) -> tuple[int, Classes]:
    graph = coo_matrix((np.ones(left.size, np.int8), (left, right)), shape=(n_nodes, n_nodes))
    count, labels = connected_components(graph, directed=False)
    return int(count), labels.astype(np.int64)
