"""In-place ops become functional ones where that changes nothing, and are refused elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphprune.errors import TraceError
from graphprune.graph import trace
from tests.helpers import assert_exact


class Written(nn.Module):
    """``Conv2d``, something that writes, a classifier."""

    def __init__(self, op: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.op = nn.Conv2d(3, 6, 3, padding=1), op
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.op(self.conv(x)).mean((2, 3)))


def twice(x: Tensor) -> Tensor:
    x.relu_()
    x.add_(1).mul_(2)
    return x


def view_of_written(x: Tensor) -> Tensor:
    x.relu_()
    flat = x.view(x.shape[0], 6, -1)
    return flat.unflatten(2, (4, 4))


def own_mask(x: Tensor) -> Tensor:
    mask = torch.zeros(4, 4, dtype=x.dtype)
    mask[1:] = 1
    return x * mask


def through_a_view(x: Tensor) -> Tensor:
    x[:, :, 0].mul_(2)
    return x


def after_a_view(x: Tensor) -> Tensor:
    """The view is made between two writes and read after both."""
    x.relu_()
    flat = x.view(x.shape[0], 6, 4, 4)
    x.add_(1)
    return flat


def read_before(x: Tensor) -> Tensor:
    flat = x.flatten(2).sum(-1)
    x.relu_()
    return x + flat[:, :, None, None]


@pytest.mark.parametrize("op", [twice, view_of_written, own_mask, read_before])
def test_writes_are_followed(op: Callable[[Tensor], Tensor]) -> None:
    graph = assert_exact(Written(op), (torch.randn(2, 3, 4, 4),))
    assert [len(group) for group in graph.groups] == [6]


@pytest.mark.parametrize("op", [through_a_view, after_a_view])
def test_writing_through_a_view_is_refused(op: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(TraceError, match=r"test_functionalize\.py:\d+"):
        trace(Written(op), (torch.randn(2, 3, 4, 4),))


def test_the_input_is_not_written_to() -> None:
    class Eager(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.out = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.up(x.relu_()))

    inputs = (torch.randn(2, 4),)
    before = inputs[0].clone()
    graph = trace(Eager(), inputs)
    assert torch.equal(inputs[0], before)
    assert graph.n_units == 5
