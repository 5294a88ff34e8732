"""The operations on values that op rules are made of.

Each reports to a coupler what the operation requires and returns the value of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphprune.labels.coupler import Coupler
from graphprune.labels.value import (
    Factor,
    Shape,
    Value,
    drop_dim,
    insert_dim,
    lift,
    squeeze_constant,
    varying,
)


@dataclass(frozen=True, slots=True)
class _Contribution:
    """One factor of one operand of an element-wise op, lifted to the result's rank."""

    operand: int
    dims: frozenset[int]
    factor: Factor


def merge(coupler: Coupler, values: Sequence[Value], shape: Shape) -> Value:
    """Element-wise op with broadcasting: factors that share a dim become one.

    An operand that has real extent along a dim, but no factor there, keeps that dim for ever: the
    factors of the others are pinned along it.
    """
    rank = len(shape)
    sizes = [(1,) * (rank - value.rank) + value.shape for value in values]
    contributions = [
        _Contribution(k, frozenset(varying(lifted)), lifted)
        for k, value in enumerate(values)
        for lifted in (lift(factor, rank) for factor in value.factors)
        if varying(lifted)
    ]
    factors = [
        factor
        for bundle in _bundles_sharing_dims(contributions)
        for factor in _merge_bundle(coupler, bundle, sizes)
    ]
    return Value(shape, tuple(factors))


def _bundles_sharing_dims(contributions: list[_Contribution]) -> list[list[_Contribution]]:
    bundles: list[tuple[frozenset[int], list[_Contribution]]] = []
    for item in contributions:
        dims, members, apart = item.dims, [item], []
        for other_dims, others in bundles:
            if other_dims & item.dims:
                dims, members = dims | other_dims, others + members
            else:
                apart.append((other_dims, others))
        bundles = [*apart, (dims, members)]
    return [members for _, members in bundles]


def _merge_bundle(
    coupler: Coupler, bundle: list[_Contribution], sizes: list[Shape]
) -> list[Factor]:
    dims: frozenset[int] = frozenset().union(*(item.dims for item in bundle))
    labelled = {item.operand for item in bundle}
    bundle = _distinct(bundle)
    # Several factors of one operand (of a flattened tensor, say) hold side by side.
    kept = [item.factor for item in bundle]
    if len({item.operand for item in bundle}) > 1:
        several = _several(bundle)
        kept = several or [_united(coupler, bundle, sizes, dims)]
        if several:
            _choose(coupler, bundle, several)
    fixed = [size for operand, size in enumerate(sizes) if operand not in labelled]
    stays = frozenset(dim for dim in dims if any(size[dim] > 1 for size in fixed))
    held = (_held(coupler, factor, stays) for factor in kept)
    return [factor for factor in held if factor is not None]


def _distinct(bundle: list[_Contribution]) -> list[_Contribution]:
    """Leave out the factors that an earlier operand has as well."""
    found: list[_Contribution] = []
    for item in bundle:
        others = (other.factor for other in found if other.operand != item.operand)
        if not any(item.factor is f or np.array_equal(item.factor, f) for f in others):
            found.append(item)
    return found


def _held(coupler: Coupler, factor: Factor, stays: frozenset[int]) -> Factor | None:
    """Keep the dims ``stays`` of a factor whole: only what lies across them can still go.

    A factor along such dims alone says nothing any more: a dim without one has a fixed size.
    """
    hit = [dim for dim in varying(factor) if dim in stays]
    if len(hit) == len(varying(factor)):
        if hit:
            coupler.pin(factor, "combined element-wise with an axis of fixed size")
            return None
        return factor
    for dim in hit:
        factor = coupler.collapse(factor, dim)
    return factor


def _several(bundle: list[_Contribution]) -> list[Factor]:
    """Return the factors of the one operand that has several where the others have one each."""
    if len({item.dims for item in bundle}) > 1:
        return []
    by_operand: dict[int, list[Factor]] = {}
    for item in bundle:
        by_operand.setdefault(item.operand, []).append(item.factor)
    several = [factors for factors in by_operand.values() if len(factors) > 1]
    return several[0] if len(several) == 1 else []


def _choose(coupler: Coupler, bundle: list[_Contribution], several: list[Factor]) -> None:
    alone = [item.factor for item in bundle if all(item.factor is not f for f in several)]
    for other in alone[1:]:
        coupler.unite(alone[0], other)
    coupler.choose(several, alone[0])


def _united(
    coupler: Coupler, bundle: list[_Contribution], sizes: list[Shape], dims: frozenset[int]
) -> Factor:
    """Make the factors of several operands one, and return one that spans all their dims."""
    wide = max(bundle, key=lambda item: (len(item.dims), item.factor.size))
    if all(_is_within(item, wide, bundle, sizes) for item in bundle):
        for item in bundle:
            if item.dims == wide.dims:
                coupler.unite(item.factor, wide.factor)
            else:
                coupler.span(item.factor, wide.factor)
        return wide.factor
    base = min(bundle, key=lambda item: (len(item.dims), item.factor.size))
    for item in bundle:
        if item is not base:
            coupler.unite(item.factor, base.factor)
    if base.dims == dims or all(sizes[base.operand][dim] > 1 for dim in dims):
        return base.factor
    return wide.factor


def _is_within(
    item: _Contribution, wide: _Contribution, bundle: list[_Contribution], sizes: list[Shape]
) -> bool:
    """Whether a factor has all dims of another, or its operand may shrink along those it lacks.

    It may where it is broadcast, or has a factor of its own there (a table of heads and columns).
    """
    beside = frozenset().union(*(other.dims for other in bundle if other.operand == item.operand))
    lacks = wide.dims - item.dims
    return item.dims <= wide.dims and all(
        sizes[item.operand][dim] == 1 or dim in beside for dim in lacks
    )


def merge_shifted(coupler: Coupler, value: Value, parameters: Sequence[Value], dim: int) -> Value:
    """Element-wise op of a tensor with one-dimensional values that lie along ``dim``."""
    shaped = [value]
    for parameter in parameters:
        shape = tuple(parameter.shape[0] if k == dim else 1 for k in range(value.rank))
        shaped.append(Value(shape, tuple(f.reshape(shape) for f in parameter.factors)))
    return merge(coupler, shaped, value.shape)


def reduce(
    coupler: Coupler, value: Value, dims: Sequence[int], *, keepdim: bool, shape: Shape
) -> Value:
    """Reduce over ``dims``: a factor that varies only there is used up, others lose those dims.

    Of a factor that varies along other dims too (heads and their columns, summed over the columns)
    either may shrink; see :class:`~graphprune.labels.coupler.Span`.
    """
    factors = []
    for factor in value.factors:
        hit = [dim for dim in varying(factor) if dim in dims]
        if hit and len(hit) == len(varying(factor)):
            continue
        factors.append(coupler.sum_out(factor, hit) if hit else factor)
    if not keepdim:
        remaining = [dim for dim in range(value.rank) if dim not in dims]
        factors = [factor.reshape([factor.shape[dim] for dim in remaining]) for factor in factors]
    return Value(shape, tuple(factors))


def contract(coupler: Coupler, left: Value, right: Value, shape: Shape) -> Value:
    """Batched matrix product: ``left`` (..., m, k) times ``right`` (..., k, n)."""
    wide_left = insert_dim(left, left.rank)
    wide_right = insert_dim(right, right.rank - 2)
    full = np.broadcast_shapes(wide_left.shape, wide_right.shape)
    merged = merge(coupler, [wide_left, wide_right], full)
    return reduce(coupler, merged, [len(full) - 2], keepdim=False, shape=shape)


def take(
    coupler: Coupler, value: Value, dim: int, index: slice | Sequence[int], shape: Shape
) -> Value:
    """Keep the entries ``index`` along ``dim`` (the dim stays).

    Where that leaves nothing but copies of one atom, the slice cannot vanish without the op
    vanishing too: the atom is pinned.
    """
    where = (slice(None),) * dim + (index if isinstance(index, slice) else list(index),)
    factors = []
    for factor in value.factors:
        kept = squeeze_constant(factor[where]) if factor.shape[dim] > 1 else factor
        if kept.size > 1:
            factors.append(kept)
        else:
            coupler.pin(kept, "a slice of the axis holds this unit alone")
    return Value(shape, tuple(factors))


def select(coupler: Coupler, value: Value, dim: int, index: int) -> Value:
    """Keep one entry along ``dim`` and drop the dim."""
    size = value.shape[dim]
    shape = (*value.shape[:dim], 1, *value.shape[dim + 1 :])
    return drop_dim(take(coupler, value, dim, [index % size], shape), dim)


def concatenate(coupler: Coupler, values: Sequence[Value], dim: int, shape: Shape) -> Value:
    """Join along ``dim``: atoms are joined too; along all other dims the op is element-wise."""
    flat = tuple(1 if k == dim else size for k, size in enumerate(shape))
    across = [
        Value(
            tuple(1 if k == dim else size for k, size in enumerate(value.shape)),
            tuple(factor for factor in value.factors if factor.shape[dim] == 1),
        )
        for value in values
    ]
    factors = list(merge(coupler, across, flat).factors)
    if any(value.along(dim) for value in values):
        factors.append(_join(coupler, values, dim, len(shape)))
    return Value(shape, tuple(factors))


def _join(coupler: Coupler, values: Sequence[Value], dim: int, rank: int) -> Factor:
    parts = []
    for value in values:
        along = value.along(dim)
        if along:
            for other in along[1:]:
                coupler.unite(*np.broadcast_arrays(along[0], other))
            parts.append(along[0])
        else:
            size = value.shape[dim]
            atoms = coupler.fresh(size)
            coupler.pin(atoms, "concatenated slice that no parameter produces")
            parts.append(atoms.reshape([size if k == dim else 1 for k in range(rank)]))
    beside = np.broadcast_shapes(
        *[tuple(1 if k == dim else n for k, n in enumerate(part.shape)) for part in parts]
    )
    return np.concatenate(
        [
            np.broadcast_to(part, [part.shape[k] if k == dim else beside[k] for k in range(rank)])
            for part in parts
        ],
        dim,
    )


def expand(value: Value, shape: Shape) -> Value:
    """Broadcast to ``shape``: a dim of size 1 that grows has no factor of its own."""
    return Value(shape, tuple(lift(factor, len(shape)) for factor in value.factors))
