"""Ops that work on positions, channel by channel: pooling, resampling, windows, pixel shuffles."""

from __future__ import annotations

import numpy as np

from graphprune.labels.algebra import merge, take
from graphprune.labels.value import Value, permute, reshape
from graphprune.ops.passing import across
from graphprune.ops.registry import OpCall, Result, rule

_MIXED = "positions that a pooling or resampling op mixes"

_POOLS_1D = """
    max_pool1d.default max_pool1d_with_indices.default avg_pool1d.default
    adaptive_avg_pool1d.default adaptive_max_pool1d.default
    upsample_nearest1d.default upsample_nearest1d.vec upsample_linear1d.default
    upsample_linear1d.vec _upsample_nearest_exact1d.default _upsample_nearest_exact1d.vec
    reflection_pad1d.default replication_pad1d.default
"""

_POOLS_2D = """
    max_pool2d.default max_pool2d_with_indices.default avg_pool2d.default
    adaptive_avg_pool2d.default _adaptive_avg_pool2d.default adaptive_max_pool2d.default
    upsample_nearest2d.default upsample_nearest2d.vec upsample_bilinear2d.default
    upsample_bilinear2d.vec upsample_bicubic2d.default upsample_bicubic2d.vec
    _upsample_nearest_exact2d.default _upsample_nearest_exact2d.vec
    _upsample_bilinear2d_aa.default _upsample_bilinear2d_aa.vec
    _upsample_bicubic2d_aa.default _upsample_bicubic2d_aa.vec
    reflection_pad2d.default replication_pad2d.default
"""

_POOLS_3D = """
    max_pool3d.default max_pool3d_with_indices.default avg_pool3d.default
    adaptive_avg_pool3d.default _adaptive_avg_pool3d.default adaptive_max_pool3d.default
    upsample_nearest3d.default upsample_nearest3d.vec upsample_trilinear3d.default
    upsample_trilinear3d.vec _upsample_nearest_exact3d.default _upsample_nearest_exact3d.vec
    reflection_pad3d.default replication_pad3d.default
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
    passed = across(call, value, range(value.rank - count, value.rank), _MIXED)
    results = tuple(Value(shape, passed) for shape in call.shapes)
    return results[0] if len(results) == 1 else results


@rule("aten.max_unpool2d.default")
def unpooling_2d(call: OpCall) -> Value:
    """Put maxima back at the places given for each channel."""
    return _unpool(call, 2)


@rule("aten.max_unpool3d.default")
def unpooling_3d(call: OpCall) -> Value:
    """Put maxima back at the places given for each channel."""
    return _unpool(call, 3)


def _unpool(call: OpCall, count: int) -> Value:
    value, places = call.value(0), call.value(1)
    merged = merge(call.coupler, [value, places], value.shape)
    return Value(call.shape, across(call, merged, range(value.rank - count, value.rank), _MIXED))


@rule("aten.grid_sampler.default", "aten.grid_sampler_2d.default", "aten.grid_sampler_3d.default")
def sampling_grid(call: OpCall) -> Value:
    """Read positions that a grid names: channels pass."""
    value, grid = call.value(0), call.value(1)
    for factor in grid.factors:
        call.coupler.pin(factor, "positions at which an image is sampled")
    return Value(call.shape, across(call, value, range(2, value.rank), _MIXED))


@rule("aten.affine_grid_generator.default")
def making_grid(call: OpCall) -> Value:
    """Positions made of a matrix, which stays."""
    call.coupler.pin_value(call.value(0), "a matrix that makes positions")
    return Value(call.shape)


# ---- windows and blocks -------------------------------------------------------------------------


@rule("aten.im2col.default")
def unfolding(call: OpCall) -> Value:
    """Windows become rows: those of one channel exist together."""
    value = call.value(0)
    dim = value.rank - 3
    passed = across(call, value, (dim + 1, dim + 2), "positions cut into windows")
    flat = [factor[..., 0] for factor in passed]
    count = call.shape[dim] // value.shape[dim]
    rows = (np.repeat(f, count, dim) if f.shape[dim] > 1 else f for f in flat)
    return Value(call.shape, tuple(rows))


@rule("aten.col2im.default")
def folding(call: OpCall) -> Value:
    """Rows become windows, which are added up: those of one channel exist together."""
    value = call.value(0)
    dim = value.rank - 2
    passed = across(call, value, (dim + 1,), "windows that are added up")
    channels = call.shape[dim]
    folded = []
    for factor in passed:
        if factor.shape[dim] > 1:
            windows = factor.reshape(*factor.shape[:dim], channels, -1)
            factor = call.coupler.collapse(windows, dim + 1)  # noqa: PLW2901
        folded.append(factor[..., None])
    return Value(call.shape, tuple(folded))


@rule("aten.pixel_shuffle.default")
def pixel_shuffle(call: OpCall) -> Value:
    """Channels become positions: the block behind one output channel exists together."""
    value, factor = call.value(0), int(call.get(1))
    *batch, channels, height, width = value.shape
    first = len(batch)
    blocks = (*batch, channels // factor**2, factor, factor, height, width)
    united = _united_blocks(call, reshape(value, blocks), (first + 1, first + 2))
    order = (*range(first + 1), first + 3, first + 1, first + 4, first + 2)
    return reshape(permute(united, order), call.shape)


@rule("aten.pixel_unshuffle.default")
def pixel_unshuffle(call: OpCall) -> Value:
    """Positions become channels: the block that comes of one channel exists together."""
    value, factor = call.value(0), int(call.get(1))
    *batch, channels, height, width = value.shape
    first = len(batch)
    split = (*batch, channels, height // factor, factor, width // factor, factor)
    order = (*range(first + 1), first + 2, first + 4, first + 1, first + 3)
    # Broadcasting first: a channel's atom is spread over its block of output channels.
    return reshape(permute(reshape(value, split), order), call.shape)


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
