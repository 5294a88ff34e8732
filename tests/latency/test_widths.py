"""Fast widths are found on staircases made up for the purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from graphprune.latency.layers import LayerShape
from graphprune.latency.widths import NARROW, WIDE, added, curves_of, fast_multiple, fast_widths

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


def curve(seconds: Callable[[int], float]) -> dict[int, float]:
    return {width: seconds(width) for width in [*NARROW, *WIDE]}


def blocks(size: int) -> Callable[[int], float]:
    return lambda width: float(-(-width // size))


@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_a_block_that_is_not_full_takes_as_long(size: int) -> None:
    found = curve(blocks(size))
    assert fast_multiple(found) == size
    assert fast_widths(found, 100) == (*range(size, 100, size), 100)


def test_on_a_smooth_slope_any_narrow_width_will_do() -> None:
    found = curve(float)
    assert fast_multiple(found) <= 4
    assert fast_widths(found, 30) == tuple(range(1, 31))


def test_a_cliff_off_the_multiples_is_avoided() -> None:
    """Depthwise kernels refuse other widths; a slow one takes over."""
    found = curve(lambda w: w * (1.0 if w % 16 == 0 else 9.0))
    assert fast_multiple(found) == 16
    assert fast_widths(found, 96) == (1, 16, 32, 48, 64, 80, 96)


def test_narrow_layers_may_have_a_rule_of_their_own() -> None:
    """Below a block another kernel may be chosen, which is faster yet."""
    found = curve(lambda w: float(w) if w <= 8 else 10.0 * -(-w // 16))
    assert fast_widths(found, 48) == (*range(1, 9), 16, 32, 48)


def test_a_group_that_is_never_faster_stays_whole() -> None:
    assert fast_widths(curve(lambda w: 1.0), 24) == (24,)


def test_layers_count_by_their_time() -> None:
    flat, steps = curve(lambda w: 1.0), curve(blocks(16))
    assert fast_widths(added([(1.0, flat), (9.0, steps)]), 32) == (16, 32)
    assert fast_widths(added([(1.0, flat), (1e-3, steps)]), 32) == (32,)


def test_both_sides_of_a_layer_are_tried() -> None:
    found = curves_of(CONVOLUTION, lambda s: blocks(4)(s.inputs) * blocks(16)(s.outputs))
    assert found.inputs is not None
    assert (fast_multiple(found.inputs), fast_multiple(found.outputs)) == (4, 16)


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

    found = curves_of(shape, timer)
    assert found.inputs is None
    assert fast_multiple(found.outputs) == 8
