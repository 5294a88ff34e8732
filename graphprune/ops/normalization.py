"""Normalisations: parameters follow the axis; statistics over it count only what is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graphprune.labels.algebra import merge, merge_shifted
from graphprune.labels.value import Value
from graphprune.ops.convolution import whole_groups_go
from graphprune.ops.kept import Dims, kept_mean, kept_variance
from graphprune.ops.registry import OpCall, UnsupportedCall, rewrite, rule
from graphprune.ops.resize import Resize

# ---- batch and instance norm --------------------------------------------------------------------


@rule("aten.batch_norm.default")
def batch_norm(call: OpCall) -> Value:
    """Batch norm: weight, bias and running statistics follow the channels.

    Without running statistics every channel is averaged over all other dims; weights are
    standardised that way, and there the inputs that remain are the ones that count.
    """
    if call.get(5) and call.optional(3) is not None:
        _pin_averaged(call, range(1, 2))
    elif call.get(5):
        _count_kept(call, float(call.get(7)), _first)
    return merge_shifted(call.coupler, call.value(0), _present(call, 1, 2, 3, 4), 1)


@rule("aten._native_batch_norm_legit_no_training.default")
def native_batch_norm(call: OpCall) -> tuple[Value, ...]:
    """Batch norm of a decomposed graph, by running statistics."""
    merged = merge_shifted(call.coupler, call.value(0), _present(call, 1, 2, 3, 4), 1)
    return _with_moments(call, merged)


@rule("aten._native_batch_norm_legit.no_stats")
def native_batch_norm_alone(call: OpCall) -> tuple[Value, ...]:
    """Norm by the statistics of what enters, which instance norms decompose into."""
    _count_kept(call, float(call.get(5)), _and_nothing(call))
    merged = merge_shifted(call.coupler, call.value(0), _present(call, 1, 2), 1)
    return _with_moments(call, merged)


@rule("aten.instance_norm.default")
def instance_norm(call: OpCall) -> Value:
    """Instance norm: every channel on its own."""
    _pin_averaged(call, range(2))
    return merge_shifted(call.coupler, call.value(0), _present(call, 1, 2, 3, 4), 1)


def _pin_averaged(call: OpCall, passing: range) -> None:
    value = call.value(0)
    for dim in range(value.rank):
        for factor in value.along(dim) if dim not in passing else ():
            call.coupler.pin(factor, "positions that a norm averages over")


def _count_kept(call: OpCall, eps: float, packed: _Packing) -> None:
    """Report a norm of every channel by the mean and variance of its kept elements."""
    dims = tuple(dim for dim in range(call.value(0).rank) if dim != 1)

    def masked_batch_norm(
        mask: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, *_: Any
    ) -> Any:
        return packed(_affine(_normal(x, mask, dims, eps), weight, bias, dim=1))

    call.coupler.statistic((0,), dims, masked_batch_norm)


# ---- layer norm ---------------------------------------------------------------------------------


@rule("aten.layer_norm.default")
def layer_norm(call: OpCall) -> Value:
    """Layer norm: mean and variance over the last dims."""
    return _layer_norm(call, _first)


@rule("aten.native_layer_norm.default")
def native_layer_norm(call: OpCall) -> tuple[Value, ...]:
    """Layer norm of a decomposed graph."""
    return _with_moments(call, _layer_norm(call, _and_nothing(call)))


def _layer_norm(call: OpCall, packed: _Packing) -> Value:
    dims, eps = _last_dims(call), float(call.get(4))
    along = call.from_end(dims)

    def masked_layer_norm(
        mask: Tensor, x: Tensor, _: Any, weight: Tensor | None, bias: Tensor | None, *__: Any
    ) -> Any:
        return packed(_affine(_normal(x, mask, along, eps), weight, bias))

    call.coupler.statistic((0,), dims, masked_layer_norm)
    return merge(call.coupler, [call.value(0), *_present(call, 2, 3)], call.shape)


@rule("aten.rms_norm.default")
def rms_norm(call: OpCall) -> Value:
    """RMS norm: mean square over the last dims."""
    return _rms_norm(call, _first)


@rule("aten._fused_rms_norm.default")
def fused_rms_norm(call: OpCall) -> tuple[Value, ...]:
    """RMS norm of a decomposed graph."""
    return _with_moments(call, _rms_norm(call, _and_nothing(call)))


def _rms_norm(call: OpCall, packed: _Packing) -> Value:
    dims, eps = _last_dims(call), call.get(3)
    along = call.from_end(dims)

    def masked_rms_norm(mask: Tensor, x: Tensor, _: Any, weight: Tensor | None, *__: Any) -> Any:
        epsilon = torch.finfo(x.dtype).eps if eps is None else eps
        scaled = x * torch.rsqrt(kept_mean(x.square(), mask, along) + epsilon)
        return packed(_affine(scaled, weight, None))

    call.coupler.statistic((0,), dims, masked_rms_norm)
    return merge(call.coupler, [call.value(0), *_present(call, 2)], call.shape)


def _last_dims(call: OpCall) -> tuple[int, ...]:
    rank = len(call.shape)
    return tuple(range(rank - len(call.get(1)), rank))


@rewrite(
    "aten.layer_norm.default",
    "aten.native_layer_norm.default",
    "aten.rms_norm.default",
    "aten._fused_rms_norm.default",
)
def rewrite_normalized_shape(resize: Resize) -> None:
    """Write the sizes that remain into ``normalized_shape``."""
    sizes, rank = list(resize.argument(1)), len(resize.shape_in(0))
    for place in range(len(sizes)):
        kept = resize.kept_in(0, rank - len(sizes) + place)
        if kept is not None:
            sizes[place] = len(kept)
    resize.set(1, sizes)


# ---- group norm ---------------------------------------------------------------------------------


@rule("aten.group_norm.default")
def group_norm(call: OpCall) -> Value:
    """Group norm: whole groups go, or every group loses the same columns.

    The choice is that of grouped convolutions, which keeps more units.
    """
    return _group_norm(call, int(call.get(1)), (2, 3), _first)


@rule("aten.native_group_norm.default")
def native_group_norm(call: OpCall) -> tuple[Value, ...]:
    """Group norm of a decomposed graph."""
    merged = _group_norm(call, int(call.get(6)), (1, 2), _and_nothing(call))
    return _with_moments(call, merged)


def _group_norm(call: OpCall, groups: int, affine: tuple[int, int], packed: _Packing) -> Value:
    value = call.value(0)
    whole = whole_groups_go(value.shape[1], groups)
    merged = merge_shifted(call.coupler, value, _present(call, *affine), 1)
    for factor in merged.along(1):
        channels = factor
        for dim in (0, *range(2, value.rank)):
            channels = call.coupler.collapse(channels, dim)
        call.coupler.collapse(channels.reshape(groups, -1), 1 if whole else 0)
    eps = float(call.named("eps"))

    def masked_group_norm(mask: Tensor, x: Tensor, *others: Any) -> Any:
        weight, bias = (others[place - 1] for place in affine)
        grouped = x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)
        kept = mask.reshape(mask.shape[0], groups, x.shape[1] // groups, 1)
        normal = _normal(grouped, kept, (2, 3), eps).reshape(x.shape)
        return packed(_affine(normal, weight, bias, dim=1))

    call.coupler.statistic((0,), (1,), masked_group_norm)
    return merged


@rewrite("aten.group_norm.default")
def rewrite_group_count(resize: Resize) -> None:
    """Count the groups that remain."""
    _count_groups(resize, 1)


@rewrite("aten.native_group_norm.default")
def rewrite_channel_and_group_count(resize: Resize) -> None:
    """Count the channels and groups that remain."""
    kept = resize.kept_in(0, 1)
    if kept is not None:
        resize.set(4, len(kept))
    _count_groups(resize, 6)


def _count_groups(resize: Resize, position: int) -> None:
    channels, groups = resize.shape_in(0)[1], int(resize.argument(position))
    kept = resize.kept_in(0, 1)
    if kept is not None and whole_groups_go(channels, groups):
        resize.set(position, len(kept) * groups // channels)


# ---- shared -------------------------------------------------------------------------------------

_Packing = Callable[[Tensor], Any]
"""Turns a kernel's tensor into what its op returns."""


def _first(made: Tensor) -> Tensor:
    """An op that returns one tensor."""
    return made


def _and_nothing(call: OpCall) -> _Packing:
    """An op that also returns moments, which nothing reads."""
    count = len(call.shapes) - 1

    def packed(made: Tensor) -> tuple[Tensor, ...]:
        return (made, *[made.new_zeros(0)] * count)

    return packed


def _with_moments(call: OpCall, merged: Value) -> tuple[Value, ...]:
    if any(call.read[1:]):
        raise UnsupportedCall("its mean or variance is used")
    return (merged, *map(Value, call.shapes[1:]))


def _present(call: OpCall, *positions: int) -> list[Value]:
    found = (call.optional(position) for position in positions)
    return [value for value in found if value is not None]


def _normal(x: Tensor, mask: Tensor, dims: Dims, eps: float) -> Tensor:
    """Subtract the mean and divide by the root of the variance of the kept elements."""
    variance, mean = kept_variance(x, mask, dims, 0)
    return (x - mean) * torch.rsqrt(variance + eps)


def _affine(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, dim: int | None = None
) -> Tensor:
    """Scale and shift by parameters that lie along ``dim``, or along the last dims."""

    def placed(parameter: Tensor) -> Tensor:
        if dim is None:
            return parameter
        return parameter.reshape([-1 if k == dim else 1 for k in range(x.dim())])

    scaled = x if weight is None else x * placed(weight)
    return scaled if bias is None else scaled + placed(bias)
