"""Reductions: sums want zeros, means and maxima count only what is kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphprune.labels.algebra import reduce
from graphprune.labels.value import Value
from graphprune.ops.normalization import kept_mean
from graphprune.ops.registry import OpCall, rule


@rule("aten.sum.dim_IntList", "aten.sum.default")
def summing(call: OpCall) -> Value:
    """Sum: absent slices add nothing."""
    value = call.value(0)
    dims = _reduced(call)
    for dim in dims:
        call.coupler.gate((0,), dim)
    return _reduce(call, value, dims)


@rule("aten.mean.dim", "aten.mean.default")
def averaging(call: OpCall) -> Value:
    """Mean: absent slices do not count."""
    value = call.value(0)
    dims = _reduced(call)
    call.coupler.statistic((0,), dims, masked_mean)
    return _reduce(call, value, dims)


@rule("aten.amax.default")
def largest(call: OpCall) -> Value:
    """Maximum: absent slices count as minus infinity."""
    dims = _reduced(call)
    call.coupler.statistic((0,), dims, masked_amax)
    return _reduce(call, call.value(0), dims)


@rule("aten.amin.default")
def smallest(call: OpCall) -> Value:
    """Minimum: absent slices count as infinity."""
    dims = _reduced(call)
    call.coupler.statistic((0,), dims, masked_amin)
    return _reduce(call, call.value(0), dims)


def _reduced(call: OpCall) -> tuple[int, ...]:
    rank = call.value(0).rank
    # Overloads without a dim argument have a dtype in its place.
    listed = call.get(1)
    return call.dims(1, rank) if isinstance(listed, (int, list, tuple)) else tuple(range(rank))


def _reduce(call: OpCall, value: Value, dims: tuple[int, ...]) -> Value:
    keepdim = len(call.shape) == value.rank
    return reduce(call.coupler, value, dims, keepdim=keepdim, shape=call.shape)


def masked_mean(mask: Tensor, x: Tensor, *arguments: Any) -> Tensor:
    """Mean over the kept elements along the dims of ``aten.mean``."""
    dims, keepdim, dtype = _mean_arguments(x, arguments)
    y = x if dtype is None else x.to(dtype)
    mean = kept_mean(y, mask, dims)
    return mean if keepdim else mean.squeeze(dims)


def _mean_arguments(
    x: Tensor, arguments: tuple[Any, ...]
) -> tuple[list[int], bool, torch.dtype | None]:
    everywhere = list(range(x.dim()))
    if not arguments or isinstance(arguments[0], torch.dtype) or arguments[0] is None:
        return everywhere, False, arguments[0] if arguments else None
    dims = [arguments[0]] if isinstance(arguments[0], int) else list(arguments[0])
    keepdim = bool(arguments[1]) if len(arguments) > 1 else False
    return dims or everywhere, keepdim, arguments[2] if len(arguments) > 2 else None


def masked_amax(mask: Tensor, x: Tensor, dims: Any = (), keepdim: bool = False) -> Tensor:
    """Maximum over the kept elements."""
    return torch.amax(x.masked_fill(mask == 0, -torch.inf), dims, keepdim)


def masked_amin(mask: Tensor, x: Tensor, dims: Any = (), keepdim: bool = False) -> Tensor:
    """Minimum over the kept elements."""
    return torch.amin(x.masked_fill(mask == 0, torch.inf), dims, keepdim)
