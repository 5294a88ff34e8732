"""Scaled dot-product attention: two contractions with a softmax between them."""

from __future__ import annotations

import math

import numpy as np

from graphprune.labels.algebra import contract, merge
from graphprune.labels.value import Value, permute
from graphprune.ops.registry import OpCall, UnsupportedCall, rewrite, rule
from graphprune.ops.resize import Resize

_ATTENTION = "aten.scaled_dot_product_attention.default"


@rule(_ATTENTION)
def attention(call: OpCall) -> Value:
    """Heads of queries, keys and values exist together; head-dim columns of q and k likewise.

    In grouped-query attention one head of keys and values serves several of queries: these go with
    it, so that all groups stay equally large.
    """
    query, key, value, mask = (call.value(0), call.value(1), call.value(2), call.optional(3))
    if call.get(7, False):
        key, value = (_repeat_heads(tensor, query) for tensor in (key, value))
    leading = np.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    if query.shape[:-2] != leading:
        raise UnsupportedCall("queries are broadcast over the batch or heads of keys")
    for tensor in (key, value):
        for factor in tensor.along(tensor.rank - 2):
            call.coupler.pin(factor, "tokens that attention sums over")
    order = (*range(key.rank - 2), key.rank - 1, key.rank - 2)
    shape = (*query.shape[:-1], key.shape[-2])
    call.coupler.gate((0,), -1)
    scores = contract(call.coupler, query, permute(key, order), shape)
    if mask is not None:
        scores = merge(call.coupler, [scores, mask], shape)
    return contract(call.coupler, scores, value, call.shape)


def _repeat_heads(tensor: Value, query: Value) -> Value:
    """Give every head of queries its own copy of the keys or values that it shares."""
    dim = query.rank - 3
    count = query.shape[dim] // tensor.shape[dim]
    factors = tuple(
        np.repeat(factor, count, dim) if factor.shape[dim] > 1 else factor
        for factor in tensor.factors
    )
    return Value((*tensor.shape[:dim], query.shape[dim], *tensor.shape[dim + 1 :]), factors)


@rewrite(_ATTENTION)
def rewrite_scale(resize: Resize) -> None:
    """Keep the softmax scale of the original head width."""
    width = resize.shape_in(0)[-1]
    kept = resize.kept_in(0, len(resize.shape_in(0)) - 1)
    if kept is not None and resize.argument(6) is None:
        resize.set(6, 1.0 / math.sqrt(width))
