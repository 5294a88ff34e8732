"""Sums of products: what ``outer``, ``tensordot``, ``bilinear`` and their like have in common.

All dims of all operands are places of one index space. Operands are multiplied with broadcasting,
then some places are summed over. A summed place is gated at one operand, whose zeros are enough.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphprune.labels.algebra import merge, reduce
from graphprune.labels.coupler import ArgumentPath
from graphprune.labels.value import Shape, Value, insert_dim, permute
from graphprune.ops.passing import across
from graphprune.ops.registry import OpCall, UnsupportedCall, rule


@dataclass(frozen=True, slots=True)
class Operand:
    """One factor of a product.

    Args:
        path: Where it stands among the op's arguments.
        value: The tensor.
        places: For each of its dims, the place in the index space.
    """

    path: ArgumentPath
    value: Value
    places: tuple[int, ...]

    def holds(self, place: int) -> bool:
        """Whether it has real extent at a place."""
        return place in self.places and self.value.shape[self.places.index(place)] > 1


def sum_of_products(
    call: OpCall, operands: Sequence[Operand], summed: Collection[int], shape: Shape
) -> Value:
    """Multiply and sum; ``summed`` places come last in the index space."""
    rank = 1 + max(place for operand in operands for place in operand.places)
    aligned = [_aligned(operand, rank) for operand in operands]
    full = np.broadcast_shapes(*(value.shape for value in aligned))
    for place in summed:
        _gate(call, operands, place)
    for operand in operands if summed else ():
        if operand.value.constant:
            _report_roles(call, operand, operands, summed)
    merged = merge(call.coupler, aligned, full)
    return reduce(call.coupler, merged, tuple(summed), keepdim=False, shape=shape)


def _aligned(operand: Operand, rank: int) -> Value:
    order = np.argsort(operand.places)
    value = permute(operand.value, order.tolist())
    for place in range(rank):
        if place not in operand.places:
            value = insert_dim(value, place)
    return value


def _gate(call: OpCall, operands: Sequence[Operand], place: int) -> None:
    holding = [operand for operand in operands if operand.holds(place)]
    for operand in sorted(holding, key=lambda operand: operand.value.constant)[:1]:
        call.coupler.gate(operand.path, operand.places.index(place))


def _report_roles(
    call: OpCall, weight: Operand, operands: Sequence[Operand], summed: Collection[int]
) -> None:
    """A weight consumes the places that are summed and produces those that it alone has."""
    others = [operand for operand in operands if operand is not weight]
    for dim, place in enumerate(weight.places):
        for factor in weight.value.along(dim):
            if place in summed:
                call.coupler.consume(factor)
            elif not any(operand.holds(place) for operand in others):
                call.coupler.produce(factor)


# ---- products of vectors and matrices -----------------------------------------------------------


@rule("aten.outer.default", "aten.ger.default")
def outer(call: OpCall) -> Value:
    """Every entry of one vector times every one of the other."""
    return _outer(call, 0, 1)


@rule("aten.addr.default")
def addr(call: OpCall) -> Value:
    """An outer product added to a matrix."""
    return merge(call.coupler, [call.value(0), _outer(call, 1, 2)], call.shape)


def _outer(call: OpCall, left: int, right: int) -> Value:
    operands = [
        Operand((left,), call.value(left), (0,)),
        Operand((right,), call.value(right), (1,)),
    ]
    return sum_of_products(call, operands, (), call.shape)


@rule("aten.inner.default")
def inner(call: OpCall) -> Value:
    """Sum over the last dims of both."""
    if not call.value(0).rank or not call.value(1).rank:
        return merge(call.coupler, call.values(), call.shape)
    return _tensordot(call, [call.value(0).rank - 1], [call.value(1).rank - 1])


@rule("aten.tensordot.default")
def tensordot(call: OpCall) -> Value:
    """Sum over the dims that are paired."""
    left, right = call.value(0), call.value(1)
    return _tensordot(
        call,
        [int(dim) % left.rank for dim in call.get(2)],
        [int(dim) % right.rank for dim in call.get(3)],
    )


def _tensordot(call: OpCall, left_dims: list[int], right_dims: list[int]) -> Value:
    left, right, free = call.value(0), call.value(1), len(call.shape)
    summed = range(free, free + len(left_dims))
    fresh = iter(range(free))

    def places(value: Value, dims: list[int]) -> tuple[int, ...]:
        return tuple(
            summed[dims.index(dim)] if dim in dims else next(fresh) for dim in range(value.rank)
        )

    operands = [
        Operand((0,), left, places(left, left_dims)),
        Operand((1,), right, places(right, right_dims)),
    ]
    return sum_of_products(call, operands, summed, call.shape)


@rule("aten.mv.default")
def matrix_vector(call: OpCall) -> Value:
    """Matrix times vector."""
    return _tensordot(call, [1], [0])


@rule("aten.dot.default", "aten.vdot.default")
def dot(call: OpCall) -> Value:
    """Sum of the products of two vectors."""
    return _tensordot(call, [0], [0])


@rule("aten.addmv.default")
def addmv(call: OpCall) -> Value:
    """Matrix times vector, added to a vector."""
    operands = [Operand((1,), call.value(1), (0, 1)), Operand((2,), call.value(2), (1,))]
    product = sum_of_products(call, operands, (1,), call.shape)
    return merge(call.coupler, [call.value(0), product], call.shape)


@rule("aten.addbmm.default")
def addbmm(call: OpCall) -> Value:
    """Matrix products summed over the batch, added to a matrix."""
    operands = [Operand((1,), call.value(1), (2, 0, 3)), Operand((2,), call.value(2), (2, 3, 1))]
    product = sum_of_products(call, operands, (2, 3), call.shape)
    return merge(call.coupler, [call.value(0), product], call.shape)


@rule("aten.chain_matmul.default", "aten.linalg_multi_dot.default")
def chain(call: OpCall) -> Value:
    """Product of several matrices; the first and the last may be vectors."""
    values, free = call.values(), len(call.shape)
    inside = range(free, free + len(values) - 1)
    ends = (
        (0,) if values[0].rank == 2 else (),
        (free - 1,) if values[-1].rank == 2 else (),
    )
    operands = [
        Operand((0, k), value, (*(inside[k - 1 : k] if k else ends[0]), *inside[k : k + 1]))
        for k, value in enumerate(values[:-1])
    ]
    operands.append(Operand((0, len(values) - 1), values[-1], (inside[-1], *ends[1])))
    return sum_of_products(call, operands, inside, call.shape)


@rule("aten.linalg_vecdot.default")
def vector_dot(call: OpCall) -> Value:
    """Element-wise product, summed along one dim."""
    left, right = call.value(0), call.value(1)
    return _paired(call, left, right, int(call.named("dim")))


def _paired(call: OpCall, left: Value, right: Value, dim: int) -> Value:
    """Element-wise with broadcasting, then summed along ``dim``; both read zeros there."""
    full = np.broadcast_shapes(left.shape, right.shape)
    along = dim % len(full) - len(full)
    if left.shape[along:][0] != right.shape[along:][0]:
        raise UnsupportedCall("one vector for all entries of another")
    for path in (0, 1):
        call.coupler.gate((path,), along)
    merged = merge(call.coupler, [left, right], full)
    keepdim = len(call.shape) == len(full)
    return reduce(call.coupler, merged, (len(full) + along,), keepdim=keepdim, shape=call.shape)


# ---- bilinear forms -----------------------------------------------------------------------------


@rule("aten.bilinear.default")
def bilinear(call: OpCall) -> Value:
    """Every output is a matrix between two inputs."""
    left, right, weight, bias = (*(call.value(k) for k in range(3)), call.optional(3))
    last = left.rank - 1
    shared = tuple(range(last))
    operands = [
        Operand((0,), left, (*shared, last + 1)),
        Operand((1,), right, (*shared, last + 2)),
        Operand((2,), weight, (last, last + 1, last + 2)),
    ]
    made = sum_of_products(call, operands, (last + 1, last + 2), call.shape)
    return made if bias is None else merge(call.coupler, [made, bias], call.shape)


@rule("aten._trilinear.default")
def trilinear(call: OpCall) -> Value:
    """What bilinear forms decompose into: three tensors with dims of size 1 put in."""
    summed = sorted(int(dim) for dim in call.get(6))
    rank = call.value(0).rank + len(call.get(3))
    order = [*(dim for dim in range(rank) if dim not in summed), *summed]
    operands = []
    for k in range(3):
        grown = call.get(3 + k)
        dims = [dim for dim in range(rank) if dim not in grown]
        operands.append(Operand((k,), call.value(k), tuple(order.index(dim) for dim in dims)))
    return sum_of_products(call, operands, range(rank - len(summed), rank), call.shape)


# ---- distances ----------------------------------------------------------------------------------


@rule("aten.cosine_similarity.default")
def cosine(call: OpCall) -> Value:
    """Product over norms along one dim: absent slices add nothing to any of them."""
    return _paired(call, call.value(0), call.value(1), int(call.get(2)))


@rule("aten.dist.default")
def distance(call: OpCall) -> Value:
    """Norm of a difference: absent slices are zero in both."""
    left, right, order = call.value(0), call.value(1), float(call.get(2, 2))
    if left.shape != right.shape or order <= 0:
        raise UnsupportedCall(f"distance of order {order} between {left.shape} and {right.shape}")
    for dim in range(left.rank):
        for path in (0, 1):
            call.coupler.gate((path,), dim)
    merge(call.coupler, [left, right], left.shape)
    return Value(call.shape)


@rule("aten.cdist.default", "aten._cdist_forward.default", "aten._euclidean_dist.default")
def distances(call: OpCall) -> Value:
    """Distances between all rows of two tensors: absent columns are zero in both."""
    left, right = call.value(0), call.value(1)
    if call.name != "aten._euclidean_dist.default" and float(call.get(2)) <= 0:
        raise UnsupportedCall(f"distance of order {call.get(2)}")
    for path, rows in ((0, left), (1, right)):
        call.coupler.gate((path,), -1)
        if rows.constant:
            operand = Operand((path,), rows, tuple(range(rows.rank)))
            _report_roles(call, operand, [], (rows.rank - 1,))
    wide = [insert_dim(left, left.rank - 1), insert_dim(right, right.rank - 2)]
    full = np.broadcast_shapes(*(value.shape for value in wide))
    merged = merge(call.coupler, wide, full)
    return reduce(call.coupler, merged, (len(full) - 1,), keepdim=False, shape=call.shape)


@rule("aten.pairwise_distance.default")
def distances_of_pairs(call: OpCall) -> Value:
    """Norm of a difference that is shifted a little: absent slices must not count the shift."""
    left, right = call.value(0), call.value(1)
    if left.shape != right.shape:
        raise UnsupportedCall("one vector for all entries of another")

    def masked_distance(
        mask: Tensor, x: Tensor, y: Tensor, order: float, eps: float, keepdim: bool
    ) -> Tensor:
        kept: Tensor = (x - y + eps) * mask.to(x.dtype)
        distance: Tensor = torch.linalg.vector_norm(kept, order, -1, keepdim)
        return distance

    last = left.rank - 1
    call.coupler.statistic((0,), (last,), masked_distance)
    merged = merge(call.coupler, [left, right], left.shape)
    keepdim = bool(call.get(4))
    return reduce(call.coupler, merged, (last,), keepdim=keepdim, shape=call.shape)


@rule("aten.cross.default", "aten.linalg_cross.default")
def cross(call: OpCall) -> Value:
    """Cross product of vectors of three entries, which stay."""
    merged = merge(call.coupler, call.values(), call.shape)
    sizes = [k for k, size in enumerate(call.shape) if size == 3]
    named = call.named("dim")
    dim = sizes[0] if named is None else int(named) % merged.rank
    passed = across(call, merged, (dim,), "entries of a cross product")
    return Value(call.shape, passed)
