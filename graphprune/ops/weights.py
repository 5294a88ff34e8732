"""Weight norm: slices of a weight scaled to given lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphprune.labels.algebra import merge
from graphprune.labels.value import Value
from graphprune.ops.registry import OpCall, UnsupportedCall, rule


@rule("aten._weight_norm.default")
def weight_norm(call: OpCall) -> Value:
    """Slices scaled to given lengths: only what is kept counts as length."""
    return _weight_norm(call)


@rule("aten._weight_norm_interface.default")
def weight_norm_and_lengths(call: OpCall) -> tuple[Value, ...]:
    """The same in a decomposed graph, which also returns the lengths."""
    if call.read[1]:
        raise UnsupportedCall("the lengths are used")
    return _weight_norm(call), Value(call.shapes[1])


def _weight_norm(call: OpCall) -> Value:
    value, along, several = call.value(0), int(call.get(2)), len(call.shapes) > 1
    dims = tuple(dim for dim in range(value.rank) if along < 0 or dim != along)

    def masked_weight_norm(mask: Tensor, weight: Tensor, lengths: Tensor, _: int) -> Any:
        squares = (weight * mask.to(weight.dtype)).square().sum(dims, keepdim=True)
        nothing = squares == 0
        roots = torch.where(nothing, 1, squares).sqrt()
        scaled = weight * torch.where(nothing, 0, lengths / roots)
        return (scaled, lengths) if several else scaled

    # Along the slices, too: the length of an absent one is 0, and nothing may be divided by it.
    call.coupler.statistic((0,), tuple(range(value.rank)), masked_weight_norm)
    return merge(call.coupler, [value, call.value(1)], call.shape)
