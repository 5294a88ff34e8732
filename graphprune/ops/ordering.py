"""Ops that go along an axis from entry to entry, or put its entries in order."""

from __future__ import annotations

import math

from graphprune.labels.value import Value
from graphprune.ops.kept import neutral
from graphprune.ops.passing import across
from graphprune.ops.registry import OpCall, Result, rule


@rule("aten.cumsum.default")
def running_sum(call: OpCall) -> Value:
    """Running sum: absent slices add nothing."""
    value = call.value(0)
    if value.rank:
        call.coupler.gate((0,), int(call.get(1)) % value.rank)
    return call.like(value)


_RUNNING = {
    "aten.cumprod.default": 1.0,
    "aten.logcumsumexp.default": -math.inf,
}
_RUNNING_PLACES = {
    "aten.cummax.default": -math.inf,
    "aten.cummin.default": math.inf,
}


@rule(*_RUNNING)
def running(call: OpCall) -> Value:
    """Running product and the like: absent slices count as a number that changes nothing."""
    return _run(call, _RUNNING[call.name])


@rule(*_RUNNING_PLACES)
def running_extreme(call: OpCall) -> tuple[Value, ...]:
    """Running maximum or minimum; its places count over all entries, so they stay."""
    value = call.value(0)
    if call.read[1]:
        return _rank(call, int(call.get(1)), "the place of a maximum along this axis is used")
    return (_run(call, _RUNNING_PLACES[call.name]), Value(value.shape))


def _run(call: OpCall, fill: float) -> Value:
    value = call.value(0)
    dims = (int(call.get(1)) % max(value.rank, 1),)
    call.coupler.statistic((0,), dims, neutral(call.name, call.from_end(dims), fill, reduces=False))
    return call.like(value)


@rule(
    "aten.sort.default",
    "aten.sort.stable",
    "aten.argsort.default",
    "aten.argsort.stable",
    "aten.msort.default",
    "aten.topk.default",
)
def sorting(call: OpCall) -> Result:
    """Order along one dim: it stays, every other is sorted on its own."""
    default = 0 if call.name == "aten.msort.default" else -1
    found = _rank(call, int(call.named("dim", default)), "an axis whose entries are put in order")
    return found if len(found) > 1 else found[0]


@rule("aten.diff.default")
def differences(call: OpCall) -> Value:
    """Differences of neighbours along one dim, which stays."""
    if call.optional(3) is not None or call.optional(4) is not None:
        for value in call.values():
            call.coupler.pin_value(value, "joined before differences are taken")
        return Value(call.shape)
    return _rank(call, int(call.get(2)), "an axis along which neighbours are subtracted")[0]


def _rank(call: OpCall, dim: int, reason: str) -> tuple[Value, ...]:
    value = call.value(0)
    passed = across(call, value, (dim % max(value.rank, 1),), reason)
    return tuple(Value(shape, passed) for shape in call.shapes)
