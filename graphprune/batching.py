"""Where every tensor of a graph holds the samples of the batch.

A reshape may fold other dims into the batch, on either side of it: heads *after* the samples as in
``(batch, heads, ...) -> (batch * heads, ...)``, tokens *before* them as in
``(tokens, batch, ...) -> (tokens * batch, ...)``. Masks with one coalition per sample need to know
which, and so do units that live on such a dim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from graphprune.labels.value import Shape, segments

_RESHAPES = (
    "aten.view.default",
    "aten.reshape.default",
    "aten._unsafe_view.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.unsqueeze.default",
    "aten.view_as.default",
    "aten.reshape_as.default",
    "aten.ravel.default",
    "aten.atleast_1d.default",
    "aten.atleast_2d.default",
    "aten.atleast_3d.default",
)
_INTERLEAVE = "aten.repeat_interleave.self_int"
_REPEAT = "aten.repeat.default"


@dataclass(frozen=True, slots=True)
class BatchPlace:
    """Where a tensor holds the samples of a batch.

    Args:
        dim: The dim; its entries are numbered (``outer``, sample, ``repeats``).
        repeats: How many neighbouring entries belong to one sample.
        outer: How often all samples follow each other.
        known: The numbering is known; if not, ``outer`` and ``repeats`` mean nothing.
    """

    dim: int
    repeats: int
    outer: int = 1
    known: bool = True

    def length(self, batch: int) -> int:
        """Size of the dim for a batch of this size."""
        return self.outer * batch * self.repeats


def batch_places(graph: fx.Graph, batch: int) -> Mapping[str, BatchPlace]:
    """Find the place of the batch in every node's result; nodes without one are left out.

    Args:
        graph: Graph traced with a dynamic batch.
        batch: Batch size that it was traced with.
    """
    places: dict[str, BatchPlace] = {}
    for node in graph.nodes:
        shape, dim = _shape_and_dim(node)
        if shape is None or dim is None:
            continue
        if node.op == "placeholder":
            places[node.name] = BatchPlace(dim, shape[dim] // batch)
        elif str(node.target) in _RESHAPES:
            places[node.name] = _reshaped(node, shape, dim, places, batch)
        elif str(node.target) == _REPEAT and node.all_input_nodes[0].name not in places:
            places[node.name] = _copied(node, shape, dim, batch)
        else:
            places[node.name] = _inherited(node, shape[dim], dim, places, batch)
    return places


def _size(size: Any) -> int:
    return size if isinstance(size, int) else int(size.node.hint)


def _shape_and_dim(node: fx.Node) -> tuple[Shape | None, int | None]:
    """Return the shape of a node's (first) result, and its first dim of symbolic size."""
    made = node.meta.get("val")
    if isinstance(made, (list, tuple)) and made:
        made = made[0]
    if not isinstance(made, torch.Tensor):
        return None, None
    dims = [dim for dim, size in enumerate(made.shape) if isinstance(size, torch.SymInt)]
    return tuple(_size(size) for size in made.shape), dims[0] if dims else None


def _reshaped(
    node: fx.Node, new: Shape, dim: int, places: Mapping[str, BatchPlace], batch: int
) -> BatchPlace:
    source = node.all_input_nodes[0]
    old, _ = _shape_and_dim(source)
    place = places.get(source.name)
    if old is None or place is None or not place.known:
        return _assumed(dim, new[dim], batch)
    run = next(run for run in segments(old, new) if place.dim in run.old)
    if dim not in run.new:
        return BatchPlace(dim, 0, known=False)
    before = place.outer * math.prod(old[run.old.start : place.dim])
    after = place.repeats * math.prod(old[place.dim + 1 : run.old.stop])
    outer, rest = divmod(before, math.prod(new[run.new.start : dim]))
    repeats, more = divmod(after, math.prod(new[dim + 1 : run.new.stop]))
    fits = not rest and not more and outer * batch * repeats == new[dim]
    return BatchPlace(dim, repeats, outer, known=fits)


def _copied(node: fx.Node, shape: Shape, dim: int, batch: int) -> BatchPlace:
    """Number one copy for every sample of a tensor that has no batch of its own."""
    before, _ = _shape_and_dim(node.all_input_nodes[0])
    from_end = dim - len(shape)
    length = before[from_end] if before is not None and -from_end <= len(before) else 1
    return BatchPlace(dim, length, known=length * batch == shape[dim])


def _inherited(
    node: fx.Node, size: int, dim: int, places: Mapping[str, BatchPlace], batch: int
) -> BatchPlace:
    """Take the numbering of the inputs, which an op that does not reshape leaves as it is."""
    given = [places[s.name] for s in node.all_input_nodes if s.name in places]
    given = [place for place in given if place.known]
    equal = {(place.outer, place.repeats) for place in given if place.length(batch) == size}
    if len(equal) == 1:
        outer, repeats = equal.pop()
        return BatchPlace(dim, repeats, outer)
    if equal or not given or str(node.target) == _INTERLEAVE:
        return _assumed(dim, size, batch)
    # Joined, repeated or cut along the batch: whole runs of all samples come or go.
    repeats = given[0].repeats
    outer, rest = divmod(size, batch * repeats)
    alike = all(place.repeats == repeats for place in given)
    return BatchPlace(dim, repeats, outer, known=alike and not rest)


def _assumed(dim: int, size: int, batch: int) -> BatchPlace:
    """One entry a sample, or nothing is known."""
    return BatchPlace(dim, 1, known=size == batch)
