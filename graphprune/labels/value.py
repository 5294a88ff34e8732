"""Values: what the analysis knows about a tensor, namely which of its slices exist together.

A tensor carries a list of *factors*. A factor is an integer array of the tensor's rank, each dim
full size or 1; its entries are *atoms*. An element of the tensor exists if and only if the atoms of
all its factors are alive. A dim along which no factor varies always keeps its full size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Factor = npt.NDArray[np.int64]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor's shape and factors.

    Args:
        shape: Concrete shape, symbolic dims at the value they had when traced.
        factors: Arrays of atoms, each of the tensor's rank.
        constant: The tensor does not depend on the network's inputs (a parameter, a buffer or
            something computed from those alone).
        numbers: What a constant tensor of integers holds, where that is known.
    """

    shape: Shape
    factors: tuple[Factor, ...] = ()
    constant: bool = False
    numbers: npt.NDArray[np.int64] | None = None

    @property
    def rank(self) -> int:
        """Number of dims."""
        return len(self.shape)

    def along(self, dim: int) -> tuple[Factor, ...]:
        """Return the factors that vary along ``dim``."""
        return tuple(factor for factor in self.factors if factor.shape[dim] > 1)

    def as_constant(self, constant: bool) -> Value:
        """Return the same value with the given ``constant`` flag."""
        return replace(self, constant=constant)


def varying(factor: Factor) -> tuple[int, ...]:
    """Return the dims along which a factor varies."""
    return tuple(dim for dim, size in enumerate(factor.shape) if size > 1)


def distinct(atoms: Factor) -> Factor:
    """Return the atoms that occur, ascending; for large weights much faster than sorting."""
    if not atoms.size:
        return atoms.reshape(-1)
    first = atoms.min()
    occurs = np.zeros(int(atoms.max() - first) + 1, bool)
    occurs[atoms.reshape(-1) - first] = True
    found: Factor = np.flatnonzero(occurs) + first
    return found


def squeeze_constant(factor: Factor) -> Factor:
    """Shrink to size 1 every dim along which the atoms do not change."""
    for dim, size in enumerate(factor.shape):
        if size > 1:
            first = factor.take([0], dim)
            if (factor == first).all():
                factor = first
    return factor


def lift(factor: Factor, rank: int) -> Factor:
    """Prepend dims of size 1, as broadcasting does."""
    return factor.reshape((1,) * (rank - factor.ndim) + factor.shape)


def insert_dim(value: Value, dim: int) -> Value:
    """Insert a dim of size 1 before ``dim``."""
    shape = (*value.shape[:dim], 1, *value.shape[dim:])
    factors = tuple(np.expand_dims(factor, dim) for factor in value.factors)
    return Value(shape, factors, value.constant)


def permute(value: Value, order: Sequence[int]) -> Value:
    """Reorder dims: output dim k is input dim ``order[k]``."""
    order = [dim % value.rank for dim in order]
    shape = tuple(value.shape[dim] for dim in order)
    return Value(shape, tuple(f.transpose(order) for f in value.factors), value.constant)


def channel_vector(value: Value, rank: int, dim: int = 1) -> Value:
    """Place a one-dimensional value (a bias, a norm's weight) along ``dim`` of a tensor."""
    shape = tuple(value.shape[0] if k == dim else 1 for k in range(rank))
    return Value(shape, tuple(f.reshape(shape) for f in value.factors), value.constant)


@dataclass(frozen=True, slots=True)
class Segment:
    """Dims ``old[start:stop]`` that a reshape turns into dims ``new[start:stop]``."""

    old: range
    new: range


def segments(old: Shape, new: Shape) -> list[Segment]:
    """Cut a reshape into the smallest runs of dims with equal products."""
    found: list[Segment] = []
    i = j = 0
    while i < len(old) or j < len(new):
        i0, j0 = i, j
        left = old[i] if i < len(old) else 1
        right = new[j] if j < len(new) else 1
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        # Ones at the end belong to the last run: they carry no elements of their own.
        if i == len(old) and math.prod(new[j:]) == 1:
            j = len(new)
        if j == len(new) and math.prod(old[i:]) == 1:
            i = len(old)
        found.append(Segment(range(i0, i), range(j0, j)))
    return found


def reshape(value: Value, shape: Shape) -> Value:
    """Carry the factors through a reshape, element by element."""
    if value.shape == shape:
        return value
    if 0 in value.shape:
        return Value(shape, (), value.constant)
    runs = segments(value.shape, shape)
    factors = tuple(_reshape_factor(factor, value.shape, shape, runs) for factor in value.factors)
    return Value(shape, factors, value.constant)


def _reshape_factor(factor: Factor, old: Shape, new: Shape, runs: list[Segment]) -> Factor:
    source: list[int] = []
    target: list[int] = []
    for run in runs:
        if any(factor.shape[dim] > 1 for dim in run.old):
            source += [old[dim] for dim in run.old]
            target += [new[dim] for dim in run.new]
        else:
            source += [1] * len(run.old)
            target += [1] * len(run.new)
    return squeeze_constant(np.broadcast_to(factor, source).reshape(target))


def drop_dim(value: Value, dim: int) -> Value:
    """Remove a dim of size 1."""
    shape = value.shape[:dim] + value.shape[dim + 1 :]
    return Value(shape, tuple(f.take([0], dim).squeeze(dim) for f in value.factors), value.constant)
