"""Convolutions: input channels are consumed, output channels produced, groups kept whole.

A grouped convolution shrinks in one of two ways. Where a group has one channel, or there are at
least as many groups as channels in each, whole groups go: they pass their channels on. Otherwise
every group loses the same columns, so that all groups stay equally wide.
"""

from __future__ import annotations

from graphprune.labels.algebra import merge_shifted
from graphprune.labels.value import Factor, Value, varying
from graphprune.ops.registry import OpCall, UnsupportedCall, rewrite, rule
from graphprune.ops.resize import Resize

_CONVOLUTIONS = ("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
_PADDED = ("aten.conv1d.padding", "aten.conv2d.padding", "aten.conv3d.padding")
_TRANSPOSED = (
    "aten.conv_transpose1d.default",
    "aten.conv_transpose2d.input",
    "aten.conv_transpose3d.input",
)


@rule(*_CONVOLUTIONS, *_PADDED)
def convolution(call: OpCall) -> Value:
    """Convolution with weight (out, in / groups, kernel...)."""
    return _convolve(call, groups=int(call.get(6, 1)), produced=0)


@rule(*_TRANSPOSED)
def transposed_convolution(call: OpCall) -> Value:
    """Transposed convolution with weight (in, out / groups, kernel...)."""
    groups = int(call.get(6, 1))
    if groups > 1:
        raise UnsupportedCall("grouped transposed convolution")
    return _convolve(call, groups=1, produced=1)


def _convolve(call: OpCall, *, groups: int, produced: int) -> Value:
    coupler = call.coupler
    inputs, weight, bias = call.value(0), call.value(1), call.optional(2)
    if inputs.rank != weight.rank:
        raise UnsupportedCall("convolution of an unbatched input")
    channels, passed = _input_channels(call, inputs)
    out, consumed = _weight_axes(call, weight, produced)
    if groups == 1:
        coupler.gate((0,), 1)
        _consume(call, channels, consumed)
        for factor in out:
            coupler.produce(factor)
    elif whole_groups_go(inputs.shape[1], groups):
        out = _pass_groups(call, channels, out, consumed, groups)
    else:
        out = _drop_columns(call, channels, out, consumed, groups)
    rank = len(call.shape)
    shaped = tuple(
        factor.reshape([factor.size if dim == 1 else 1 for dim in range(rank)]) for factor in out
    )
    result = Value(call.shape, passed + shaped)
    return result if bias is None else merge_shifted(coupler, result, [bias], 1)


def whole_groups_go(channels: int, groups: int) -> bool:
    """Whether a grouped convolution loses whole groups rather than a column of each."""
    width = channels // groups
    return width == 1 or groups >= width


def _input_channels(call: OpCall, inputs: Value) -> tuple[list[Factor], tuple[Factor, ...]]:
    """Split the input's factors into channel vectors and those that pass along the batch."""
    channels, passed = [], []
    for factor in inputs.factors:
        if factor.shape[1] > 1:
            whole = factor
            for dim in (0, *range(2, inputs.rank)):
                whole = call.coupler.collapse(whole, dim)
            channels.append(whole.reshape(-1))
        elif varying(factor) == (0,):
            passed.append(factor)
        else:
            call.coupler.pin(factor, "positions that a convolution mixes")
    for other in channels[1:]:
        call.coupler.unite(channels[0], other)
    return channels[:1], tuple(passed)


def _weight_axes(call: OpCall, weight: Value, produced: int) -> tuple[list[Factor], list[Factor]]:
    """Return the weight's output and input vectors; a kernel's window is pinned."""
    out: list[Factor] = []
    consumed: list[Factor] = []
    for factor in weight.factors:
        dims = varying(factor)
        side = out if produced in dims else consumed if 1 - produced in dims else None
        if side is None or len(dims) > 1:
            call.coupler.pin(factor, "the window of a convolution")
        if side is not None and len(dims) == 1:
            side.append(factor.reshape(-1))
    for vectors in (out, consumed):
        for other in vectors[1:]:
            call.coupler.unite(vectors[0], other)
    return out[:1], consumed[:1]


def _consume(call: OpCall, channels: list[Factor], consumed: list[Factor]) -> None:
    for factor in consumed:
        call.coupler.consume(factor)
    if channels and consumed:
        call.coupler.unite(channels[0], consumed[0])
        return
    for factor in channels + consumed:
        call.coupler.pin(factor, "consumed by an axis of fixed size")


def _pass_groups(
    call: OpCall,
    channels: list[Factor],
    out: list[Factor],
    consumed: list[Factor],
    groups: int,
) -> list[Factor]:
    """Whole groups go: a group's inputs and outputs exist together."""
    for factor in consumed:
        call.coupler.pin(factor, "inputs of one group of a grouped convolution")
    heads = [
        call.coupler.collapse(factor.reshape(groups, -1), 1)[:, 0] for factor in channels + out
    ]
    if len(heads) == 2:
        call.coupler.unite(heads[0], heads[1])
    else:
        for factor in channels + out:
            call.coupler.pin(factor, "groups fed by an axis of fixed size")
    return out


def _drop_columns(
    call: OpCall,
    channels: list[Factor],
    out: list[Factor],
    consumed: list[Factor],
    groups: int,
) -> list[Factor]:
    """Every group loses the same columns, so all groups stay equally wide."""
    coupler = call.coupler
    coupler.gate((0,), 1)
    columns = [coupler.collapse(factor.reshape(groups, -1), 0)[0] for factor in channels]
    _consume(call, columns, consumed)
    for factor in out:
        if factor.size > groups:
            coupler.collapse(factor.reshape(groups, -1), 0)
            coupler.produce(factor)
        else:
            coupler.pin(factor, "one output of each group of a grouped convolution")
    return out


@rewrite(*_CONVOLUTIONS, *_PADDED)
def rewrite_groups(resize: Resize) -> None:
    """Set ``groups`` to what the shrunk input and weight say."""
    groups = int(resize.argument(6, 1))
    if groups == 1:
        return
    inputs, width = resize.kept_in(0, 1), resize.kept_in(1, 1)
    channels = resize.shape_in(0)[1] if inputs is None else len(inputs)
    per_group = resize.shape_in(1)[1] if width is None else len(width)
    if channels // per_group != groups:
        resize.set(6, channels // per_group)
