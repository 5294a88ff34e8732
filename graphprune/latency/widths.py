"""Which widths run fast on this machine: found by timing, not assumed.

Kernels work on blocks of channels, and a block that is not full takes as long as a full one; some
kernels refuse odd widths altogether, and a slow one takes over. So time over width is a staircase,
and only widths at the edge of a step are worth having. Wide layers repeat one pattern; narrow ones,
for which other kernels may be chosen, are looked at width by width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from graphprune.latency.layers import LayerShape

CANDIDATES = (2, 4, 8, 16, 32)
"""Multiples that are tried, each a multiple of the one before."""

NARROW = range(1, CANDIDATES[-1] + 1)
"""Widths that are looked at one by one."""

WIDE = range(2 * CANDIDATES[-1] + 1, 3 * CANDIDATES[-1] + 1)
"""Widths that stand for all that are wider: they end at a multiple of all candidates."""

_TOLERANCE = 0.02
"""A wider layer that takes this much longer, on average, still costs nothing."""

_OTHER = 64
"""Width of the side that is not varied: enough for kernels to run at their usual speed."""

_POSITIONS = 28
"""Largest spatial size that widths are tried on."""

Timer = Callable[[LayerShape], float]
"""Seconds of a layer."""

Curve = Mapping[int, float]
"""Seconds by width, for all narrow and all wide ones."""


@dataclass(frozen=True, slots=True)
class Curves:
    """Time over width for one family of layers.

    Args:
        inputs: Over the width that a layer reads; None where it is that which it makes.
        outputs: Over the width that it makes.
    """

    inputs: Curve | None
    outputs: Curve


def curves_of(shape: LayerShape, timer: Timer) -> Curves:
    """Time layers like this one over widths.

    Args:
        shape: The layer; what is not varied is cut down, so that this is quick.
        timer: Times it.
    """
    positions = shape.positions
    if shape.kind == "convolution":
        positions = tuple(min(size, _POSITIONS) for size in shape.positions)
    small = replace(
        shape,
        inputs=min(shape.inputs, _OTHER),
        outputs=min(shape.outputs, _OTHER),
        positions=positions,
    )
    tried = [*NARROW, *WIDE]
    if shape.family == "depthwise":
        return Curves(None, {w: timer(replace(small, outputs=w, groups=w)) for w in tried})
    return Curves(
        inputs={w: timer(replace(small, inputs=w)) for w in tried},
        outputs={w: timer(replace(small, outputs=w)) for w in tried},
    )


def added(curves: Sequence[tuple[float, Curve]]) -> Curve:
    """Add curves up, each scaled so that it has its weight at the widest width."""
    widest = WIDE[-1]
    return {
        width: sum(weight * curve[width] / curve[widest] for weight, curve in curves)
        for width in [*NARROW, *WIDE]
    }


def fast_multiple(curve: Curve) -> int:
    """Return the largest multiple to which wide layers can be raised at no cost.

    A multiple is good if widths raised to it take on average no longer than raised to the one
    before it.
    """
    best = 1
    for multiple in CANDIDATES:
        ratios = [curve[_raised(w, multiple)] / curve[_raised(w, best)] for w in WIDE]
        if sum(ratios) / len(ratios) > 1 + _TOLERANCE:
            break
        best = multiple
    return best


def fast_widths(curve: Curve, most: int) -> tuple[int, ...]:
    """Return the widths up to ``most`` that are worth having, ascending; ``most`` is one.

    Narrow ones are if no wider narrow one is as fast, others if they are multiples that run fast.
    """
    multiple = fast_multiple(curve)
    last = NARROW[-1]
    narrow = [
        w
        for w in NARROW
        if all(curve[w] * (1 + _TOLERANCE) < curve[wider] for wider in range(w + 1, last + 1))
    ]
    wide = range(_raised(last + 1, multiple), most, multiple)
    return (*(w for w in narrow if w < most), *wide, most)


def _raised(width: int, multiple: int) -> int:
    return -(-width // multiple) * multiple
