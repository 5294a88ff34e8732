"""Attention as single backends compute it, which lowered graphs name."""

from __future__ import annotations

import math
from dataclasses import replace

from graphprune.labels.algebra import merge
from graphprune.labels.value import Value
from graphprune.ops.attention import attention
from graphprune.ops.registry import OpCall, UnsupportedCall, rewrite, rule
from graphprune.ops.resize import Resize

_CPU = "aten._scaled_dot_product_flash_attention_for_cpu.default"
_MATH = "aten._scaled_dot_product_attention_math.default"
_EFFICIENT = "aten._scaled_dot_product_efficient_attention.default"

_SCALE = {_CPU: 6, _MATH: 7, _EFFICIENT: 7}
"""Where the scale stands among the arguments."""


@rule(*_SCALE)
def attention_kernel(call: OpCall) -> tuple[Value, ...]:
    """The same couplings; of what a backend keeps for its backward pass nothing may be read."""
    if any(call.read[1:]):
        raise UnsupportedCall("more than the result is used")
    if call.name == _CPU:
        _unite_widths(call, call.value(0), call.value(2))
    mask = call.named("attn_mask", call.named("attn_bias"))
    arguments = (*call.arguments[:3], mask, 0.0, False, None, call.named("enable_gqa", False))
    made = attention(replace(call, arguments=arguments, shapes=call.shapes[:1]))
    assert isinstance(made, Value)
    return (made, *map(Value, call.shapes[1:]))


def _unite_widths(call: OpCall, query: Value, value: Value) -> None:
    """Unite columns of queries and values, since the backend wants as many of both."""
    tokens = query.rank - 2
    shape = (*query.shape[:tokens], 1, query.shape[-1])
    pair = [
        Value(shape, tuple(f for f in tensor.factors if f.shape[tokens] == 1))
        for tensor in (query, value)
    ]
    merge(call.coupler, pair, shape)


@rewrite(*_SCALE)
def rewrite_kernel_scale(resize: Resize) -> None:
    """Keep the softmax scale of the original head width."""
    position, last = _SCALE[str(resize.node.target)], len(resize.shape_in(0)) - 1
    if resize.kept_in(0, last) is not None and resize.argument(position) is None:
        resize.set(position, 1.0 / math.sqrt(resize.shape_in(0)[last]))
