"""Fast widths are found on staircases made up for the purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from graphprune.latency.layers import LayerShape
from graphprune.latency.widths import FastWidths, fast_multiple, fast_widths

CONVOLUTION = LayerShape(
    kind="convolution",
    inputs=256,
    outputs=128,
    positions=(56, 56),
    kernel=(3, 3),
    stride=(1, 1),
    padding=(1, 1),
    dilation=(1, 1),
)


def blocks(size: int) -> Callable[[int], float]:
    return lambda width: float(-(-width // size))


@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_a_block_that_is_not_full_takes_as_long(size: int) -> None:
    assert fast_multiple({w: blocks(size)(w) for w in range(65, 97)}) == size


def test_on_a_smooth_slope_widths_stay_nearly_free() -> None:
    assert fast_multiple({w: float(w) for w in range(65, 97)}) <= 4


def test_a_cliff_off_the_multiples_is_avoided() -> None:
    """Depthwise kernels refuse other widths; a slow one takes over."""
    seconds = {w: w * (1.0 if w % 16 == 0 else 9.0) for w in range(65, 97)}
    assert fast_multiple(seconds) == 16


def test_both_sides_of_a_layer_are_tried() -> None:
    def timer(shape: LayerShape) -> float:
        return blocks(4)(shape.inputs) * blocks(16)(shape.outputs)

    assert fast_widths(CONVOLUTION, timer) == FastWidths(inputs=4, outputs=16)


def test_depthwise_layers_have_one_width() -> None:
    shape = LayerShape(
        kind="convolution",
        inputs=1,
        outputs=96,
        positions=(14, 14),
        kernel=(3, 3),
        stride=(1, 1),
        padding=(1, 1),
        dilation=(1, 1),
        groups=96,
    )

    def timer(asked: LayerShape) -> float:
        assert asked.groups == asked.outputs
        return blocks(8)(asked.outputs)

    assert fast_widths(shape, timer) == FastWidths(inputs=1, outputs=8)
