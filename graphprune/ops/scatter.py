"""Scatters: a tensor with a part of it replaced; this is what writes through views become."""

from __future__ import annotations

import torch

from graphprune.labels.algebra import merge, take
from graphprune.labels.value import Value, insert_dim
from graphprune.ops.registry import OpCall, rewrite, rule
from graphprune.ops.resize import Resize


@rule("aten.copy.default")
def copying_from(call: OpCall) -> Value:
    """Another tensor in the shape of this one: equal places exist together."""
    return merge(call.coupler, [call.value(0), call.value(1)], call.shape)


@rule("aten.slice_scatter.default")
def scattering_slice(call: OpCall) -> Value:
    """Replace a range of one dim: what is written exists with what it is written over."""
    base, part = call.value(0), call.value(1)
    dim = int(call.get(2, 0)) % base.rank
    where = slice(call.get(3), call.get(4), int(call.get(5, 1)))
    return _overwrite(call, base, part, dim, where)


@rule("aten.select_scatter.default")
def scattering_entry(call: OpCall) -> Value:
    """Replace one entry of one dim, which stays."""
    base = call.value(0)
    dim = int(call.get(2)) % base.rank
    place = int(call.get(3)) % base.shape[dim]
    for factor in base.along(dim):
        entry = factor.take([place], dim)
        call.coupler.pin(entry, "one entry of the axis is written by its place")
    part = insert_dim(call.value(1), dim)
    return _overwrite(call, base, part, dim, slice(place, place + 1))


def _overwrite(call: OpCall, base: Value, part: Value, dim: int, where: slice) -> Value:
    """Unite a part with the places of ``base`` that it takes."""
    merge(call.coupler, [take(call.coupler, base, dim, where, part.shape), part], part.shape)
    across = tuple(factor for factor in part.factors if factor.shape[dim] == 1)
    beside = Value(tuple(1 if k == dim else n for k, n in enumerate(part.shape)), across)
    return Value(call.shape, merge(call.coupler, [base, beside], call.shape).factors)


@rewrite("aten.slice_scatter.default")
def rewrite_slice_scatter(resize: Resize) -> None:
    """Move both ends of the range to where its elements are now."""
    before = resize.shape_in(0)
    dim = int(resize.argument(2, 0)) % len(before)
    kept = resize.kept_in(0, dim)
    if kept is None:
        return
    span = range(before[dim])[resize.argument(3) : resize.argument(4) : resize.argument(5, 1)]
    if span.step == 1:
        first, last = (int((kept < end).sum()) for end in (span.start, span.stop))
        range_now = (resize.tensor(0), resize.tensor(1), dim, first, last)
        resize.retarget(torch.ops.aten.slice_scatter.default, range_now)
        return
    places = torch.tensor([k for k, index in enumerate(kept.tolist()) if index in span])
    places_now = (resize.tensor(0), dim, resize.constant(places), resize.tensor(1))
    resize.retarget(torch.ops.aten.index_copy.default, places_now)


@rewrite("aten.select_scatter.default")
def rewrite_select_scatter(resize: Resize) -> None:
    """Move the index to where its (pinned) entry is now."""
    before = resize.shape_in(0)
    dim = int(resize.argument(2)) % len(before)
    kept = resize.kept_in(0, dim)
    if kept is not None:
        resize.set(3, int((kept < int(resize.argument(3)) % before[dim]).sum()))
