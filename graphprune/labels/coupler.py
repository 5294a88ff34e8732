"""The coupler: where op rules report what must shrink together and what must stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphprune.labels.value import Factor, Value, distinct

ArgumentPath = tuple[int, ...]
"""Where an input stands in an op's arguments: position, then the position in its list, if any."""

MaskedKernel = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Union:
    """Atoms that are one: ``left[k]`` and ``right[k]`` exist together."""

    left: Factor
    right: Factor
    op: str


@dataclass(frozen=True, slots=True)
class Span:
    """Atoms ``narrow`` that lie along some dims of ``wide`` only, for as long as those can shrink.

    A tensor loses whole rows or whole columns. While it is open which, what is broadcast over it (a
    table of head width over all heads) or computed from it by summing a dim (scores of every head)
    cannot be united with it: if ``wide`` loses slices along the dims of ``narrow``, the two are
    one; if it loses slices across them, ``narrow`` stays whole.

    Args:
        narrow: Atoms of size 1 along the dims of ``wide`` that it lacks.
        wide: Atoms along several dims.
        op: Where they meet.
        summed: ``narrow`` is what remains of ``wide`` when an op sums or averages the other dims.
    """

    narrow: Factor
    wide: Factor
    op: str
    summed: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """Several factors of one axis meet a tensor that has one factor there.

    An axis that is a flattened matrix may have lost both rows and columns; the columns of a weight
    that reads it can follow only one of them. The others stay whole.

    Args:
        factors: The candidates, of equal shape.
        follower: What follows one of them.
        op: Where they meet.
    """

    factors: tuple[Factor, ...]
    follower: Factor
    op: str


@dataclass(frozen=True, slots=True)
class Pin:
    """Atoms that may not be removed, and why."""

    atoms: Factor
    reason: str
    op: str


@dataclass(frozen=True, slots=True)
class Gate:
    """An op adds up its input along ``dim``: absent slices must be zero when it does."""

    op: str
    path: ArgumentPath
    dim: int


@dataclass(frozen=True, slots=True)
class Statistic:
    """An op takes a statistic along ``dims`` of its input: only the slices kept may count.

    ``kernel(mask, *arguments)`` replaces the op when units are masked; ``mask`` is 1 where an
    element of the input at ``path`` is kept and broadcasts against it along ``dims``.
    """

    op: str
    path: ArgumentPath
    dims: tuple[int, ...]
    kernel: MaskedKernel


@dataclass(slots=True)
class Reports:
    """All that the rules have reported, in execution order."""

    n_atoms: int = 0
    unions: list[Union] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    pins: list[Pin] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    statistics: list[Statistic] = field(default_factory=list)
    produced: list[Factor] = field(default_factory=list)
    consumed: list[Factor] = field(default_factory=list)


class Coupler:
    """Collects the reports of one op's rule.

    Args:
        op: Name of the op's node in the graph.
        reports: Where to write; shared by all ops of the graph.
    """

    def __init__(self, op: str, reports: Reports) -> None:
        self.op = op
        self._reports = reports

    def fresh(self, count: int) -> Factor:
        """Return ``count`` atoms nobody has used."""
        start = self._reports.n_atoms
        self._reports.n_atoms += count
        return np.arange(start, start + count, dtype=np.int64)

    def unite(self, left: Factor, right: Factor) -> None:
        """Say that atoms at equal places (after broadcasting) exist together."""
        left, right = np.broadcast_arrays(left, right)
        differ = left != right
        if differ.any():
            self._reports.unions.append(Union(left[differ], right[differ], self.op))

    def pin(self, atoms: Factor, reason: str) -> None:
        """Say that atoms may not be removed."""
        self._reports.pins.append(Pin(distinct(atoms), reason, self.op))

    def pin_value(self, value: Value, reason: str) -> None:
        """Pin every axis of a tensor."""
        for factor in value.factors:
            self.pin(factor, reason)

    def collapse(self, factor: Factor, dim: int) -> Factor:
        """Make all atoms along ``dim`` one; return the factor with that dim at size 1."""
        if factor.shape[dim] == 1:
            return factor
        first = factor.take([0], dim)
        self.unite(factor, first)
        return first

    def span(self, narrow: Factor, wide: Factor) -> None:
        """Say that ``narrow`` is broadcast over the dims of ``wide`` along which it has size 1."""
        self._reports.spans.append(Span(narrow, wide, self.op))

    def choose(self, factors: Sequence[Factor], follower: Factor) -> None:
        """Say that ``follower`` can exist together with one of several factors of its axis."""
        self._reports.choices.append(Choice(tuple(factors), follower, self.op))

    def sum_out(self, factor: Factor, dims: Collection[int]) -> Factor:
        """Sum a factor of several dims over some of them; return what remains along the others."""
        shape = [1 if dim in dims else size for dim, size in enumerate(factor.shape)]
        kept = [dim for dim in range(factor.ndim) if dim not in dims]
        lines = np.moveaxis(factor, kept, range(len(kept))).reshape(math.prod(shape), -1)
        # Equal lines (the same heads in every sample) are one from the start.
        numbers: dict[bytes, int] = {}
        place = [numbers.setdefault(line.tobytes(), len(numbers)) for line in lines]
        narrow = self.fresh(len(numbers))[place].reshape(shape)
        self._reports.spans.append(Span(narrow, factor, self.op, summed=True))
        return narrow

    def gate(self, path: ArgumentPath, dim: int) -> None:
        """Say that the op adds up the input at ``path`` along ``dim``."""
        self._reports.gates.append(Gate(self.op, path, dim))

    def statistic(self, path: ArgumentPath, dims: tuple[int, ...], kernel: MaskedKernel) -> None:
        """Say that the op takes a statistic of the input at ``path`` along ``dims``."""
        self._reports.statistics.append(Statistic(self.op, path, dims, kernel))

    def produce(self, factor: Factor) -> None:
        """Say that a weight's slices along this factor each compute one slice of the output."""
        self._reports.produced.append(distinct(factor))

    def consume(self, factor: Factor) -> None:
        """Say that a weight's slices along this factor each read one slice of the input."""
        self._reports.consumed.append(distinct(factor))
