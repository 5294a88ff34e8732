"""Ops that work on positions, channel by channel: pooling, resampling, pixel shuffles."""

from __future__ import annotations

from graphprune.labels.algebra import merge, take
from graphprune.labels.value import Value, permute, reshape, varying
from graphprune.ops.registry import OpCall, Result, UnsupportedCall, rule

_POOLS_1D = """
    max_pool1d.default avg_pool1d.default adaptive_avg_pool1d.default adaptive_max_pool1d.default
    upsample_nearest1d.default upsample_nearest1d.vec upsample_linear1d.default
    upsample_linear1d.vec reflection_pad1d.default replication_pad1d.default
"""

_POOLS_2D = """
    max_pool2d.default max_pool2d_with_indices.default avg_pool2d.default
    adaptive_avg_pool2d.default adaptive_max_pool2d.default
    upsample_nearest2d.default upsample_nearest2d.vec upsample_bilinear2d.default
    upsample_bilinear2d.vec upsample_bicubic2d.default upsample_bicubic2d.vec
    _upsample_nearest_exact2d.default _upsample_nearest_exact2d.vec
    _upsample_bilinear2d_aa.default _upsample_bilinear2d_aa.vec _upsample_bicubic2d_aa.vec
    reflection_pad2d.default replication_pad2d.default
"""

_POOLS_3D = """
    max_pool3d.default max_pool3d_with_indices.default avg_pool3d.default
    adaptive_avg_pool3d.default adaptive_max_pool3d.default
    upsample_nearest3d.default upsample_nearest3d.vec upsample_trilinear3d.default
    upsample_trilinear3d.vec reflection_pad3d.default replication_pad3d.default
"""


def _overloads(names: str) -> list[str]:
    return [f"aten.{name}" for name in names.split()]


@rule(*_overloads(_POOLS_1D))
def pooling_1d(call: OpCall) -> Result:
    """Positions along the last dim are mixed within a channel."""
    return _mix_last(call, 1)


@rule(*_overloads(_POOLS_2D))
def pooling_2d(call: OpCall) -> Result:
    """Positions along the last two dims are mixed within a channel."""
    return _mix_last(call, 2)


@rule(*_overloads(_POOLS_3D))
def pooling_3d(call: OpCall) -> Result:
    """Positions along the last three dims are mixed within a channel."""
    return _mix_last(call, 3)


def _mix_last(call: OpCall, count: int) -> Result:
    """Pin positions, pass the rest (channels; also the batch, where the input has one)."""
    value = call.value(0)
    factors = []
    for factor in value.factors:
        spatial = [dim for dim in varying(factor) if dim >= value.rank - count]
        passed = factor
        for dim in spatial:
            passed = call.coupler.collapse(passed, dim)
        if passed.size > 1:
            factors.append(passed)
        else:
            call.coupler.pin(factor, "positions that a pooling or resampling op mixes")
    results = tuple(Value(shape, tuple(factors)) for shape in call.shapes)
    return results[0] if len(results) == 1 else results


@rule("aten.pixel_shuffle.default")
def pixel_shuffle(call: OpCall) -> Value:
    """Channels become positions: the block behind one output channel exists together."""
    value, factor = call.value(0), int(call.get(1))
    batch, channels, height, width = _image(value)
    blocks = (batch, channels // factor**2, factor, factor, height, width)
    shuffled = permute(_united_blocks(call, reshape(value, blocks), (2, 3)), (0, 1, 4, 2, 5, 3))
    return reshape(shuffled, call.shape)


@rule("aten.pixel_unshuffle.default")
def pixel_unshuffle(call: OpCall) -> Value:
    """Positions become channels: the block that comes of one channel exists together."""
    value, factor = call.value(0), int(call.get(1))
    batch, channels, height, width = _image(value)
    split = (batch, channels, height // factor, factor, width // factor, factor)
    shuffled = permute(reshape(value, split), (0, 1, 3, 5, 2, 4))
    # Broadcasting first: a channel's atom is spread over its block of output channels.
    return reshape(shuffled, call.shape)


def _image(value: Value) -> tuple[int, int, int, int]:
    if value.rank != 4:
        raise UnsupportedCall(f"tensor of rank {value.rank}, an image has 4")
    batch, channels, height, width = value.shape
    return batch, channels, height, width


def _united_blocks(call: OpCall, value: Value, dims: tuple[int, ...]) -> Value:
    factors = []
    for factor in value.factors:
        united = factor
        for dim in dims:
            united = call.coupler.collapse(united, dim)
        if united.size > 1:
            factors.append(united)
        else:
            call.coupler.pin(factor, "one block fills the whole axis")
    return Value(value.shape, tuple(factors))


@rule("aten.glu.default")
def glu(call: OpCall) -> Value:
    """Gated linear unit: both halves exist together."""
    value = call.value(0)
    dim = int(call.get(1, -1)) % value.rank
    half = value.shape[dim] // 2
    parts = [
        take(call.coupler, value, dim, slice(start, start + half), call.shape)
        for start in (0, half)
    ]
    return merge(call.coupler, parts, call.shape)
