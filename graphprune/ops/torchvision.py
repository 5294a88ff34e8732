"""Ops of torchvision, known by name: torchvision itself is not needed."""

from __future__ import annotations

from dataclasses import replace

from graphprune.labels.value import Value
from graphprune.ops.convolution import convolution
from graphprune.ops.passing import across
from graphprune.ops.registry import OpCall, Result, UnsupportedCall, rule


@rule("torchvision.deform_conv2d.default")
def deformable_convolution(call: OpCall) -> Result:
    """A convolution that reads at places of its own: channels are consumed and produced."""
    inputs, weight, offset, mask, bias = call.arguments[:5]
    if (call.get(11), call.get(12)) != (1, 1):
        raise UnsupportedCall("channels in groups")
    for places in (offset, mask):
        for factor in places.factors if isinstance(places, Value) else ():
            call.coupler.pin(factor, "places at which a convolution reads")
    # Strides and padding that let no position pass.
    plain = (inputs, weight, bias, [0, 0], [1, 1], [1, 1], 1)
    return convolution(replace(call, arguments=plain))


@rule("torchvision.roi_align.default")
def aligning_regions(call: OpCall) -> Value:
    """Cut regions out of images: channels pass."""
    return _regions(call)


@rule("torchvision.roi_pool.default")
def pooling_regions(call: OpCall) -> tuple[Value, ...]:
    """Cut regions out of images, and where their maxima lie: channels pass."""
    found = _regions(call)
    return found, found


def _regions(call: OpCall) -> Value:
    call.coupler.pin_value(call.value(1), "corners of regions")
    passed = across(
        call, call.value(0), (0, 2, 3), "images and positions that regions are cut from"
    )
    return Value(call.shape, passed)
