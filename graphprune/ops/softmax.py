"""Softmaxes: entries compete along one dim, absent ones count as minus infinity."""

from __future__ import annotations

import torch

from graphprune.labels.value import Value
from graphprune.ops.kept import neutral
from graphprune.ops.registry import OpCall, rule


@rule(
    "aten.softmax.int",
    "aten._softmax.default",
    "aten._safe_softmax.default",
    "aten.log_softmax.int",
    "aten._log_softmax.default",
)
def softmax(call: OpCall) -> Value:
    """Softmax or its logarithm: the kept entries share what there is."""
    value = call.value(0)
    dims = (int(call.get(1)) % value.rank,)
    call.coupler.statistic(
        (0,), dims, neutral(call.name, call.from_end(dims), -torch.inf, reduces=False)
    )
    return call.like(value)
