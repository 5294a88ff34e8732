"""Element-wise ops: equal places of all operands exist together."""

from __future__ import annotations

from graphprune.labels.algebra import merge, merge_shifted
from graphprune.labels.value import Value
from graphprune.ops.registry import OpCall, rule

_UNARY = """
    relu.default relu6.default gelu.default silu.default sigmoid.default tanh.default elu.default
    hardswish.default hardsigmoid.default hardtanh.default leaky_relu.default softplus.default
    mish.default celu.default selu.default log_sigmoid.default hardshrink.default
    dropout.default feature_dropout.default alpha_dropout.default feature_alpha_dropout.default
    to.dtype to.device to.dtype_layout _to_copy.default
    neg.default exp.default log.default log1p.default expm1.default log2.default sqrt.default
    rsqrt.default square.default abs.default reciprocal.default erf.default sign.default
    sin.default cos.default floor.default ceil.default round.default nan_to_num.default
    pow.Tensor_Scalar clamp.default clamp_min.default clamp_max.default logical_not.default
    bitwise_not.default isinf.default isnan.default threshold.default
    zeros_like.default ones_like.default full_like.default
    add.Scalar sub.Scalar mul.Scalar div.Scalar rsub.Scalar remainder.Scalar
    eq.Scalar ne.Scalar gt.Scalar ge.Scalar lt.Scalar le.Scalar
    div.Scalar_mode floor_divide.Scalar masked_fill.Scalar where.ScalarSelf where.ScalarOther
"""

_COMBINING = """
    add.Tensor sub.Tensor mul.Tensor div.Tensor div.Tensor_mode rsub.Tensor maximum.default
    minimum.default max.other min.other where.self addcmul.default addcdiv.default
    pow.Tensor_Tensor pow.Scalar lerp.Scalar lerp.Tensor atan2.default floor_divide.default
    remainder.Tensor eq.Tensor ne.Tensor gt.Tensor ge.Tensor lt.Tensor le.Tensor
    logical_and.default logical_or.default logical_xor.default masked_fill.Tensor
    bitwise_and.Tensor bitwise_or.Tensor clamp.Tensor clamp_min.Tensor clamp_max.Tensor
"""


def _overloads(names: str) -> list[str]:
    return [f"aten.{name}" for name in names.split()]


@rule(*_overloads(_UNARY), *_overloads(_COMBINING))
def elementwise(call: OpCall) -> Value:
    """Unite the operands with broadcasting; scalars join nothing."""
    return merge(call.coupler, call.values(), call.shape)


@rule(
    "aten.contiguous.default",
    "aten.clone.default",
    "aten.detach.default",
    "aten.alias.default",
    "aten.lift_fresh_copy.default",
)
def copying(call: OpCall) -> Value:
    """The same elements."""
    return call.value(0)


@rule("aten.type_as.default")
def casting(call: OpCall) -> Value:
    """Another tensor's dtype, nothing else of it."""
    return call.like(call.value(0))


@rule("aten.prelu.default")
def prelu(call: OpCall) -> Value:
    """PReLU: its slopes lie along the channels."""
    slopes = call.value(1)
    if slopes.shape == (1,) or slopes.rank == 0:
        return call.like(call.value(0))
    return merge_shifted(call.coupler, call.value(0), [slopes], 1)
