"""Contractions: the summed dim is consumed, the others are produced or passed on."""

from __future__ import annotations

import numpy as np

from graphprune.labels.algebra import contract, merge
from graphprune.labels.value import Shape, Value, drop_dim, insert_dim, permute
from graphprune.ops.registry import OpCall, UnsupportedCall, rule


@rule("aten.linear.default")
def linear(call: OpCall) -> Value:
    """Fully connected layer: weight (out, in) contracts the input's last dim."""
    inputs, weight, bias = call.value(0), call.value(1), call.optional(2)
    if weight.rank != 2:
        raise UnsupportedCall(f"weight of rank {weight.rank}")
    if weight.constant:
        for factor in weight.along(0):
            call.coupler.produce(factor)
        for factor in weight.along(1):
            call.coupler.consume(factor)
    if inputs.constant and not weight.constant:
        call.coupler.gate((1,), 1)
    else:
        call.coupler.gate((0,), -1)
    result = _times(call, inputs, permute(weight, (1, 0)))
    return result if bias is None else merge(call.coupler, [result, bias], call.shape)


def _times(call: OpCall, inputs: Value, weight: Value) -> Value:
    if inputs.rank > 1:
        return contract(call.coupler, inputs, weight, call.shape)
    row = contract(call.coupler, insert_dim(inputs, 0), weight, (1, *call.shape))
    return drop_dim(row, 0)


@rule("aten.matmul.default", "aten.mm.default", "aten.bmm.default")
def matmul(call: OpCall) -> Value:
    """Matrix product of tensors of any rank."""
    return matrix_product(call, call.value(0), call.value(1), call.shape)


@rule("aten.addmm.default")
def addmm(call: OpCall) -> Value:
    """``bias + left @ right``."""
    return _add_product(call)


def _add_product(call: OpCall) -> Value:
    product = _product(call, call.value(1), call.value(2), (1,), (2,), call.shape)
    return merge(call.coupler, [call.value(0), product], call.shape)


@rule("aten.baddbmm.default")
def baddbmm(call: OpCall) -> Value:
    """``bias + left @ right``, batched."""
    return _add_product(call)


def matrix_product(call: OpCall, left: Value, right: Value, shape: Shape) -> Value:
    """Matrix product of the op's first two arguments, vectors included."""
    wide_left = insert_dim(left, 0) if left.rank == 1 else left
    wide_right = insert_dim(right, 1) if right.rank == 1 else right
    batch = np.broadcast_shapes(wide_left.shape[:-2], wide_right.shape[:-2])
    full = (*batch, wide_left.shape[-2], wide_right.shape[-1])
    result = _product(call, wide_left, wide_right, (0,), (1,), full, vector=right.rank == 1)
    if right.rank == 1:
        result = drop_dim(result, result.rank - 1)
    if left.rank == 1:
        result = drop_dim(result, result.rank - (1 if right.rank == 1 else 2))
    return Value(shape, result.factors)


def _product(
    call: OpCall,
    left: Value,
    right: Value,
    left_path: tuple[int, ...],
    right_path: tuple[int, ...],
    shape: Shape,
    *,
    vector: bool = False,
) -> Value:
    """Contract and report who produces, who consumes, and where absent slices must be zero."""
    coupler = call.coupler
    weight, rows, columns = (right, right.rank - 2, right.rank - 1)
    if left.constant and not right.constant:
        weight, rows, columns = (left, left.rank - 1, left.rank - 2)
    if weight.constant:
        for factor in weight.along(columns):
            coupler.produce(factor)
        for factor in weight.along(rows):
            coupler.consume(factor)
    if left.constant and not right.constant:
        coupler.gate(right_path, 0 if vector else right.rank - 2)
    else:
        coupler.gate(left_path, -1)
    return contract(coupler, left, right, shape)


@rule("aten.embedding.default")
def embedding(call: OpCall) -> Value:
    """Table look-up: rows are picked by index and stay, columns are produced."""
    table = call.value(0)
    for factor in table.along(0):
        call.coupler.pin(factor, "rows picked by an index tensor")
    columns = [factor for factor in table.factors if factor.shape[0] == 1]
    for factor in columns:
        call.coupler.produce(factor)
    lifted = tuple(f.reshape((1,) * (len(call.shape) - 1) + (-1,)) for f in columns)
    return Value(call.shape, lifted)
