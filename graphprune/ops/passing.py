"""What passes an op that works along some dims only, and what has no labels yet."""

from __future__ import annotations

from collections.abc import Collection

from graphprune.labels.value import Factor, Value, varying
from graphprune.ops.registry import OpCall


def across(call: OpCall, value: Value, dims: Collection[int], reason: str) -> tuple[Factor, ...]:
    """Keep ``dims`` of a tensor whole; return its factors, which have size 1 along them.

    What lies along ``dims`` alone is pinned for ``reason``; of rows and columns of which one lies
    along them, the other can still go.
    """
    passed = []
    for factor in value.factors:
        hit = [dim for dim in varying(factor) if dim in dims]
        if hit and len(hit) == len(varying(factor)):
            call.coupler.pin(factor, reason)
            continue
        for dim in hit:
            factor = call.coupler.collapse(factor, dim)  # noqa: PLW2901 - narrowed step by step
        passed.append(factor)
    return tuple(passed)


def fresh_along(call: OpCall, dims: Collection[int]) -> Value:
    """Return the result of an op whose slices along ``dims`` are all alike: any of them can go."""
    rank = len(call.shape)
    return Value(
        call.shape,
        tuple(
            call.coupler.fresh(call.shape[dim]).reshape(
                [-1 if k == dim else 1 for k in range(rank)]
            )
            for dim in dims
            if call.shape[dim] > 1
        ),
    )
