"""Reductions: sums want zeros, means and maxima count only what is kept."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from graphprune.labels.algebra import reduce
from graphprune.labels.coupler import MaskedKernel
from graphprune.labels.value import Value
from graphprune.ops.kept import kept_mean, kept_variance, neutral
from graphprune.ops.registry import OpCall, Result, UnsupportedCall, rule

# ---- what zeros do not change -------------------------------------------------------------------


@rule(
    "aten.sum.dim_IntList",
    "aten.sum.default",
    "aten.nansum.default",
    "aten.any.dim",
    "aten.any.dims",
    "aten.any.default",
    "aten.count_nonzero.default",
    "aten.count_nonzero.dim_IntList",
)
def summing(call: OpCall) -> Value:
    """Sum, or whether anything is not zero: absent slices add nothing."""
    return _sum(call, _reduced(call))


def _sum(call: OpCall, dims: tuple[int, ...]) -> Value:
    for dim in dims:
        call.coupler.gate((0,), dim)
    return _reduce(call, dims)


@rule(
    "aten.linalg_vector_norm.default",
    "aten.norm.Scalar",
    "aten.norm.ScalarOpt_dtype",
    "aten.norm.ScalarOpt_dim",
    "aten.norm.ScalarOpt_dim_dtype",
)
def norm(call: OpCall) -> Value:
    """Norm of order above 0: absent slices count as zero."""
    order = float(call.get(1, 2))
    if order <= 0:
        raise UnsupportedCall(f"norm of order {order}")
    return _sum(call, _reduced(call))


@rule("aten.linalg_norm.default", "aten.linalg_norm.ord_str", "aten.linalg_matrix_norm.str_ord")
def norm_of_vectors(call: OpCall) -> Value:
    """Norm of vectors, or the root of the sum of squares of matrices."""
    dims, order = _reduced(call), call.named("ord")
    flattened = order is None or order == "fro" or (order == 2 and len(dims) == 1)
    if not flattened and (isinstance(order, str) or len(dims) > 1 or order <= 0):
        raise UnsupportedCall(f"norm of order {order} over {len(dims)} dims")
    return _sum(call, dims)


# ---- what has a neutral number ------------------------------------------------------------------

_NEUTRAL = {
    "aten.amax.default": -math.inf,
    "aten.amin.default": math.inf,
    "aten.max.default": -math.inf,
    "aten.min.default": math.inf,
    "aten.logsumexp.default": -math.inf,
    "aten.prod.default": 1.0,
    "aten.prod.dim_int": 1.0,
    "aten.all.default": 1.0,
    "aten.all.dim": 1.0,
    "aten.all.dims": 1.0,
}


@rule(*_NEUTRAL)
def reducing(call: OpCall) -> Value:
    """Maximum, product and the like: absent slices count as a number that changes nothing."""
    dims = _reduced(call)
    call.coupler.statistic((0,), dims, neutral(call.name, call.from_end(dims), _NEUTRAL[call.name]))
    return _reduce(call, dims)


_EXTREMES = {"aten.max.dim": -math.inf, "aten.min.dim": math.inf}


@rule(*_EXTREMES)
def largest_and_where(call: OpCall) -> tuple[Value, ...]:
    """Maximum or minimum along one dim; its places count over all entries, so they stay."""
    dims = _reduced(call)
    if call.read[1]:
        _pin_along(call, dims, "the place of a maximum along this axis is used")
    call.coupler.statistic(
        (0,), dims, neutral(call.name, call.from_end(dims), _EXTREMES[call.name])
    )
    found = _reduce(call, dims)
    return found, found


@rule("aten.aminmax.default")
def smallest_and_largest(call: OpCall) -> tuple[Value, ...]:
    """Minimum and maximum at once."""
    dims, keepdim = _reduced(call), bool(call.named("keepdim"))
    along = call.from_end(dims)
    least = neutral("aten.amin.default", along, math.inf)
    most = neutral("aten.amax.default", along, -math.inf)

    def masked_aminmax(mask: Tensor, x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        return least(mask, x, along, keepdim), most(mask, x, along, keepdim)

    call.coupler.statistic((0,), dims, masked_aminmax)
    found = _reduce(call, dims)
    return found, found


@rule("aten.argmax.default", "aten.argmin.default")
def place_of_largest(call: OpCall) -> Value:
    """Place of the maximum: it counts over all entries, so they stay."""
    dims = _reduced(call)
    _pin_along(call, dims, "the place of a maximum along this axis is used")
    return _reduce(call, dims)


@rule(
    "aten.median.default",
    "aten.median.dim",
    "aten.nanmedian.default",
    "aten.nanmedian.dim",
    "aten.kthvalue.default",
    "aten.mode.default",
    "aten.quantile.scalar",
)
def middle(call: OpCall) -> Result:
    """A rank among all entries along an axis: they stay."""
    dims = _reduced(call)
    _pin_along(call, dims, "a rank among all entries of this axis is used")
    found = _reduce(call, dims)
    return (found,) * len(call.shapes) if len(call.shapes) > 1 else found


# ---- means and variances ------------------------------------------------------------------------


@rule("aten.mean.dim", "aten.mean.default", "aten.nanmean.default")
def averaging(call: OpCall) -> Value:
    """Mean: absent slices do not count."""
    dims, keepdim, dtype = _reduced(call), bool(call.named("keepdim")), call.named("dtype")

    along, without_nan = call.from_end(dims), call.name == "aten.nanmean.default"

    def masked_mean(mask: Tensor, x: Tensor, *_: Any) -> Tensor:
        if without_nan:
            x, mask = x.nan_to_num(nan=0.0), mask * ~x.isnan()
        mean = kept_mean(x if dtype is None else x.to(dtype), mask, along)
        return mean if keepdim else mean.squeeze(along)

    call.coupler.statistic((0,), dims, masked_mean)
    return _reduce(call, dims)


_FORMS = ("default", "dim", "correction")


@rule(*(f"aten.{name}.{form}" for name in ("var", "std") for form in _FORMS))
def variance(call: OpCall) -> Value:
    """Variance or standard deviation: absent slices do not count."""
    dims = _reduced(call)
    moments = _moments(call, dims)

    def masked_variance(mask: Tensor, x: Tensor, *_: Any) -> Tensor:
        found: Tensor = moments(mask, x)[0]
        return found

    call.coupler.statistic((0,), dims, masked_variance)
    return _reduce(call, dims)


@rule(*(f"aten.{name}_mean.{form}" for name in ("var", "std") for form in _FORMS))
def variance_and_mean(call: OpCall) -> tuple[Value, ...]:
    """Variance or standard deviation, and mean: absent slices do not count."""
    dims = _reduced(call)
    call.coupler.statistic((0,), dims, _moments(call, dims))
    found = _reduce(call, dims)
    return found, found


def _moments(call: OpCall, dims: tuple[int, ...]) -> MaskedKernel:
    """Return the kernel for variance (or its root) and mean over the kept elements."""
    keepdim, root = bool(call.named("keepdim")), call.name.startswith("aten.std")
    correction = float(call.named("correction", call.named("unbiased", True)))
    along = call.from_end(dims)

    def masked_moments(mask: Tensor, x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        variance, mean = kept_variance(x, mask, along, correction)
        if root:
            # The root's derivative is infinite at 0, where torch takes it for 0.
            roots = torch.where(variance == 0, 1, variance).sqrt()
            variance = torch.where(variance == 0, 0, roots)
        return (variance, mean) if keepdim else (variance.squeeze(along), mean.squeeze(along))

    return masked_moments


# ---- shared -------------------------------------------------------------------------------------


def _reduced(call: OpCall) -> tuple[int, ...]:
    """Dims that a call reduces; all of them where it names none."""
    named = call.named("dim")
    listed = [] if named is None else named if isinstance(named, (list, tuple)) else [named]
    rank = call.value(0).rank
    return tuple(sorted(int(dim) % rank for dim in listed)) or tuple(range(rank))


def _reduce(call: OpCall, dims: tuple[int, ...]) -> Value:
    value = call.value(0)
    keepdim = len(call.shape) == value.rank
    return reduce(call.coupler, value, dims, keepdim=keepdim, shape=call.shape)


def _pin_along(call: OpCall, dims: tuple[int, ...], reason: str) -> None:
    for dim in dims:
        for factor in call.value(0).along(dim):
            call.coupler.pin(factor, reason)
