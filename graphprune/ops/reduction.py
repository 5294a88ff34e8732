"""Reductions: sums want zeros, means and maxima count only what is kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphprune.labels.algebra import reduce
from graphprune.labels.coupler import MaskedKernel
from graphprune.labels.value import Value
from graphprune.ops.normalization import kept_mean
from graphprune.ops.registry import OpCall, UnsupportedCall, rule


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


@rule("aten.max.dim", "aten.min.dim")
def largest_and_where(call: OpCall) -> tuple[Value, ...]:
    """Maximum or minimum along one dim; its places count over all entries, so they stay."""
    value = call.value(0)
    dim = int(call.get(1)) % value.rank
    if call.read[1]:
        for factor in value.along(dim):
            call.coupler.pin(factor, "the place of a maximum along this axis is used")
    kernel = masked_max if call.name.startswith("aten.max") else masked_min
    call.coupler.statistic((0,), (dim,), kernel)
    found = _reduce(call, value, (dim,))
    return found, found


@rule("aten.max.default", "aten.min.default")
def largest_of_all(call: OpCall) -> Value:
    """Maximum or minimum over everything."""
    value = call.value(0)
    kernel = masked_max_of_all if call.name.startswith("aten.max") else masked_min_of_all
    call.coupler.statistic((0,), tuple(range(value.rank)), kernel)
    return Value(call.shape)


@rule("aten.logsumexp.default")
def log_of_sum(call: OpCall) -> Value:
    """Logarithm of a sum of exponentials: absent slices add nothing."""
    dims = _reduced(call)
    call.coupler.statistic((0,), dims, masked_logsumexp)
    return _reduce(call, call.value(0), dims)


# ---- norms and variances ------------------------------------------------------------------------


@rule("aten.linalg_vector_norm.default")
def vector_norm(call: OpCall) -> Value:
    """Norm of order above 0: absent slices count as zero."""
    value = call.value(0)
    return _norm(call, float(call.get(1, 2)), call.dims(2, value.rank))


@rule("aten.norm.ScalarOpt_dim")
def norm(call: OpCall) -> Value:
    """The same by its older name."""
    value = call.value(0)
    return _norm(call, float(call.get(1, 2)), call.dims(2, value.rank))


def _norm(call: OpCall, order: float, dims: tuple[int, ...]) -> Value:
    if order <= 0:
        raise UnsupportedCall(f"norm of order {order}")
    for dim in dims:
        call.coupler.gate((0,), dim)
    return _reduce(call, call.value(0), dims)


@rule("aten.var.correction", "aten.std.correction", "aten.var.dim", "aten.std.dim")
def variance(call: OpCall) -> Value:
    """Variance or standard deviation: absent slices do not count."""
    dims = _reduced(call)
    kernel = _VARIANCES[call.name]
    call.coupler.statistic((0,), dims, kernel)
    return _reduce(call, call.value(0), dims)


@rule("aten.var_mean.correction", "aten.var_mean.dim")
def variance_and_mean(call: OpCall) -> tuple[Value, ...]:
    """Variance and mean: absent slices do not count."""
    dims = _reduced(call)
    kernel = masked_var_mean_dim if call.name.endswith(".dim") else masked_var_mean
    call.coupler.statistic((0,), dims, kernel)
    found = _reduce(call, call.value(0), dims)
    return found, found


# ---- shared -------------------------------------------------------------------------------------


def _reduced(call: OpCall) -> tuple[int, ...]:
    rank = call.value(0).rank
    # Overloads without a dim argument have a dtype in its place.
    listed = call.get(1)
    return call.dims(1, rank) if isinstance(listed, (int, list, tuple)) else tuple(range(rank))


def _reduce(call: OpCall, value: Value, dims: tuple[int, ...]) -> Value:
    keepdim = len(call.shape) == value.rank
    return reduce(call.coupler, value, dims, keepdim=keepdim, shape=call.shape)


# ---- masked kernels -----------------------------------------------------------------------------


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


def masked_max(mask: Tensor, x: Tensor, dim: int, keepdim: bool = False) -> Any:
    """Maximum over the kept elements and its places."""
    return torch.max(x.masked_fill(mask == 0, -torch.inf), dim, keepdim)


def masked_min(mask: Tensor, x: Tensor, dim: int, keepdim: bool = False) -> Any:
    """Minimum over the kept elements and its places."""
    return torch.min(x.masked_fill(mask == 0, torch.inf), dim, keepdim)


def masked_max_of_all(mask: Tensor, x: Tensor) -> Tensor:
    """Maximum over all kept elements."""
    return x.masked_fill(mask == 0, -torch.inf).max()


def masked_min_of_all(mask: Tensor, x: Tensor) -> Tensor:
    """Minimum over all kept elements."""
    return x.masked_fill(mask == 0, torch.inf).min()


def masked_logsumexp(mask: Tensor, x: Tensor, dims: Any, keepdim: bool = False) -> Tensor:
    """Logarithm of the sum of exponentials over the kept elements."""
    return torch.logsumexp(x.masked_fill(mask == 0, -torch.inf), dims, keepdim)


def masked_var_mean(
    mask: Tensor,
    x: Tensor,
    dims: Any = None,
    correction: float | None = None,
    keepdim: bool = False,
) -> tuple[Tensor, Tensor]:
    """Variance and mean over the kept elements."""
    along = list(range(x.dim())) if dims is None or dims == [] else dims
    along = [along] if isinstance(along, int) else list(along)
    mean = kept_mean(x, mask, along)
    weights = mask.to(x.dtype).expand_as(x)
    count = weights.sum(along, keepdim=True)
    squares = ((x - mean).square() * weights).sum(along, keepdim=True)
    variance = squares / (count - (1 if correction is None else correction)).clamp_min(0)
    if keepdim:
        return variance, mean
    return variance.squeeze(along), mean.squeeze(along)


def masked_var(
    mask: Tensor,
    x: Tensor,
    dims: Any = None,
    correction: float | None = None,
    keepdim: bool = False,
) -> Tensor:
    """Variance over the kept elements."""
    return masked_var_mean(mask, x, dims, correction, keepdim)[0]


def masked_std(
    mask: Tensor,
    x: Tensor,
    dims: Any = None,
    correction: float | None = None,
    keepdim: bool = False,
) -> Tensor:
    """Standard deviation over the kept elements."""
    return masked_var(mask, x, dims, correction, keepdim).sqrt()


def masked_var_mean_dim(
    mask: Tensor, x: Tensor, dims: Any = None, unbiased: bool = True, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """Variance and mean over the kept elements, by the older overload."""
    return masked_var_mean(mask, x, dims, float(unbiased), keepdim)


def masked_var_dim(
    mask: Tensor, x: Tensor, dims: Any = None, unbiased: bool = True, keepdim: bool = False
) -> Tensor:
    """Variance over the kept elements, by the older overload."""
    return masked_var(mask, x, dims, float(unbiased), keepdim)


def masked_std_dim(
    mask: Tensor, x: Tensor, dims: Any = None, unbiased: bool = True, keepdim: bool = False
) -> Tensor:
    """Standard deviation over the kept elements, by the older overload."""
    return masked_std(mask, x, dims, float(unbiased), keepdim)


_VARIANCES: dict[str, MaskedKernel] = {
    "aten.var.correction": masked_var,
    "aten.std.correction": masked_std,
    "aten.var.dim": masked_var_dim,
    "aten.std.dim": masked_std_dim,
}
