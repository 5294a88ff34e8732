"""Normalisations: parameters follow the axis; statistics over it count only what is kept."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphprune.labels.algebra import merge, merge_shifted
from graphprune.labels.value import Value
from graphprune.ops.convolution import whole_groups_go
from graphprune.ops.registry import OpCall, rewrite, rule
from graphprune.ops.resize import Resize


@rule("aten.batch_norm.default")
def batch_norm(call: OpCall) -> Value:
    """Batch norm: weight, bias and running statistics follow the channels.

    Without running statistics every channel is averaged over all other dims; weights are
    standardised that way, and there the inputs that remain are the ones that count.
    """
    if call.get(5) and call.optional(3) is not None:
        _pin_averaged(call, range(1, 2))
    elif call.get(5):
        others = tuple(dim for dim in range(call.value(0).rank) if dim != 1)
        call.coupler.statistic((0,), others, masked_batch_norm)
    followers = [value for value in (call.optional(k) for k in (1, 2, 3, 4)) if value]
    return merge_shifted(call.coupler, call.value(0), followers, 1)


@rule("aten.instance_norm.default")
def instance_norm(call: OpCall) -> Value:
    """Instance norm: every channel on its own."""
    _pin_averaged(call, range(2))
    followers = [found for found in (call.optional(k) for k in (1, 2, 3, 4)) if found]
    return merge_shifted(call.coupler, call.value(0), followers, 1)


def _pin_averaged(call: OpCall, passing: range) -> None:
    value = call.value(0)
    for dim in range(value.rank):
        for factor in value.along(dim) if dim not in passing else ():
            call.coupler.pin(factor, "positions that a norm averages over")


def masked_batch_norm(
    mask: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *others: Any,
) -> Tensor:
    """Batch norm by the mean and variance of kept elements.

    ``others`` are running mean and variance (none), the training flag, momentum and epsilon.
    """
    eps = float(others[4])
    dims = [dim for dim in range(x.dim()) if dim != 1]
    mean = kept_mean(x, mask, dims)
    variance = kept_mean((x - mean).square(), mask, dims)
    column = (1, -1) + (1,) * (x.dim() - 2)
    return _affine(
        (x - mean) * torch.rsqrt(variance + eps),
        None if weight is None else weight.reshape(column),
        None if bias is None else bias.reshape(column),
    )


# ---- layer norm ---------------------------------------------------------------------------------


@rule("aten.layer_norm.default")
def layer_norm(call: OpCall) -> Value:
    """Layer norm: mean and variance over the last dims."""
    followers = [value for value in (call.optional(2), call.optional(3)) if value]
    dims = _last_dims(call, len(call.get(1)))
    call.coupler.statistic((0,), dims, masked_layer_norm)
    return merge(call.coupler, [call.value(0), *followers], call.shape)


@rule("aten.rms_norm.default")
def rms_norm(call: OpCall) -> Value:
    """RMS norm: mean square over the last dims."""
    followers = [value for value in (call.optional(2),) if value]
    dims = _last_dims(call, len(call.get(1)))
    call.coupler.statistic((0,), dims, masked_rms_norm)
    return merge(call.coupler, [call.value(0), *followers], call.shape)


def _last_dims(call: OpCall, count: int) -> tuple[int, ...]:
    rank = len(call.shape)
    return tuple(range(rank - count, rank))


@rewrite("aten.layer_norm.default", "aten.rms_norm.default")
def rewrite_normalized_shape(resize: Resize) -> None:
    """Write the sizes that remain into ``normalized_shape``."""
    sizes, rank = list(resize.argument(1)), len(resize.shape())
    for place in range(len(sizes)):
        kept = resize.kept(rank - len(sizes) + place)
        if kept is not None:
            sizes[place] = len(kept)
    resize.set(1, sizes)


def masked_layer_norm(
    mask: Tensor,
    x: Tensor,
    shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    """Layer norm whose mean and variance count kept elements only (``mask`` 1 or 0)."""
    dims = list(range(x.dim() - len(shape), x.dim()))
    mean = kept_mean(x, mask, dims)
    variance = kept_mean((x - mean).square(), mask, dims)
    return _affine((x - mean) * torch.rsqrt(variance + eps), weight, bias)


def masked_rms_norm(
    mask: Tensor,
    x: Tensor,
    shape: list[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *_: Any,
) -> Tensor:
    """RMS norm whose mean square counts kept elements only."""
    dims = list(range(x.dim() - len(shape), x.dim()))
    epsilon = torch.finfo(x.dtype).eps if eps is None else eps
    scaled = x * torch.rsqrt(kept_mean(x.square(), mask, dims) + epsilon)
    return _affine(scaled, weight, None)


# ---- group norm ---------------------------------------------------------------------------------


@rule("aten.group_norm.default")
def group_norm(call: OpCall) -> Value:
    """Group norm: whole groups go, or every group loses the same columns.

    The choice is that of grouped convolutions, which keeps more units.
    """
    value, groups = call.value(0), int(call.get(1))
    whole = whole_groups_go(value.shape[1], groups)
    followers = [found for found in (call.optional(2), call.optional(3)) if found]
    merged = merge_shifted(call.coupler, value, followers, 1)
    for factor in merged.along(1):
        channels = factor
        for dim in (0, *range(2, value.rank)):
            channels = call.coupler.collapse(channels, dim)
        call.coupler.collapse(channels.reshape(groups, -1), 1 if whole else 0)
    call.coupler.statistic((0,), (1,), masked_group_norm)
    return merged


@rewrite("aten.group_norm.default")
def rewrite_group_count(resize: Resize) -> None:
    """Count the groups that remain."""
    channels, groups = resize.shape_in(0)[1], int(resize.argument(1))
    kept = resize.kept_in(0, 1)
    if kept is not None and whole_groups_go(channels, groups):
        resize.set(1, len(kept) * groups // channels)


def masked_group_norm(
    mask: Tensor,
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    """Group norm whose statistics count kept channels only."""
    grouped = x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)
    kept = mask.reshape(mask.shape[0], groups, x.shape[1] // groups, 1)
    mean = kept_mean(grouped, kept, [2, 3])
    variance = kept_mean((grouped - mean).square(), kept, [2, 3])
    normal = ((grouped - mean) * torch.rsqrt(variance + eps)).reshape(x.shape)
    column = (1, -1) + (1,) * (x.dim() - 2)
    return _affine(
        normal,
        None if weight is None else weight.reshape(column),
        None if bias is None else bias.reshape(column),
    )


# ---- softmax ------------------------------------------------------------------------------------


@rule("aten.softmax.int")
def softmax(call: OpCall) -> Value:
    """Softmax: absent entries count as minus infinity."""
    value = call.value(0)
    call.coupler.statistic((0,), (int(call.get(1)) % value.rank,), masked_softmax)
    return call.like(value)


@rule("aten.log_softmax.int")
def log_softmax(call: OpCall) -> Value:
    """Logarithm of the softmax."""
    value = call.value(0)
    call.coupler.statistic((0,), (int(call.get(1)) % value.rank,), masked_log_softmax)
    return call.like(value)


def masked_softmax(mask: Tensor, x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax over kept entries only; where none is kept, nothing reads what it returns."""
    absent = (mask == 0) & (mask != 0).any(dim, keepdim=True)
    return F.softmax(x.masked_fill(absent, -torch.inf), dim, dtype=dtype)


def masked_log_softmax(
    mask: Tensor, x: Tensor, dim: int, dtype: torch.dtype | None = None
) -> Tensor:
    """Logarithm of the softmax over kept entries only; absent entries read 0."""
    absent = (mask == 0) & (mask != 0).any(dim, keepdim=True)
    logs = F.log_softmax(x.masked_fill(absent, -torch.inf), dim, dtype=dtype)
    return logs.masked_fill(mask == 0, 0.0)


# ---- shared -------------------------------------------------------------------------------------


def kept_mean(x: Tensor, mask: Tensor, dims: list[int]) -> Tensor:
    """Mean over ``dims`` of the elements that ``mask`` keeps (dims stay, at size 1)."""
    weights = mask.to(x.dtype).expand_as(x)
    # Where nothing is kept (an absent group of a group norm) the mean is 0, not undefined.
    count = weights.sum(dims, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return (x * weights).sum(dims, keepdim=True) / count


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scaled = x if weight is None else x * weight
    return scaled if bias is None else scaled + bias
