"""Ops that make tensors of their own: nothing in them can be removed."""

from __future__ import annotations

from graphprune.labels.value import Value
from graphprune.ops.registry import OpCall, rule

_CREATORS = """
    zeros.default ones.default full.default arange.default arange.start arange.start_step
    linspace.default empty.memory_format scalar_tensor.default eye.default eye.m
    new_zeros.default new_ones.default new_full.default new_empty.default
"""


@rule(*(f"aten.{name}" for name in _CREATORS.split()))
def creating(call: OpCall) -> Value:
    """A tensor of fixed sizes; what meets it element-wise is pinned there.

    The tensor that ``new_zeros`` and its like are called on lends its dtype and device only.
    """
    return Value(call.shape)


@rule("aten.tril.default", "aten.triu.default")
def triangle(call: OpCall) -> Value:
    """Half of a matrix: its rows and columns stay, leading dims pass."""
    value = call.value(0)
    rank = value.rank
    fixed = [factor for dim in (rank - 2, rank - 1) for factor in value.along(dim)]
    for factor in fixed:
        call.coupler.pin(factor, "the op depends on the place of every element")
    passed = (f for f in value.factors if f.shape[rank - 2] == f.shape[rank - 1] == 1)
    return Value(call.shape, tuple(passed))
