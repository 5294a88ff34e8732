"""Ops that put tensors together, add to an axis, or turn it round: joins, padding, rolls."""

from __future__ import annotations

import numpy as np

from graphprune.labels.algebra import concatenate, merge
from graphprune.labels.value import Factor, Shape, Value, insert_dim, varying
from graphprune.ops.passing import across
from graphprune.ops.registry import OpCall, UnsupportedCall, rewrite, rule
from graphprune.ops.resize import Resize

# ---- joins --------------------------------------------------------------------------------------


@rule("aten.cat.default", "aten.concat.default", "aten.concatenate.default")
def joining(call: OpCall) -> Value:
    """Concatenate: every input keeps its own atoms."""
    values = [value for value in call.values() if value.shape != (0,)]
    dim = int(call.get(1, 0)) % len(call.shape)
    return concatenate(call.coupler, values, dim, call.shape)


@rule("aten.stack.default")
def stacking(call: OpCall) -> Value:
    """Concatenate along a new dim."""
    return _stack(call, int(call.get(1, 0)) % len(call.shape))


_JOINED_ALONG = {
    "aten.vstack.default": 0,
    "aten.row_stack.default": 0,
    "aten.hstack.default": 1,
    "aten.column_stack.default": 1,
    "aten.dstack.default": 2,
}


@rule(*_JOINED_ALONG)
def joining_along(call: OpCall) -> Value:
    """Concatenate along the first, second or third dim, which tensors of fewer dims grow."""
    dim, values = _JOINED_ALONG[call.name], call.values()
    rank = values[0].rank
    if call.name == "aten.hstack.default" and rank == 1:
        return concatenate(call.coupler, values, 0, call.shape)
    if rank == 1 and dim < 2:
        return _stack(call, dim)
    if any(value.rank != len(call.shape) for value in values):
        raise UnsupportedCall("tensors that grow dims first")
    return concatenate(call.coupler, values, dim, call.shape)


def _stack(call: OpCall, dim: int) -> Value:
    values = [insert_dim(value, dim) for value in call.values()]
    if len({tuple(varying(factor) for factor in value.factors) for value in values}) == 1:
        return _stack_alike(values, dim, call.shape)
    flat = tuple(1 if k == dim else size for k, size in enumerate(call.shape))
    return Value(call.shape, merge(call.coupler, values, flat).factors)


def _stack_alike(values: list[Value], dim: int, shape: Shape) -> Value:
    """Stack tensors with factors along the same dims: every one keeps its own atoms."""
    stacked = zip(*(value.factors for value in values), strict=True)
    return Value(shape, tuple(np.concatenate(factors, dim) for factors in stacked))


# ---- padding ------------------------------------------------------------------------------------


@rule("aten.pad.default", "aten.constant_pad_nd.default")
def padding(call: OpCall) -> Value:
    """Pad with a constant: the padding along a prunable axis can go as well."""
    value, sides = call.value(0), _sides(list(call.get(1)), call.value(0).rank)
    if call.get(2, "constant") in ("reflect", "replicate", "circular"):
        own = "an axis that is padded with its own values"
        return Value(call.shape, across(call, value, [*sides], own))
    factors = []
    for whole in value.factors:
        factor = whole
        for dim in varying(whole):
            factor = _pad_factor(call, factor, dim, *sides.get(dim, (0, 0)))
        factors.append(factor)
    return Value(call.shape, tuple(factors))


def _sides(widths: list[int], rank: int) -> dict[int, tuple[int, int]]:
    """Return what is added before and behind every padded dim; a crop is negative."""
    pairs = {
        rank - 1 - place: (int(widths[2 * place]), int(widths[2 * place + 1]))
        for place in range(len(widths) // 2)
    }
    return {dim: pair for dim, pair in pairs.items() if pair != (0, 0)}


def _pad_factor(call: OpCall, factor: Factor, dim: int, left: int, right: int) -> Factor:
    def padding_atoms(count: int) -> Factor:
        along = [count if k == dim else 1 for k in range(factor.ndim)]
        full = [count if k == dim else size for k, size in enumerate(factor.shape)]
        return np.broadcast_to(call.coupler.fresh(count).reshape(along), full)

    first, last = max(-left, 0), factor.shape[dim] - max(-right, 0)
    inside = factor.take(range(first, last), dim)
    if (left < 0 or right < 0) and (inside == inside.flat[0]).all():
        call.coupler.pin(inside, "what is left of a cropped axis holds this unit alone")
    return np.concatenate([padding_atoms(max(left, 0)), inside, padding_atoms(max(right, 0))], dim)


@rewrite("aten.pad.default", "aten.constant_pad_nd.default")
def rewrite_padding(resize: Resize) -> None:
    """Count the padding, or what is cropped, that remains on both sides."""
    widths, rank = list(resize.argument(1)), len(resize.shape())
    for dim, (left, right) in _sides(widths, rank).items():
        place = 2 * (rank - 1 - dim)
        widths[place] = _remains(resize, dim, left, from_end=False)
        widths[place + 1] = _remains(resize, dim, right, from_end=True)
    resize.set(1, widths)


def _remains(resize: Resize, dim: int, width: int, *, from_end: bool) -> int:
    """Count what remains of the padding on one side: of the result, or cropped off the input."""
    kept = resize.kept(dim) if width > 0 else resize.kept_in(0, dim)
    if kept is None:
        return width
    size = (resize.shape() if width > 0 else resize.shape_in(0))[dim]
    inside = kept >= size - abs(width) if from_end else kept < abs(width)
    return int(np.sign(width)) * int(inside.sum())


# ---- turning round ------------------------------------------------------------------------------


@rule("aten.roll.default")
def rolling(call: OpCall) -> Value:
    """Shift along dims, what falls off one end enters at the other: atoms move along."""
    value, shifts, dims = call.value(0), _listed(call.get(1)), _listed(call.get(2, []))
    if not dims:
        passed = across(call, value, range(value.rank), "rolled as one flat axis")
        return Value(call.shape, passed)
    if len({dim % value.rank for dim in dims}) < len(dims):
        raise UnsupportedCall("one dim is rolled twice")
    moves = [(dim % value.rank, shift) for dim, shift in zip(dims, shifts, strict=True)]
    return Value(call.shape, tuple(_rolled(factor, moves) for factor in value.factors))


def _rolled(factor: Factor, moves: list[tuple[int, int]]) -> Factor:
    for dim, shift in moves:
        factor = np.roll(factor, shift, dim)
    return factor


def _listed(numbers: int | list[int]) -> list[int]:
    return [int(n) for n in (numbers if isinstance(numbers, (list, tuple)) else [numbers])]


@rewrite("aten.roll.default")
def rewrite_shifts(resize: Resize) -> None:
    """Shift by as many entries as remain of those that enter at the other end."""
    before, dims = resize.shape_in(0), _listed(resize.argument(2, []))
    shifts = _listed(resize.argument(1))
    for place, dim in enumerate(dims):
        size, kept = before[dim % len(before)], resize.kept_in(0, dim % len(before))
        if kept is not None:
            shifts[place] = int((kept >= size - shifts[place] % size).sum())
    resize.set(1, shifts)


@rule("aten.fft_fftshift.default", "aten.fft_ifftshift.default")
def shifting_halves(call: OpCall) -> Value:
    """Swap the halves of dims of fixed size; the other axes pass."""
    value = call.value(0)
    return Value(call.shape, across(call, value, call.dims(1, value.rank), "a rolled axis"))


@rule("aten.flip.default")
def flipping(call: OpCall) -> Value:
    """Reverse dims."""
    value = call.value(0)
    dims = call.dims(1, value.rank)
    return Value(call.shape, tuple(np.flip(factor, dims) for factor in value.factors))


@rule("aten.fliplr.default")
def flipping_second(call: OpCall) -> Value:
    """Reverse the second dim."""
    return Value(call.shape, tuple(np.flip(factor, 1) for factor in call.value(0).factors))


@rule("aten.flipud.default")
def flipping_first(call: OpCall) -> Value:
    """Reverse the first dim."""
    return Value(call.shape, tuple(np.flip(factor, 0) for factor in call.value(0).factors))
