"""Statistics of kept elements: what masked kernels are made of.

A mask is 1 where an element is kept and has the rank of the tensor, size 1 along dims where nothing
is absent. Where nothing at all is kept along the dims of a statistic, nothing kept reads it, but it
has to be finite, and so have its gradients: zeros stand in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graphprune.labels.coupler import MaskedKernel

Dims = tuple[int, ...]


def kept_mean(x: Tensor, mask: Tensor, dims: Dims) -> Tensor:
    """Mean over ``dims`` of the elements that ``mask`` keeps (dims stay, at size 1)."""
    weights = mask.to(x.dtype).expand_as(x)
    count = weights.sum(dims, keepdim=True)
    # Where nothing is kept (an absent group of a group norm) the mean is 0, not undefined.
    mean: Tensor = (x * weights).sum(dims, keepdim=True) / torch.where(count == 0, 1, count)
    return mean


def kept_variance(x: Tensor, mask: Tensor, dims: Dims, correction: float) -> tuple[Tensor, Tensor]:
    """Variance and mean over ``dims`` of the elements that ``mask`` keeps (dims stay)."""
    mean = kept_mean(x, mask, dims)
    weights = mask.to(x.dtype).expand_as(x)
    count = weights.sum(dims, keepdim=True)
    squares = ((x - mean).square() * weights).sum(dims, keepdim=True)
    freedom = torch.where(count == 0, 1.0, (count - correction).clamp_min(0))
    return squares / freedom, mean


def without_absent(mask: Tensor, x: Tensor, dims: Dims, fill: float) -> Tensor:
    """Put ``fill`` in the place of absent elements, 0 where nothing along ``dims`` is kept."""
    kept = mask != 0
    some = kept.any(dim=dims, keepdim=True)
    filler = torch.where(some, x.new_full((), _as(x.dtype, fill)), x.new_zeros(()))
    return torch.where(kept, x, filler)


def neutral(overload: str, dims: Dims, fill: float, *, reduces: bool = True) -> MaskedKernel:
    """Return a kernel that runs an op with a number that does not count in absent places.

    Args:
        overload: The op; its first argument is the tensor.
        dims: Along which it takes its statistic, counted from the end.
        fill: The neutral number.
        reduces: The op does not return a tensor of the input's shape; if it does, absent places of
            the result read 0.
    """
    op = overload_of(overload)

    def masked(mask: Tensor, x: Tensor, *others: Any) -> Any:
        made = run(op, without_absent(mask, x, dims, fill), *others)
        if reduces:
            return made
        if isinstance(made, Tensor):
            return made.masked_fill(mask == 0, 0)
        return tuple(result.masked_fill(mask == 0, 0) for result in made)

    masked.__name__ = f"masked_{op.__name__.replace('.', '_')}"
    return masked


def overload_of(name: str) -> Any:
    """Return an overload by its full name, e.g. ``aten.add.Tensor``."""
    namespace, packet, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload)


def run(op: Callable[..., Any], *arguments: Any) -> Any:
    """Call an overload with all arguments in schema order."""
    declared = op._schema.arguments  # type: ignore[attr-defined]
    positional = [value for value, a in zip(arguments, declared, strict=True) if not a.kwarg_only]
    named = {a.name: value for value, a in zip(arguments, declared, strict=True) if a.kwarg_only}
    return op(*positional, **named)


def _as(dtype: torch.dtype, number: float) -> float:
    """Return a number as the nearest that a dtype holds."""
    if dtype == torch.bool:
        return number > 0
    if dtype.is_floating_point:
        return number
    limits = torch.iinfo(dtype)
    return min(max(number, limits.min), limits.max)
