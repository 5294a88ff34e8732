"""Which widths run fast on this machine: found by timing, not assumed.

Kernels work on blocks of channels, and a block that is not full takes as long as a full one; some
kernels refuse odd widths altogether, and a slow one takes over. So time over width is a staircase,
and only widths at the edge of a step are worth having.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graphprune.latency.layers import LayerShape

CANDIDATES = (2, 4, 8, 16, 32)
"""Multiples that are tried, each a multiple of the one before."""

_TOLERANCE = 0.02
"""A larger multiple may cost this much more, on average over all widths."""

_OTHER = 64
"""Width of the side that is not varied: enough for kernels to run at their usual speed."""

_POSITIONS = 28
"""Largest spatial size that widths are tried on."""

Timer = Callable[[LayerShape], float]
"""Seconds of a layer."""


@dataclass(frozen=True, slots=True)
class FastWidths:
    """Multiples that are fast for one family of layers.

    Args:
        inputs: Of the width that a layer reads.
        outputs: Of the width that it makes.
    """

    inputs: int
    outputs: int


def fast_multiple(seconds: Mapping[int, float]) -> int:
    """Return the largest multiple to which any width can be raised at no cost.

    A multiple is good if widths raised to it take on average no longer than raised to the one
    before it.

    Args:
        seconds: By width, for a run of widths that ends at a multiple of all candidates.
    """
    best = 1
    for multiple in CANDIDATES:
        ratios = [
            seconds[_raised(width, multiple)] / seconds[_raised(width, best)] for width in seconds
        ]
        if sum(ratios) / len(ratios) > 1 + _TOLERANCE:
            break
        best = multiple
    return best


def _raised(width: int, multiple: int) -> int:
    return -(-width // multiple) * multiple


def fast_widths(shape: LayerShape, timer: Timer) -> FastWidths:
    """Find the widths that run fast for layers like this one.

    Args:
        shape: The layer; its positions may be cut down, its other side is.
        timer: Times it.
    """
    positions = (
        shape.positions
        if shape.kind == "product"
        else tuple(min(size, _POSITIONS) for size in shape.positions)
    )
    small = LayerShape(
        kind=shape.kind,
        inputs=min(shape.inputs, _OTHER),
        outputs=min(shape.outputs, _OTHER),
        positions=positions,
        kernel=shape.kernel,
        stride=shape.stride,
        padding=shape.padding,
        dilation=shape.dilation,
    )
    if shape.family == "depthwise":
        many = {w: timer(_depthwise(small, w)) for w in _tried(shape.outputs)}
        return FastWidths(inputs=1, outputs=fast_multiple(many))
    outputs = {w: timer(small.resized(small.inputs, w)) for w in _tried(shape.outputs)}
    inputs = {w: timer(small.resized(w, small.outputs)) for w in _tried(shape.inputs)}
    return FastWidths(inputs=fast_multiple(inputs), outputs=fast_multiple(outputs))


def _depthwise(shape: LayerShape, width: int) -> LayerShape:
    return LayerShape(
        kind=shape.kind,
        inputs=1,
        outputs=width,
        positions=shape.positions,
        kernel=shape.kernel,
        stride=shape.stride,
        padding=shape.padding,
        dilation=shape.dilation,
        groups=width,
    )


def _tried(width: int) -> range:
    """Return the widths to try: all between two multiples of the largest candidate."""
    largest = CANDIDATES[-1]
    return (
        range(2 * largest + 1, 3 * largest + 1)
        if width > 2 * largest
        else range(largest + 1, 2 * largest + 1)
    )
