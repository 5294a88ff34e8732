"""Fourier transforms: what they mix stays, the other axes pass."""

from __future__ import annotations

from graphprune.labels.value import Value
from graphprune.ops.passing import across
from graphprune.ops.registry import OpCall, rule

_MIXED = "an axis that a Fourier transform mixes"

_ONE_DIM = [
    f"aten.fft_{name}.default" for name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")
]
_SEVERAL_DIMS = [
    f"aten.fft_{name}{count}.default"
    for name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")
    for count in ("2", "n")
]
_DECOMPOSED = [f"aten._fft_{name}.default" for name in ("r2c", "c2r", "c2c")]


@rule(*_ONE_DIM, *_SEVERAL_DIMS, *_DECOMPOSED)
def transforming(call: OpCall) -> Value:
    """Positions become frequencies or the other way round."""
    value = call.value(0)
    named = call.named("dim")
    # Without dims the last ones are transformed, as many as there are sizes, or all.
    given = call.named("s", range(value.rank))
    listed = range(-len(given), 0) if named is None else named
    dims = [listed] if isinstance(listed, int) else listed
    passed = across(call, value, [int(dim) % value.rank for dim in dims], _MIXED)
    return Value(call.shape, passed)
