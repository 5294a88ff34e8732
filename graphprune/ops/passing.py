"""What passes an op that works along some dims only: everything across them."""

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
