"""Ops that make tensors of their own.

Tensors of equal numbers have as many entries as what they meet needs. In any other the numbers
depend on the place: nothing in it can be removed.
"""

from __future__ import annotations

from graphprune.labels.value import Value
from graphprune.ops.passing import across, fresh_along
from graphprune.ops.registry import OpCall, rewrite, rule
from graphprune.ops.resize import Resize

_FILLED = ("aten.zeros.default", "aten.ones.default", "aten.full.default")
_EMPTY = ("aten.empty.memory_format",)
_FILLED_LIKE = (
    "aten.new_zeros.default",
    "aten.new_ones.default",
    "aten.new_full.default",
    "aten.new_empty.default",
)


@rule(*_FILLED, *_EMPTY, *_FILLED_LIKE)
def filling(call: OpCall) -> Value:
    """A tensor of equal numbers: any slice of it may go with what it is combined with.

    The tensor that ``new_zeros`` and its like are called on lends its dtype and device only.
    """
    # Without the batch it is a mask or a table, which spans positions.
    dims = range(len(call.shape)) if call.symbolic else ()
    return fresh_along(call, [dim for dim in dims if dim not in call.symbolic])


@rewrite(*_FILLED, *_EMPTY)
def rewrite_filling(resize: Resize) -> None:
    """Write the sizes that remain."""
    resize.set(0, resize.sizes(list(resize.argument(0))))


@rewrite(*_FILLED_LIKE)
def rewrite_filling_like(resize: Resize) -> None:
    """Write the sizes that remain."""
    resize.set(1, resize.sizes(list(resize.argument(1))))


@rule(
    "aten.arange.default",
    "aten.arange.start",
    "aten.arange.start_step",
    "aten.linspace.default",
    "aten.eye.default",
    "aten.eye.m",
    "aten.scalar_tensor.default",
)
def numbering(call: OpCall) -> Value:
    """A tensor of fixed sizes; what meets it element-wise is pinned there."""
    return Value(call.shape)


@rule("aten.tril.default", "aten.triu.default")
def triangle(call: OpCall) -> Value:
    """Half of a matrix: its rows and columns stay, leading dims pass."""
    value = call.value(0)
    dims = (value.rank - 2, value.rank - 1)
    return Value(
        call.shape, across(call, value, dims, "the op depends on the place of every element")
    )
