"""Ops that make tensors of their own: nothing in them can be removed."""

from __future__ import annotations

from graphprune.labels.value import Value
from graphprune.ops.registry import OpCall, rule

_CREATORS = """
    zeros.default ones.default full.default arange.default arange.start arange.start_step
    linspace.default empty.memory_format scalar_tensor.default eye.default eye.m
    new_zeros.default new_ones.default new_full.default new_empty.default
    tril.default triu.default
"""


@rule(*(f"aten.{name}" for name in _CREATORS.split()))
def creating(call: OpCall) -> Value:
    """A tensor of fixed sizes; what meets it element-wise is pinned there."""
    for value in call.values():
        call.coupler.pin_value(value, "the op depends on the place of every element")
    return Value(call.shape)
