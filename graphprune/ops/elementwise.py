"""Element-wise ops: equal places of all operands exist together."""

from __future__ import annotations

from graphprune.labels.algebra import merge, merge_shifted
from graphprune.labels.value import Value
from graphprune.ops.registry import OpCall, UnsupportedCall, rule

_ACTIVATIONS = """
    relu.default relu6.default gelu.default silu.default sigmoid.default tanh.default elu.default
    hardswish.default hardsigmoid.default hardtanh.default leaky_relu.default softplus.default
    mish.default celu.default selu.default log_sigmoid.default hardshrink.default softshrink.default
    threshold.default logit.default rrelu.default dropout.default feature_dropout.default
    alpha_dropout.default feature_alpha_dropout.default
"""

_UNARY = """
    to.dtype to.device to.dtype_layout _to_copy.default zeros_like.default ones_like.default
    full_like.default empty_like.default fill.Scalar fill.Tensor zero.default
    neg.default negative.default positive.default abs.default absolute.default sign.default
    sgn.default signbit.default square.default sqrt.default rsqrt.default reciprocal.default
    exp.default exp2.default expm1.default log.default log1p.default log2.default log10.default
    sin.default cos.default tan.default asin.default acos.default atan.default arcsin.default
    arccos.default arctan.default sinh.default cosh.default asinh.default acosh.default
    atanh.default arcsinh.default arccosh.default arctanh.default sinc.default erf.default
    erfc.default erfinv.default lgamma.default digamma.default i0.default deg2rad.default
    rad2deg.default floor.default ceil.default round.default round.decimals trunc.default
    fix.default frac.default nan_to_num.default pow.Tensor_Scalar float_power.Tensor_Scalar
    clamp.default clamp_min.default clamp_max.default clip.default logical_not.default
    bitwise_not.default isinf.default isnan.default isfinite.default isposinf.default
    isneginf.default real.default imag.default conj.default conj_physical.default
    resolve_conj.default resolve_neg.default angle.default
    add.Scalar sub.Scalar subtract.Scalar mul.Scalar multiply.Scalar div.Scalar divide.Scalar
    true_divide.Scalar rsub.Scalar remainder.Scalar fmod.Scalar div.Scalar_mode
    divide.Scalar_mode floor_divide.Scalar eq.Scalar ne.Scalar not_equal.Scalar gt.Scalar
    greater.Scalar ge.Scalar greater_equal.Scalar lt.Scalar less.Scalar le.Scalar
    less_equal.Scalar copysign.Scalar xlogy.Scalar_Self xlogy.Scalar_Other
    bitwise_and.Scalar bitwise_or.Scalar bitwise_xor.Scalar __and__.Scalar __or__.Scalar
    __xor__.Scalar __lshift__.Scalar __rshift__.Scalar
    masked_fill.Scalar where.Scalar where.ScalarSelf where.ScalarOther
"""

_COMBINING = """
    add.Tensor sub.Tensor subtract.Tensor mul.Tensor multiply.Tensor div.Tensor divide.Tensor
    true_divide.Tensor div.Tensor_mode divide.Tensor_mode rsub.Tensor maximum.default
    minimum.default max.other min.other fmax.default fmin.default where.self masked_fill.Tensor
    addcmul.default addcdiv.default pow.Tensor_Tensor pow.Scalar float_power.Tensor_Tensor
    float_power.Scalar lerp.Scalar lerp.Tensor atan2.default arctan2.default hypot.default
    logaddexp.default logaddexp2.default xlogy.Tensor copysign.Tensor heaviside.default
    ldexp.Tensor floor_divide.default remainder.Tensor remainder.Scalar_Tensor fmod.Tensor
    eq.Tensor ne.Tensor not_equal.Tensor gt.Tensor greater.Tensor ge.Tensor greater_equal.Tensor
    lt.Tensor less.Tensor le.Tensor less_equal.Tensor isclose.default logical_and.default
    logical_or.default logical_xor.default bitwise_and.Tensor bitwise_or.Tensor bitwise_xor.Tensor
    __and__.Tensor __or__.Tensor __xor__.Tensor __lshift__.Tensor __rshift__.Tensor
    clamp.Tensor clamp_min.Tensor clamp_max.Tensor clip.Tensor complex.default polar.default
"""


def _overloads(names: str) -> list[str]:
    return [f"aten.{name}" for name in names.split()]


@rule(*_overloads(_ACTIVATIONS), *_overloads(_UNARY), *_overloads(_COMBINING))
def elementwise(call: OpCall) -> Value:
    """Unite the operands with broadcasting; scalars join nothing."""
    return merge(call.coupler, call.values(), call.shape)


@rule(
    "aten.contiguous.default",
    "aten.clone.default",
    "aten.detach.default",
    "aten.alias.default",
    "aten.lift_fresh.default",
    "aten.lift_fresh_copy.default",
)
def copying(call: OpCall) -> Value:
    """The same elements."""
    return call.value(0)


@rule("aten.type_as.default", "aten.to.other")
def casting(call: OpCall) -> Value:
    """Another tensor's dtype, nothing else of it."""
    return call.like(call.value(0))


@rule("aten.bucketize.Tensor")
def sorting_into_buckets(call: OpCall) -> Value:
    """Number of a bucket, whose boundaries stay."""
    call.coupler.pin_value(call.value(1), "boundaries of buckets")
    return call.like(call.value(0))


@rule("aten.native_dropout.default")
def native_dropout(call: OpCall) -> tuple[Value, ...]:
    """Dropout of a decomposed graph, and where it dropped."""
    if call.get(1) and call.get(2, True):
        raise UnsupportedCall("random numbers at evaluation")
    passed = call.like(call.value(0))
    return passed, passed


@rule("aten.prelu.default", "aten._prelu_kernel.default")
def prelu(call: OpCall) -> Value:
    """PReLU: its slopes lie along the channels."""
    slopes = call.value(1)
    if call.name == "aten._prelu_kernel.default":
        return merge(call.coupler, [call.value(0), slopes], call.shape)
    if slopes.shape == (1,) or slopes.rank == 0:
        return call.like(call.value(0))
    return merge_shifted(call.coupler, call.value(0), [slopes], 1)
