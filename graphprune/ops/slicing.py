"""Ops that take parts of an axis: atoms go with their elements, ranges follow them."""

from __future__ import annotations

import numpy as np
import torch

from graphprune.labels.algebra import select, take
from graphprune.labels.value import Value
from graphprune.ops.passing import across
from graphprune.ops.registry import OpCall, UnsupportedCall, rewrite, rule
from graphprune.ops.resize import Kept, Resize

# ---- ranges -------------------------------------------------------------------------------------


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
        select_again(resize, dim, np.array(span))
        return
    first, last = _bounds(kept, span)
    resize.retarget(torch.ops.aten.slice.Tensor, (resize.tensor(0), dim, first, last))


def _bounds(kept: Kept, span: range) -> tuple[int, int]:
    """Where a range of old indices starts and stops among those kept."""
    return int((kept < span.start).sum()), int((kept < span.stop).sum())


def select_again(resize: Resize, dim: int, index: Kept) -> None:
    """Select by a new constant: the entries of ``index`` that remain, as they are numbered now."""
    before, after = resize.kept_in(0, dim), resize.kept(dim)
    where = index if after is None else index[after]
    numbers = np.searchsorted(before, where % resize.shape_in(0)[dim])  # type: ignore[arg-type]
    constant = resize.constant(torch.from_numpy(numbers))
    resize.retarget(torch.ops.aten.index_select.default, (resize.tensor(0), dim, constant))


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


# ---- cuts ---------------------------------------------------------------------------------------

_SPLITS = (
    "aten.split.Tensor",
    "aten.split.sizes",
    "aten.split_with_sizes.default",
    "aten.unsafe_split.Tensor",
    "aten.unsafe_split_with_sizes.default",
    "aten.unsafe_chunk.default",
    "aten.chunk.default",
    "aten.tensor_split.sections",
    "aten.tensor_split.indices",
)
_CUT_ALONG = {
    f"aten.{letter}split.{form}": dim
    for letter, dim in (("v", 0), ("h", 1), ("d", 2))
    for form in ("int", "array")
}
"""Overloads that cut along a dim of their own; ``hsplit`` of a vector along its only one."""


@rule(*_SPLITS, *_CUT_ALONG)
def splitting(call: OpCall) -> tuple[Value, ...]:
    """Cut a dim into ranges."""
    value = call.value(0)
    along = min(_CUT_ALONG.get(call.name, value.rank), value.rank - 1)
    dim = along if call.name in _CUT_ALONG else int(call.get(2, 0)) % value.rank
    parts, start = [], 0
    for shape in call.shapes:
        stop = start + shape[dim]
        parts.append(take(call.coupler, value, dim, slice(start, stop), shape))
        start = stop
    return tuple(parts)


@rewrite(*_SPLITS)
def rewrite_split(resize: Resize) -> None:
    """Spell out the size of every part."""
    _split_again(resize, int(resize.argument(2, 0)) % len(resize.shape_in(0)))


@rewrite(*_CUT_ALONG)
def rewrite_cut(resize: Resize) -> None:
    """Spell out the size of every part."""
    along = _CUT_ALONG[str(resize.node.target)]
    _split_again(resize, min(along, len(resize.shape_in(0)) - 1))


def _split_again(resize: Resize, dim: int) -> None:
    kept = resize.kept_in(0, dim)
    if kept is None:
        return
    sizes, start = [], 0
    for part in range(len(resize.node.meta["val"])):
        size = resize.shape(part)[dim]
        first, last = _bounds(kept, range(start, start + size))
        sizes.append(last - first)
        start += size
    resize.retarget(torch.ops.aten.split_with_sizes.default, (resize.tensor(0), sizes, dim))


@rule("_operator.getitem")
def getting(call: OpCall) -> Value:
    """One result of an op that returns several; the graph resolves it itself."""
    raise UnsupportedCall("getitem of something that is not a tuple of tensors")


# ---- windows and diagonals ----------------------------------------------------------------------


@rule("aten.unfold.default")
def sliding(call: OpCall) -> Value:
    """Windows along one dim, as a new last dim: the other dims pass."""
    value = call.value(0)
    dim = int(call.get(1)) % max(value.rank, 1)
    passed = across(call, value, (dim,), "an axis cut into windows")
    return Value(call.shape, tuple(factor[..., None] for factor in passed))


@rule("aten.diagonal.default", "aten.linalg_diagonal.default")
def taking_diagonal(call: OpCall) -> Value:
    """The diagonal of two dims, as a new last dim: the other dims pass."""
    value = call.value(0)
    dims = [int(call.named(name)) % value.rank for name in ("dim1", "dim2")]
    passed = across(call, value, dims, "an axis whose diagonal is taken")
    return Value(call.shape, tuple(factor.squeeze(tuple(dims))[..., None] for factor in passed))


@rule("aten.diag_embed.default")
def spreading_diagonal(call: OpCall) -> Value:
    """A diagonal matrix: rows and columns go with the entries of the last dim."""
    if (int(call.get(1)), int(call.get(2)), int(call.get(3))) != (0, -2, -1):
        raise UnsupportedCall("a diagonal in another place than the last two dims")
    rows = tuple(factor[..., None] for factor in call.value(0).factors)
    columns = tuple(f[..., None, :] for f in call.value(0).factors if f.shape[-1] > 1)
    return Value(call.shape, rows + columns)
