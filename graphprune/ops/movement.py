"""Ops that move elements: atoms move with them, and literal sizes follow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from graphprune.labels.algebra import concatenate, expand, merge, select, take
from graphprune.labels.value import (
    Factor,
    Shape,
    Value,
    insert_dim,
    lift,
    permute,
    reshape,
    varying,
)
from graphprune.ops.registry import OpCall, UnsupportedCall, rewrite, rule
from graphprune.ops.resize import Kept, Resize

# ---- reshapes -----------------------------------------------------------------------------------

_SIZED = ("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default")


@rule(
    *_SIZED,
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.unsqueeze.default",
)
def reshaping(call: OpCall) -> Value:
    """Reshape the factors themselves: every element keeps its atom."""
    return reshape(call.value(0), call.shape)


@rule("aten.view_as.default", "aten.reshape_as.default")
def reshaping_as(call: OpCall) -> Value:
    """Reshape to the sizes of another tensor: equal places of both exist together."""
    made, other = reshape(call.value(0), call.shape), call.value(1)
    return merge(call.coupler, [made, other], call.shape)


@rewrite("aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims")
def rewrite_squeeze(resize: Resize) -> None:
    """Name the dims to drop: one that shrinks to a single unit has to stay."""
    before = resize.shape_in(0)
    named = resize.argument(1)
    listed = range(len(before)) if named is None else _listed(named, len(before))
    dims = [dim for dim in listed if before[dim] == 1]
    if dims:
        resize.retarget(torch.ops.aten.squeeze.dims, (resize.tensor(0), dims))
    else:
        resize.retarget(torch.ops.aten.alias.default, (resize.tensor(0),))


@rewrite(*_SIZED, "aten.expand.default", "aten.broadcast_to.default")
def rewrite_sizes(resize: Resize) -> None:
    """Write the sizes that remain into ``view`` and ``expand``."""
    sizes = list(resize.argument(1))
    before = resize.shape()
    for dim, size in enumerate(sizes):
        kept = resize.kept(dim)
        if kept is not None and size != -1:
            sizes[dim] = resize.scaled(size, len(kept), before[dim])
    resize.set(1, sizes)


@rewrite("aten.unflatten.int")
def rewrite_unflatten(resize: Resize) -> None:
    """Write the sizes that remain into ``unflatten``."""
    before = resize.shape()
    sizes = list(resize.argument(2))
    first = int(resize.argument(1)) % (len(before) - len(sizes) + 1)
    for place, size in enumerate(sizes):
        kept = resize.kept(first + place)
        if kept is not None and size != -1:
            sizes[place] = resize.scaled(size, len(kept), before[first + place])
    resize.set(2, sizes)


# ---- permutations -------------------------------------------------------------------------------


@rule("aten.permute.default")
def permuting(call: OpCall) -> Value:
    """Reorder dims."""
    return permute(call.value(0), [int(dim) for dim in call.get(1)])


@rule("aten.transpose.int", "aten.swapaxes.default")
def transposing(call: OpCall) -> Value:
    """Swap two dims."""
    value = call.value(0)
    order = list(range(value.rank))
    first, second = int(call.get(1)), int(call.get(2))
    order[first], order[second] = order[second], order[first]
    return permute(value, order)


@rule("aten.t.default", "aten.numpy_T.default")
def reversing(call: OpCall) -> Value:
    """Reverse the order of the dims."""
    value = call.value(0)
    return permute(value, range(value.rank)[::-1])


@rule("aten.mT.default", "aten.adjoint.default")
def transposing_matrices(call: OpCall) -> Value:
    """Swap the last two dims."""
    value = call.value(0)
    order = list(range(value.rank))
    order[-2:] = reversed(order[-2:])
    return permute(value, order)


@rule("aten.movedim.int", "aten.movedim.intlist")
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


# ---- broadcasts and repeats ---------------------------------------------------------------------


@rule("aten.expand.default", "aten.broadcast_to.default")
def expanding(call: OpCall) -> Value:
    """Repeat dims of size 1: nothing new to remove."""
    return expand(call.value(0), call.shape)


@rule("aten.expand_as.default")
def expanding_as(call: OpCall) -> Value:
    """Repeat dims of size 1 up to another tensor's sizes, and so shrink with it."""
    value, other = call.value(0), call.value(1)
    return merge(call.coupler, [value, other], call.shape)


@rule("aten.repeat.default")
def repeating(call: OpCall) -> Value:
    """Tile a tensor: copies of one slice exist together."""
    rank = len(call.shape)
    factors = []
    for factor in call.value(0).factors:
        lifted = lift(factor, rank)
        counts = [
            int(count) if lifted.shape[dim] > 1 else 1 for dim, count in enumerate(call.get(1))
        ]
        factors.append(np.tile(lifted, counts))
    return Value(call.shape, tuple(factors))


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


# ---- slices -------------------------------------------------------------------------------------


@rule("aten.slice.Tensor")
def slicing(call: OpCall) -> Value:
    """Keep a range of one dim."""
    value = call.value(0)
    dim = int(call.get(1, 0)) % value.rank
    if not value.along(dim):
        return Value(call.shape, value.factors)
    where = slice(call.get(2), call.get(3), int(call.get(4, 1)))
    return take(call.coupler, value, dim, where, call.shape)


@rewrite("aten.slice.Tensor")
def rewrite_slice(resize: Resize) -> None:
    """Move both ends of a slice to where their elements are now."""
    before = resize.shape_in(0)
    dim = int(resize.argument(1, 0)) % len(before)
    kept = resize.kept_in(0, dim)
    if kept is None:
        return
    span = range(before[dim])[resize.argument(2) : resize.argument(3) : resize.argument(4, 1)]
    if span.step != 1:
        _select_again(resize, dim, np.array(span))
        return
    first, last = _bounds(kept, span)
    resize.retarget(torch.ops.aten.slice.Tensor, (resize.tensor(0), dim, first, last))


def _bounds(kept: Kept, span: range) -> tuple[int, int]:
    """Where a range of old indices starts and stops among those kept."""
    return int((kept < span.start).sum()), int((kept < span.stop).sum())


@rule("aten.narrow.default")
def narrowing(call: OpCall) -> Value:
    """Keep ``length`` entries of one dim from ``start`` on."""
    value = call.value(0)
    dim, start = int(call.get(1)) % value.rank, int(call.get(2))
    return take(call.coupler, value, dim, slice(start, start + int(call.get(3))), call.shape)


@rewrite("aten.narrow.default")
def rewrite_narrow(resize: Resize) -> None:
    """Turn ``narrow`` of a shrunk axis into a slice."""
    before = resize.shape_in(0)
    dim, start = int(resize.argument(1)) % len(before), int(resize.argument(2))
    kept = resize.kept_in(0, dim)
    if kept is None:
        return
    first, last = _bounds(kept, range(start, start + int(resize.argument(3))))
    resize.retarget(torch.ops.aten.slice.Tensor, (resize.tensor(0), dim, first, last))


@rule("aten.select.int")
def selecting(call: OpCall) -> Value:
    """Keep one entry of one dim."""
    value = call.value(0)
    return select(call.coupler, value, int(call.get(1)) % value.rank, int(call.get(2)))


@rewrite("aten.select.int")
def rewrite_select(resize: Resize) -> None:
    """Move the index to where its (pinned) element is now."""
    before = resize.shape_in(0)
    dim = int(resize.argument(1)) % len(before)
    kept = resize.kept_in(0, dim)
    if kept is not None:
        resize.set(2, int((kept < int(resize.argument(2)) % before[dim]).sum()))


@rule("aten.unbind.int")
def unbinding(call: OpCall) -> tuple[Value, ...]:
    """Take a dim apart, entry by entry."""
    value = call.value(0)
    dim = int(call.get(1, 0)) % value.rank
    return tuple(select(call.coupler, value, dim, k) for k in range(value.shape[dim]))


_SPLITS = (
    "aten.split.Tensor",
    "aten.split.sizes",
    "aten.split_with_sizes.default",
    "aten.unsafe_split.Tensor",
    "aten.unsafe_chunk.default",
    "aten.chunk.default",
    "aten.tensor_split.sections",
    "aten.tensor_split.indices",
)


@rule(*_SPLITS)
def splitting(call: OpCall) -> tuple[Value, ...]:
    """Cut a dim into ranges."""
    value = call.value(0)
    dim = int(call.get(2, 0)) % value.rank
    parts, start = [], 0
    for shape in call.shapes:
        stop = start + shape[dim]
        parts.append(take(call.coupler, value, dim, slice(start, stop), shape))
        start = stop
    return tuple(parts)


@rewrite(*_SPLITS)
def rewrite_split(resize: Resize) -> None:
    """Spell out the size of every part."""
    before = resize.shape_in(0)
    dim = int(resize.argument(2, 0)) % len(before)
    kept = resize.kept_in(0, dim)
    if kept is None:
        return
    sizes, start = [], 0
    for size in _part_sizes(resize, dim):
        first, last = _bounds(kept, range(start, start + size))
        sizes.append(last - first)
        start += size
    resize.retarget(torch.ops.aten.split_with_sizes.default, (resize.tensor(0), sizes, dim))


def _part_sizes(resize: Resize, dim: int) -> list[int]:
    count = len(resize.node.meta["val"])
    return [resize.shape(part)[dim] for part in range(count)]


@rule("_operator.getitem")
def getting(call: OpCall) -> Value:
    """One result of an op that returns several; the graph resolves it itself."""
    raise UnsupportedCall("getitem of something that is not a tuple of tensors")


@rule("aten.index_select.default")
def index_selecting(call: OpCall) -> Value:
    """Pick entries of one axis; the other axes pass."""
    value, index = call.value(0), call.value(2)
    return _pick(call, value, {int(call.get(1)) % value.rank: index}, lambda factor: factor)


@rule("aten.index.Tensor")
def indexing(call: OpCall) -> Value:
    """Pick entries of some axes by index tensors; the other axes pass."""
    value = call.value(0)
    listed = dict(enumerate(call.get(1)))
    picked = {dim: index for dim, index in listed.items() if index is not None}
    if not all(isinstance(index, Value) for index in picked.values()):
        raise UnsupportedCall("an index that is not a tensor")
    rank = max(index.rank for index in picked.values())
    return _pick(call, value, picked, lambda factor: _indexed_shape(factor, [*picked], rank))


def _pick(
    call: OpCall,
    value: Value,
    picked: dict[int, Value],
    place: Callable[[Factor], Factor],
) -> Value:
    """Follow an index that is a known constant vector; pin what is picked by any other."""
    for index in picked.values():
        call.coupler.pin_value(index, "an index tensor")
    (dim, index) = next(iter(picked.items()))
    if len(picked) == 1 and index.numbers is not None and value.along(dim):
        return take(call.coupler, value, dim, index.numbers.tolist(), call.shape)
    passed = []
    for factor in value.factors:
        if any(factor.shape[along] > 1 for along in picked):
            call.coupler.pin(factor, "picked by an index tensor")
        else:
            passed.append(place(factor))
    return Value(call.shape, tuple(passed))


@rewrite("aten.index_select.default", "aten.index.Tensor")
def rewrite_index(resize: Resize) -> None:
    """Pick what remains from where it is now."""
    second = resize.argument(1)
    if isinstance(second, int):
        dim = second % len(resize.shape_in(0))
    else:
        dim = next(k for k, index in enumerate(second) if index is not None)
    kept = resize.kept_in(0, dim)
    if kept is not None:
        index = resize.argument(2) if isinstance(second, int) else second[dim]
        _select_again(resize, dim, resize.constant_of(index))


def _select_again(resize: Resize, dim: int, index: Kept) -> None:
    """Select by a new constant: the entries of ``index`` that remain, as they are numbered now."""
    before, after = resize.kept_in(0, dim), resize.kept(dim)
    where = index if after is None else index[after]
    numbers = np.searchsorted(before, where % resize.shape_in(0)[dim])  # type: ignore[arg-type]
    constant = resize.constant(torch.from_numpy(numbers))
    resize.retarget(torch.ops.aten.index_select.default, (resize.tensor(0), dim, constant))


def _indexed_shape(factor: Factor, picked: list[int], rank: int) -> Factor:
    """Place what passes around the dims of the index tensors, as numpy does."""
    rest = [size for dim, size in enumerate(factor.shape) if dim not in picked]
    adjacent = picked == list(range(picked[0], picked[-1] + 1))
    place = picked[0] if adjacent else 0
    return factor.reshape([*rest[:place], *[1] * rank, *rest[place:]])


# ---- joins --------------------------------------------------------------------------------------


@rule("aten.cat.default", "aten.concat.default")
def joining(call: OpCall) -> Value:
    """Concatenate: every input keeps its own atoms."""
    values = [value for value in call.values() if value.shape != (0,)]
    dim = int(call.get(1, 0)) % len(call.shape)
    return concatenate(call.coupler, values, dim, call.shape)


@rule("aten.stack.default")
def stacking(call: OpCall) -> Value:
    """Concatenate along a new dim."""
    dim = int(call.get(1, 0)) % len(call.shape)
    values = [insert_dim(value, dim) for value in call.values()]
    if len({tuple(varying(factor) for factor in value.factors) for value in values}) == 1:
        return _stack_alike(values, dim, call.shape)
    flat = tuple(1 if k == dim else size for k, size in enumerate(call.shape))
    return Value(call.shape, merge(call.coupler, values, flat).factors)


def _stack_alike(values: list[Value], dim: int, shape: Shape) -> Value:
    """Stack tensors with factors along the same dims: every one keeps its own atoms."""
    stacked = zip(*(value.factors for value in values), strict=True)
    return Value(shape, tuple(np.concatenate(factors, dim) for factors in stacked))


# ---- padding, rolling, flipping -----------------------------------------------------------------


@rule("aten.pad.default", "aten.constant_pad_nd.default")
def padding(call: OpCall) -> Value:
    """Pad with a constant: the padding along a prunable axis can go as well."""
    widths = [int(width) for width in call.get(1)]
    constant = call.get(2, "constant") not in ("reflect", "replicate", "circular")
    value = call.value(0)
    sides = {
        value.rank - 1 - place: (widths[2 * place], widths[2 * place + 1])
        for place in range(len(widths) // 2)
    }
    factors = []
    for whole in value.factors:
        factor = whole
        for dim in varying(whole):
            left, right = sides.get(dim, (0, 0))
            if (left, right) != (0, 0) and not constant:
                raise UnsupportedCall("a prunable axis is padded with its own values")
            factor = _pad_factor(call, factor, dim, left, right)
        factors.append(factor)
    return Value(call.shape, tuple(factors))


def _pad_factor(call: OpCall, factor: Factor, dim: int, left: int, right: int) -> Factor:
    if min(left, right) < 0:
        raise UnsupportedCall("a prunable axis is cropped by negative padding")

    def padding_atoms(count: int) -> Factor:
        along = [count if k == dim else 1 for k in range(factor.ndim)]
        full = [count if k == dim else size for k, size in enumerate(factor.shape)]
        return np.broadcast_to(call.coupler.fresh(count).reshape(along), full)

    return np.concatenate([padding_atoms(left), factor, padding_atoms(right)], dim)


@rewrite("aten.pad.default", "aten.constant_pad_nd.default")
def rewrite_padding(resize: Resize) -> None:
    """Count the padding that remains on both sides."""
    widths, before = list(resize.argument(1)), resize.shape()
    for place in range(len(widths) // 2):
        dim = len(before) - 1 - place
        kept = resize.kept(dim)
        if kept is not None:
            left, right = widths[2 * place : 2 * place + 2]
            widths[2 * place] = int((kept < left).sum())
            widths[2 * place + 1] = int((kept >= before[dim] - right).sum())
    resize.set(1, widths)


@rule("aten.roll.default")
def rolling(call: OpCall) -> Value:
    """Shift along dims of fixed size; the other axes pass."""
    value = call.value(0)
    dims = call.dims(2, value.rank)
    for dim in dims:
        for factor in value.along(dim):
            call.coupler.pin(factor, "a rolled axis")
    return Value(
        call.shape,
        tuple(f for f in value.factors if all(f.shape[dim] == 1 for dim in dims)),
    )


@rule("aten.flip.default")
def flipping(call: OpCall) -> Value:
    """Reverse dims."""
    value = call.value(0)
    dims = call.dims(1, value.rank)
    return Value(call.shape, tuple(np.flip(factor, dims) for factor in value.factors))
