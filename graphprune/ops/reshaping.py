"""Ops that give elements other places among the dims: views, permutations, repeats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from graphprune.labels.algebra import expand, merge
from graphprune.labels.value import Factor, Shape, Value, lift, permute, reshape
from graphprune.ops.passing import across, fresh_along
from graphprune.ops.registry import OpCall, UnsupportedCall, rewrite, rule
from graphprune.ops.resize import Resize

# ---- reshapes -----------------------------------------------------------------------------------

_SIZED = ("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default")
_SQUEEZES = ("aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims")


@rule(
    *_SIZED,
    *_SQUEEZES,
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.unsqueeze.default",
    "aten.ravel.default",
    "aten.atleast_1d.default",
    "aten.atleast_2d.default",
    "aten.atleast_3d.default",
)
def reshaping(call: OpCall) -> Value:
    """Reshape the factors themselves: every element keeps its atom."""
    return reshape(call.value(0), call.shape)


@rule("aten.view_as.default", "aten.reshape_as.default")
def reshaping_as(call: OpCall) -> Value:
    """Reshape to the sizes of another tensor: equal places of both exist together."""
    made, other = reshape(call.value(0), call.shape), call.value(1)
    return merge(call.coupler, [made, other], call.shape)


@rewrite(*_SQUEEZES)
def rewrite_squeeze(resize: Resize) -> None:
    """Name the dims to drop, if one shrinks to a single unit: it has to stay.

    A batch of one is dropped wherever the original drops it.
    """
    before = resize.shape_in(0)
    kept = [resize.kept_in(0, dim) for dim in range(len(before))]
    if all(left is None or len(left) > 1 for left in kept):
        return
    named = resize.argument(1)
    listed = range(len(before)) if named is None else _listed(named, len(before))
    dims = [dim for dim in listed if before[dim] == 1 or resize.is_symbolic(0, dim)]
    if dims:
        resize.retarget(torch.ops.aten.squeeze.dims, (resize.tensor(0), dims))
    else:
        resize.retarget(torch.ops.aten.alias.default, (resize.tensor(0),))


@rewrite(*_SIZED, "aten.expand.default", "aten.broadcast_to.default")
def rewrite_sizes(resize: Resize) -> None:
    """Write the sizes that remain into ``view`` and ``expand``."""
    resize.set(1, resize.sizes(list(resize.argument(1))))


@rewrite("aten.unflatten.int")
def rewrite_unflatten(resize: Resize) -> None:
    """Write the sizes that remain into ``unflatten``."""
    sizes = list(resize.argument(2))
    first = int(resize.argument(1)) % (len(resize.shape()) - len(sizes) + 1)
    resize.set(2, resize.sizes(sizes, first))


# ---- permutations -------------------------------------------------------------------------------


@rule("aten.permute.default")
def permuting(call: OpCall) -> Value:
    """Reorder dims."""
    return permute(call.value(0), [int(dim) for dim in call.get(1)])


@rule("aten.transpose.int", "aten.swapaxes.default", "aten.swapdims.default")
def transposing(call: OpCall) -> Value:
    """Swap two dims."""
    return _swapped(call.value(0), int(call.get(1)), int(call.get(2)))


@rule("aten.mT.default", "aten.mH.default", "aten.matrix_H.default", "aten.adjoint.default")
def transposing_matrices(call: OpCall) -> Value:
    """Swap the last two dims."""
    return _swapped(call.value(0), -2, -1)


def _swapped(value: Value, first: int, second: int) -> Value:
    order = list(range(value.rank))
    order[first], order[second] = order[second], order[first]
    return permute(value, order)


@rule("aten.t.default", "aten.numpy_T.default")
def reversing(call: OpCall) -> Value:
    """Reverse the order of the dims."""
    value = call.value(0)
    return permute(value, range(value.rank)[::-1])


@rule("aten.movedim.int", "aten.movedim.intlist", "aten.moveaxis.int", "aten.moveaxis.intlist")
def moving(call: OpCall) -> Value:
    """Move dims to new places."""
    value = call.value(0)
    sources = _listed(call.get(1), value.rank)
    targets = _listed(call.get(2), value.rank)
    rest = iter(dim for dim in range(value.rank) if dim not in sources)
    placed = dict(zip(targets, sources, strict=True))
    return permute(value, [placed[k] if k in placed else next(rest) for k in range(value.rank)])


def _listed(dims: int | list[int], rank: int) -> list[int]:
    return [int(dim) % rank for dim in (dims if isinstance(dims, (list, tuple)) else [dims])]


@rule("aten.rot90.default")
def turning(call: OpCall) -> Value:
    """Turn the plane of two dims."""
    value = call.value(0)
    first, second = call.get(2)
    factors = tuple(np.rot90(f, int(call.get(1)), (first, second)) for f in value.factors)
    return Value(call.shape, factors)


@rule("aten.view_as_real.default")
def taking_apart(call: OpCall) -> Value:
    """Complex numbers as pairs along a new last dim."""
    return Value(call.shape, tuple(factor[..., None] for factor in call.value(0).factors))


@rule("aten.view_as_complex.default")
def pairing(call: OpCall) -> Value:
    """Pairs along the last dim as complex numbers: both halves exist together."""
    value = call.value(0)
    passed = across(call, value, (value.rank - 1,), "halves of complex numbers")
    return Value(call.shape, tuple(factor[..., 0] for factor in passed))


# ---- broadcasts and repeats ---------------------------------------------------------------------


@rule("aten.expand.default", "aten.broadcast_to.default")
def expanding(call: OpCall) -> Value:
    """Repeat dims of size 1: the copies share whatever can be removed.

    Where nothing can be removed, there may be as many copies as what they are combined with needs.
    """
    value = call.value(0)
    return expand(value, call.shape) if value.factors else _copies(call, value.shape)


def _copies(call: OpCall, shape: Shape) -> Value:
    """Let the copies along a dim of a tensor go one by one, if it is copied along one dim only."""
    before = (1,) * (len(call.shape) - len(shape)) + shape
    grown = [dim for dim, size in enumerate(before) if size == 1 < call.shape[dim]]
    listed = [dim for dim in grown if dim not in call.symbolic]
    return fresh_along(call, listed if len(listed) == 1 else [])


@rule("aten.expand_as.default")
def expanding_as(call: OpCall) -> Value:
    """Repeat dims of size 1 up to another tensor's sizes, and so shrink with it."""
    value, other = call.value(0), call.value(1)
    return merge(call.coupler, [value, other], call.shape)


@rule("aten.broadcast_tensors.default")
def expanding_together(call: OpCall) -> tuple[Value, ...]:
    """Repeat dims of size 1 up to the sizes of all tensors."""
    together = merge(call.coupler, call.values(), call.shape)
    return (together,) * len(call.shapes)


@rule("aten.meshgrid.default", "aten.meshgrid.indexing")
def spanning_grid(call: OpCall) -> tuple[Value, ...]:
    """Repeat vectors along each other's dims."""
    values, rank = call.values(), len(call.shape)
    order = list(range(rank))
    if call.get(1, "ij") == "xy" and rank > 1:
        order[:2] = [1, 0]
    factors = tuple(
        factor.reshape([-1 if k == order[place] else 1 for k in range(rank)])
        for place, value in enumerate(values)
        for factor in value.factors
    )
    return tuple(Value(shape, factors) for shape in call.shapes)


@rule("aten.repeat.default", "aten.tile.default")
def repeating(call: OpCall) -> Value:
    """Tile a tensor: copies of one slice exist together."""
    value = call.value(0)
    if not value.factors:
        return _copies(call, value.shape)
    counts = _repeats(call.get(1), len(call.shape))
    return Value(call.shape, tuple(_tiled(factor, counts) for factor in value.factors))


def _repeats(given: Sequence[int], rank: int) -> list[int]:
    return [*[1] * (rank - len(given)), *(int(count) for count in given)]


def _tiled(factor: Factor, counts: list[int]) -> Factor:
    lifted = lift(factor, len(counts))
    return np.tile(
        lifted, [n if size > 1 else 1 for n, size in zip(counts, lifted.shape, strict=True)]
    )


@rewrite("aten.repeat.default", "aten.tile.default")
def rewrite_repeats(resize: Resize) -> None:
    """Count the copies that remain of what is repeated along a dim of size 1."""
    rank, before = len(resize.shape()), resize.shape_in(0)
    given = list(resize.argument(1))
    counts = [*[1] * (rank - len(given)), *given]
    sizes = (1,) * (rank - len(before)) + before
    for dim, size in enumerate(sizes):
        kept = resize.kept(dim)
        if kept is not None and size == 1:
            counts[dim] = len(kept)
    resize.set(1, counts)


@rule("aten.repeat_interleave.self_int")
def interleaving(call: OpCall) -> Value:
    """Repeat every slice in place."""
    value = call.value(0)
    if call.get(2) is None:
        raise UnsupportedCall("repeat_interleave of a flattened tensor")
    dim, count = int(call.get(2)) % value.rank, int(call.get(1))
    factors = tuple(
        np.repeat(factor, count, dim) if factor.shape[dim] > 1 else factor
        for factor in value.factors
    )
    return Value(call.shape, factors)
