"""Ops that read or write at the places an index tensor names.

An index that is a known constant vector permutes or repeats atoms, and is written anew when the
axis shrinks. Along what any other index picks, nothing can go; the other axes pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from graphprune.labels.algebra import merge, take
from graphprune.labels.value import Factor, Shape, Value, insert_dim
from graphprune.ops.passing import across
from graphprune.ops.registry import OpCall, UnsupportedCall, rewrite, rule
from graphprune.ops.resize import Resize
from graphprune.ops.slicing import select_again

_PICKED = "picked by an index tensor"
_WRITTEN = "written at the places of an index tensor"

# ---- one index for whole slices -----------------------------------------------------------------


@rule("aten.index_select.default")
def index_selecting(call: OpCall) -> Value:
    """Pick entries of one axis; the other axes pass."""
    value, index = call.value(0), call.value(2)
    call.coupler.pin_value(index, "an index tensor")
    return _pick(call, value, {int(call.get(1)) % value.rank: index}, lambda factor: factor)


@rule("aten.index.Tensor", "aten._unsafe_index.Tensor")
def indexing(call: OpCall) -> Value:
    """Pick entries of some axes by index tensors; the other axes pass."""
    picked = _indices(call)
    rank = max(index.rank for index in picked.values())
    return _pick(call, call.value(0), picked, lambda f: _around(f, [*picked], (1,) * rank))


def _indices(call: OpCall) -> dict[int, Value]:
    listed = dict(enumerate(call.get(1)))
    picked = {dim: index for dim, index in listed.items() if index is not None}
    if not all(isinstance(index, Value) for index in picked.values()):
        raise UnsupportedCall("an index that is not a tensor")
    shape = call.value(0).shape
    for dim, index in picked.items():
        call.coupler.pin_value(index, "an index tensor")
        if index.rank > 1 and index.shape == shape[dim : dim + index.rank]:
            raise UnsupportedCall("an index of several dims that may be a mask")
    return picked


def _pick(
    call: OpCall, value: Value, picked: dict[int, Value], place: Callable[[Factor], Factor]
) -> Value:
    """Follow an index that is a known constant vector; pin what is picked by any other."""
    (dim, index) = next(iter(picked.items()))
    if len(picked) == 1 and index.numbers is not None and value.along(dim):
        return take(call.coupler, value, dim, index.numbers.tolist(), call.shape)
    passed = across(call, value, picked, _PICKED)
    return Value(call.shape, tuple(place(factor) for factor in passed))


def _around(factor: Factor, picked: list[int], index: Shape) -> Factor:
    """Place what passes around the dims of the index tensors, as numpy does."""
    return factor.reshape(_shape_around(factor.shape, picked, index))


def _shape_around(shape: Shape, picked: list[int], index: Shape) -> Shape:
    rest = tuple(size for dim, size in enumerate(shape) if dim not in picked)
    place = _place(picked)
    return (*rest[:place], *index, *rest[place:])


def _place(picked: list[int]) -> int:
    """Where the dims of the index tensors stand among those that pass."""
    adjacent = picked == list(range(picked[0], picked[-1] + 1))
    return picked[0] if adjacent else 0


@rewrite("aten.index_select.default", "aten.index.Tensor", "aten._unsafe_index.Tensor")
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
        select_again(resize, dim, resize.constant_of(index))


@rule("aten.index_put.default")
def index_putting(call: OpCall) -> Value:
    """Write at the places that index tensors name; what is written has the other axes too."""
    value, covered = call.value(0), _covered(call)
    if covered and not call.value(2).factors:
        call.coupler.pin_value(call.get(1)[covered[0]], "an index tensor")
        return Value(call.shape, across(call, value, covered, _WRITTEN))
    picked = _indices(call)
    dims, index = [*picked], np.broadcast_shapes(*(index.shape for index in picked.values()))
    shape = _shape_around(value.shape, dims, index)
    inside = range(_place(dims), _place(dims) + len(index))
    written = _of_rank(call.value(2), len(shape))
    passed = across(call, value, dims, _WRITTEN)
    there = Value(shape, tuple(_around(f, dims, (1,) * len(index)) for f in passed))
    merge(call.coupler, [there, _across(call, written, inside)], shape)
    return Value(call.shape, passed)


def _covered(call: OpCall) -> range:
    """Return the dims that the only index covers if it is a mask; none where it cannot be one."""
    given = [(dim, index) for dim, index in enumerate(call.get(1)) if isinstance(index, Value)]
    (dim, index), *others = given
    covered = range(dim, dim + index.rank)
    sizes = call.value(0).shape[covered.start : covered.stop]
    return covered if not others and index.rank > 1 and index.shape == sizes else range(0)


def _of_rank(value: Value, rank: int) -> Value:
    while value.rank < rank:
        value = insert_dim(value, 0)
    return value


def _across(call: OpCall, value: Value, dims: Collection[int]) -> Value:
    """Pin what lies along dims where something is written, and leave them out."""
    shape = tuple(1 if dim in dims else size for dim, size in enumerate(value.shape))
    return Value(shape, across(call, value, dims, _WRITTEN))


@rule(
    "aten.index_add.default",
    "aten.index_copy.default",
    "aten.index_reduce.default",
    "aten.index_fill.int_Scalar",
    "aten.index_fill.int_Tensor",
)
def index_adding(call: OpCall) -> Value:
    """Write slices at the places that an index names; the other axes are those of both tensors."""
    value = call.value(0)
    dim = int(call.get(1)) % max(value.rank, 1)
    call.coupler.pin_value(call.value(2), "an index tensor")
    written = call.optional(3)
    given = [value] if written is None or written.rank < value.rank else [value, written]
    return _merged(call, given, (dim,))


def _merged(call: OpCall, values: list[Value], dims: Collection[int]) -> Value:
    """Element-wise across ``dims``."""
    flat = tuple(1 if dim in dims else size for dim, size in enumerate(call.shape))
    parts = [_across(call, value, dims) for value in values]
    return Value(call.shape, merge(call.coupler, parts, flat).factors)


# ---- one index for every element ----------------------------------------------------------------


@rule("aten.gather.default")
def gathering(call: OpCall) -> Value:
    """Pick along one dim, at every place of the others by an index of its own."""
    return _gather(call, int(call.get(1)), call.value(2))


@rule("aten.take_along_dim.default")
def taking_along(call: OpCall) -> Value:
    """Gather with broadcasting."""
    if call.get(2) is None:
        raise UnsupportedCall("picks from a flattened tensor")
    return _gather(call, int(call.get(2)), call.value(1), broadcast=True)


def _gather(call: OpCall, dim: int, index: Value, *, broadcast: bool = False) -> Value:
    value = call.value(0)
    along = dim % value.rank
    # An index that is shorter picks from the first few slices only.
    cut = [
        other
        for other in range(value.rank)
        if not broadcast and other != along and index.shape[other] != value.shape[other]
    ]
    passed = across(call, value, (along, *cut), _PICKED)
    shape = tuple(1 if k == along else n for k, n in enumerate(value.shape))
    picked = Value(tuple(call.shape[k] if k in cut else n for k, n in enumerate(shape)), passed)
    return merge(call.coupler, [picked, index], call.shape)


@rule(
    "aten.scatter.src",
    "aten.scatter.value",
    "aten.scatter.reduce",
    "aten.scatter.value_reduce",
    "aten.scatter_add.default",
    "aten.scatter_reduce.two",
)
def scattering(call: OpCall) -> Value:
    """Write along one dim, at every place of the others by an index of its own."""
    value = call.value(0)
    dim, source = int(call.get(1)) % value.rank, call.optional(3)
    given = [call.value(2)] if source is None else [call.value(2), source]
    # An index or source that is shorter or longer reaches some slices only.
    cut = {k for k, n in enumerate(value.shape) for v in given if v.shape[k] != n}
    return _merged(call, [value, *given], {dim, *cut})


@rule("aten.one_hot.default")
def numbering(call: OpCall) -> Value:
    """A new last dim of fixed size."""
    return Value(call.shape, tuple(factor[..., None] for factor in call.value(0).factors))


@rule(
    "aten.embedding_bag.default",
    "aten.embedding_bag.padding_idx",
    "aten._embedding_bag.default",
    "aten._embedding_bag_forward_only.default",
)
def embedding_bag(call: OpCall) -> tuple[Value, ...]:
    """Sums of a table's rows: rows are picked and stay, columns are produced."""
    table, weights = call.value(0), call.optional(6)
    if weights is not None:
        call.coupler.pin_value(weights, "weights of single rows")
    if any(call.read[1:]):
        raise UnsupportedCall("more than the sums is used")
    columns = across(call, table, (0,), "rows picked by an index tensor")
    for factor in columns:
        call.coupler.produce(factor)
    return (Value(call.shape, columns), *map(Value, call.shapes[1:]))
