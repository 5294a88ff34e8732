"""Windows: between which bounds what a layer makes is seen at all.

Where nothing but a rectifier reads a layer's output, through whatever is affine in it entry by
entry, values below zero there all come to the same. A refit need not reproduce them: it is enough
that they stay below. With targets t and a window [l, h] in the layer's own output the error is

    clamp(y, l, h) - clamp(t, l, h).

Entries whose target lies in the window count as ever, the others only as far as the output
reaches into it. That is convex, and least squares towards a target that gives way (an entry that
should be shut and is may stay where it is, one that is open should come to the bound) lowers it
step by step with the same second moments: a majorisation whose every step is a least-squares fit.

References:
    Zhang, Zou, He and Sun (2015), Accelerating very deep convolutional networks for classification
    and detection, arXiv 1505.06798 (responses after the rectifier; theirs is not convex).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from graphprune.analysis import overload_name
from graphprune.ops.resize import argument
from graphprune.repairs.lockstep import Lookup
from graphprune.repairs.targets import (
    ShapeOf,
    Target,
    affine_path,
    followed,
    matters,
    only_user,
    squared_scales,
)


@dataclass(frozen=True)
class Window:
    """What a clamp leaves of a layer's output.

    Args:
        target: The layer, and the nodes up to the clamp.
        low: What the clamp raises lower values to; minus infinity if there is no such bound.
        high: What it lowers higher values to; infinity if there is no such bound.
    """

    target: Target
    low: float
    high: float


def window_of(layer: fx.Node, shape_of: ShapeOf) -> Window | None:
    """Return the window of a layer; None where something else than a clamp reads its output.

    Args:
        layer: The node, in the pruned network.
        shape_of: Shapes in the unpruned network, by node.
    """
    path = affine_path(layer, shape_of)
    end = path[-1] if path else layer
    reader = only_user(end)
    bounds = None if reader is None else _bounds(reader)
    return None if bounds is None else Window(Target(layer, path, end), *bounds)


def _bounds(node: fx.Node) -> tuple[float, float] | None:
    """Return between what a call clamps; None if that is not what it does."""
    overload = overload_name(node) if node.op == "call_function" else ""
    if overload == "aten.relu.default":
        return 0.0, math.inf
    if overload not in _CLAMPS:
        return None
    low, high = (argument(node, place) for place in (1, 2))
    if isinstance(low, fx.Node) or isinstance(high, fx.Node):
        return None
    return -math.inf if low is None else low, math.inf if high is None else high


_CLAMPS = frozenset({"aten.clamp.default", "aten.hardtanh.default"})


def limits(window: Window, output: Tensor, lookup: Lookup) -> tuple[Tensor, Tensor]:
    """Return between what the output is seen, entry by entry.

    Args:
        window: The layer's.
        output: The layer's output, of the pruned layer's shape.
        lookup: Values of the pruned network.

    Returns:
        Lower and upper limits, as ``output``; infinite where there are none.
    """
    target = window.target
    with torch.enable_grad():
        leaf = output.detach().clone().requires_grad_()
        reached = followed(target.layer, target.path, lookup)(leaf)
        ones = torch.ones_like(reached)
        (scales,) = torch.autograd.grad(reached, leaf, ones, retain_graph=True)
        # As in targets: the path's inverse follows from its transpose.
        (moved,) = torch.autograd.grad(reached, leaf, reached.detach(), retain_graph=True)
    squares = squared_scales(target, output, lookup)
    seen = matters(squares)
    squares = squares.where(seen, 1.0)

    def pulled_back(bound: float) -> Tensor:
        if math.isinf(bound):
            return bound * scales.sign()
        return output + (bound * scales - moved) / squares

    at_low, at_high = pulled_back(window.low), pulled_back(window.high)
    low = torch.minimum(at_low, at_high).where(seen, -math.inf)
    return low, torch.maximum(at_low, at_high).where(seen, math.inf)
