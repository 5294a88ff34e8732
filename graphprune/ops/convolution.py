"""Convolutions: input channels are consumed, output channels produced, groups kept whole.

A grouped convolution shrinks in one of two ways. Where a group has one channel, or there are at
least as many groups as channels in each, whole groups go: they pass their channels on. Otherwise
every group loses the same columns, so that all groups stay equally wide.

A weight has one axis for all channels of one side, (out, in / groups, kernel...) or, transposed,
(in, out / groups, kernel...); its other axis holds the channels of one group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graphprune.labels.algebra import merge, merge_shifted
from graphprune.labels.value import Factor, Value, drop_dim, insert_dim, varying
from graphprune.ops.passing import across
from graphprune.ops.registry import OpCall, rewrite, rule
from graphprune.ops.resize import Resize

_CONVOLUTIONS = ("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
_PADDED = ("aten.conv1d.padding", "aten.conv2d.padding", "aten.conv3d.padding")
_TRANSPOSED = (
    "aten.conv_transpose1d.default",
    "aten.conv_transpose2d.input",
    "aten.conv_transpose3d.input",
)
_GENERAL = ("aten.convolution.default", "aten._convolution.default")


@rule(*_CONVOLUTIONS, *_PADDED)
def convolution(call: OpCall) -> Value:
    """Convolution with weight (out, in / groups, kernel...)."""
    return _convolve(call, int(call.get(6, 1)), transposed=False)


@rule(*_TRANSPOSED)
def transposed_convolution(call: OpCall) -> Value:
    """Transposed convolution with weight (in, out / groups, kernel...)."""
    return _convolve(call, int(call.get(6, 1)), transposed=True)


@rule(*_GENERAL)
def general_convolution(call: OpCall) -> Value:
    """Either of them, in a decomposed graph."""
    return _convolve(call, int(call.get(8, 1)), transposed=bool(call.get(6)))


Vectors = tuple[Factor, ...]
"""Atoms along one axis: none where it has a fixed size, several where it was flattened."""


@dataclass(frozen=True)
class _Channels:
    """The vectors of atoms that meet in a convolution.

    Args:
        call: The call.
        groups: Number of groups.
        given: All channels of the input.
        across: Axis 0 of the weight, all channels of one side.
        inside: Axis 1 of the weight, the channels of one group of the other side.
        transposed: ``across`` are the inputs, not the outputs.
    """

    call: OpCall
    groups: int
    given: Vectors
    across: Vectors
    inside: Vectors
    transposed: bool


def _convolve(call: OpCall, groups: int, *, transposed: bool) -> Value:
    inputs, weight, bias = call.value(0), call.value(1), call.optional(2)
    alone = inputs.rank < weight.rank
    batched = insert_dim(inputs, 0) if alone else inputs
    if not transposed:
        batched, weight = _contract_windows(call, batched, weight)
    given, passed = _input_channels(call, batched)
    across, inside = _weight_axes(call, weight)
    if groups > 1:
        given, across, inside = (_one(call, vectors) for vectors in (given, across, inside))
    channels = _Channels(call, groups, given, across, inside, transposed)
    if groups > 1 and whole_groups_go(batched.shape[1], groups):
        out = _pass_groups(channels)
    else:
        call.coupler.gate((0,), 1 - weight.rank)
        out = _drop_columns(channels)
    shape = (1, *call.shape) if alone else call.shape
    along = (vector.reshape(1, -1, *[1] * (weight.rank - 2)) for vector in out)
    result = Value(shape, (*passed, *along))
    result = result if bias is None else merge_shifted(call.coupler, result, [bias], 1)
    return drop_dim(result, 0) if alone else result


def _contract_windows(call: OpCall, inputs: Value, weight: Value) -> tuple[Value, Value]:
    """Consume the axes that a window spans whole (of token embeddings, say), and leave them out."""
    padding = call.get(4, [0])
    if isinstance(padding, str) or any(padding):
        return inputs, weight
    for dim in range(2, inputs.rank):
        read, given = _along_only(weight, dim), _along_only(inputs, dim)
        if read and given and inputs.shape[dim] == weight.shape[dim]:
            for factor in (*read[1:], *given):
                call.coupler.unite(factor.reshape(-1), read[0].reshape(-1))
            call.coupler.consume(read[0])
            call.coupler.gate((0,), dim - inputs.rank)
            inputs, weight = _without(inputs, given), _without(weight, read)
    return inputs, weight


def _along_only(value: Value, dim: int) -> list[Factor]:
    return [factor for factor in value.factors if varying(factor) == (dim,)]


def _without(value: Value, gone: list[Factor]) -> Value:
    rest = tuple(f for f in value.factors if all(f is not other for other in gone))
    return replace(value, factors=rest)


def whole_groups_go(channels: int, groups: int) -> bool:
    """Whether a grouped convolution loses whole groups rather than a column of each."""
    width = channels // groups
    return width == 1 or groups >= width


def _input_channels(call: OpCall, inputs: Value) -> tuple[Vectors, Vectors]:
    """Split the input's factors into channel vectors and those that pass across channels."""
    channels, passed = [], []
    for factor in across(call, inputs, _mixed(call, inputs), "positions that a convolution mixes"):
        if factor.shape[1] > 1:
            whole = factor
            for dim in (0, *range(2, inputs.rank)):
                whole = call.coupler.collapse(whole, dim)
            channels.append(whole.reshape(-1))
        else:
            passed.append(factor)
    return tuple(channels), tuple(passed)


def _mixed(call: OpCall, inputs: Value) -> list[int]:
    """Return the dims along which several positions are read at a time, or some are left out."""
    window, after = call.value(1).shape[2:], call.shape[-inputs.rank + 2 :]
    single = set(call.get(3, [1])) == {1}
    return [
        dim
        for dim, size, length in zip(range(2, inputs.rank), window, after, strict=True)
        if not single or size > 1 or length != inputs.shape[dim]
    ]


def _weight_axes(call: OpCall, weight: Value) -> tuple[Vectors, Vectors]:
    """Return the vectors of the weight's axes 0 and 1; a kernel's window is pinned."""
    sides: tuple[list[Factor], list[Factor]] = ([], [])
    for factor in weight.factors:
        dims = varying(factor)
        if len(dims) == 1 and dims[0] < 2:
            sides[dims[0]].append(factor.reshape(-1))
        else:
            call.coupler.pin(factor, "the window of a convolution")
    return tuple(sides[0]), tuple(sides[1])


def _one(call: OpCall, vectors: Vectors) -> Vectors:
    """Make several vectors of one axis the same."""
    for other in vectors[1:]:
        call.coupler.unite(vectors[0], other)
    return vectors[:1]


def _pass_groups(found: _Channels) -> Vectors:
    """Whole groups go: a group's inputs and outputs exist together."""
    coupler, groups = found.call.coupler, found.groups
    for factor in found.inside:
        coupler.pin(factor, "channels of one group of a grouped convolution")
    wide = (*found.given, *found.across)
    heads = [coupler.collapse(factor.reshape(groups, -1), 1)[:, 0] for factor in wide]
    if len(heads) == 2:
        coupler.unite(heads[0], heads[1])
    else:
        for factor in wide:
            coupler.pin(factor, "groups fed by an axis of fixed size")
    if not found.transposed:
        return found.across
    return tuple(np.repeat(head, _width(found.call, groups)) for head in heads[:1])


def _drop_columns(found: _Channels) -> Vectors:
    """Every group loses the same columns, so all groups stay equally wide."""
    if found.transposed:
        out, read = found.inside, _columns(found, found.across)
        produced = tuple(np.tile(vector, found.groups) for vector in out)
    else:
        out, read = _columns(found, found.across), found.inside
        produced = found.across
    _consume(found.call, _columns(found, found.given), read)
    for vector in out:
        if vector.size == 1 < found.groups:
            found.call.coupler.pin(vector, "one output of each group of a grouped convolution")
        else:
            found.call.coupler.produce(vector)
    return produced


def _columns(found: _Channels, vectors: Vectors) -> Vectors:
    """Unite the same columns of all groups; return one atom per column."""
    split = (vector.reshape(found.groups, -1) for vector in vectors)
    return tuple(found.call.coupler.collapse(columns, 0).reshape(-1) for columns in split)


def _consume(call: OpCall, given: Vectors, read: Vectors) -> None:
    for vector in read:
        call.coupler.consume(vector)
    if given and read:
        shape = given[0].shape
        merge(call.coupler, [Value(shape, given), Value(shape, read)], shape)
        return
    for vector in (*given, *read):
        call.coupler.pin(vector, "consumed by an axis of fixed size")


def _width(call: OpCall, groups: int) -> int:
    """Output channels of one group."""
    return call.shape[1 - call.value(1).rank] // groups


@rewrite(*_CONVOLUTIONS, *_PADDED, *_TRANSPOSED)
def rewrite_groups(resize: Resize) -> None:
    """Count the groups that remain."""
    _count_groups(resize, 6)


@rewrite(*_GENERAL)
def rewrite_general_groups(resize: Resize) -> None:
    """Count the groups that remain."""
    _count_groups(resize, 8)


def _count_groups(resize: Resize, position: int) -> None:
    groups = resize.argument(position, 1)
    if not isinstance(groups, int):  # one group a sample: those stay
        return
    dim = len(resize.shape_in(0)) - len(resize.shape_in(1)) + 1
    channels, kept = resize.shape_in(0)[dim], resize.kept_in(0, dim)
    if groups > 1 and kept is not None and whole_groups_go(channels, groups):
        resize.set(position, len(kept) * groups // channels)
