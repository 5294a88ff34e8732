"""In-place ops become functional ones where that changes nothing, and are refused elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import export

from graphprune.errors import TraceError
from graphprune.graph import trace
from graphprune.surgery import cut
from graphprune.tracing import functionalize
from tests.helpers import assert_exact, random_kept


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


def half_of_the_channels(x: Tensor) -> Tensor:
    x[:, :4] = x[:, :4].relu()
    return x


def every_second_channel(x: Tensor) -> Tensor:
    x[:, 1::2] = x[:, 1::2].relu()
    return x


def one_channel(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 2] += 1
    return x


def one_over_another(x: Tensor) -> Tensor:
    """The last two channels are lost: they go with the first two, which are read in their place."""
    x = x.clone()
    x[:, 4:] = x[:, :2]
    return x


WRITES: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "twice": (twice, 6),
    "view of what was written": (view_of_written, 6),
    "a mask of its own": (own_mask, 6),
    "read before": (read_before, 6),
    "through a view": (through_a_view, 6),
    "after a view": (after_a_view, 6),
    "half of the channels": (half_of_the_channels, 6),
    "every second channel": (every_second_channel, 6),
    "one channel": (one_channel, 5),
    "one over another": (one_over_another, 4),
}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("ratio", [0.3, 0.7])
def test_writes_are_followed(name: str, ratio: float) -> None:
    op, units = WRITES[name]
    graph = assert_exact(Written(op), (torch.randn(2, 3, 4, 4),), ratio=ratio)
    assert [len(group) for group in graph.groups] == [units]


def test_a_network_that_writes_through_views_still_trains() -> None:
    """The graph is decomposed on the way; its batch norm comes back whole."""

    class Normed(Written):
        def __init__(self) -> None:
            super().__init__(half_of_the_channels)
            self.bn = nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.op(self.bn(self.conv(x))).mean((2, 3)))

    graph = assert_exact(Normed(), (torch.randn(2, 3, 4, 4),))
    pruned = cut(graph, random_kept(graph, 0.3, 0)).train()
    before = pruned.get_buffer("bn.running_mean").clone()
    pruned(*pruned.example_inputs(4))
    assert not torch.equal(pruned.get_buffer("bn.running_mean"), before)


def test_an_op_that_writes_and_has_no_twin_is_refused_with_its_place() -> None:
    class Listed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x.clone()
            torch._foreach_add_([x], 1.0)
            return x

    module = export(Listed(), (torch.randn(2, 3),)).module(check_guards=False)
    with pytest.raises(TraceError, match=r"functional form \(.*test_functionalize\.py:\d+\)"):
        functionalize(module)


def test_any_number_of_inputs() -> None:
    """``*args`` in a forward keeps the batch dynamic."""

    class Any(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.out = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, first: Tensor, *rest: Tensor) -> Tensor:
            return self.out(self.up(first) + sum(self.up(x) for x in rest))

    graph = assert_exact(Any(), tuple(torch.randn(2, 4) for _ in range(3)))
    assert graph.program.dynamic_batch
    assert graph.n_units == 5


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


def test_a_trace_that_computes_something_else_is_refused() -> None:
    """Dropout that is always on differs from call to call."""
    noisy = Written(lambda x: F.dropout(x, training=True))
    with pytest.raises(TraceError, match="the traced network differs from Written"):
        trace(noisy, (torch.randn(2, 3, 4, 4),))


def test_views_behind_a_write_do_not_depend_on_the_memory_layout() -> None:
    """Without writes torch takes ``flatten`` for a view; ``roll`` lays tensors out otherwise."""

    class Rolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1)
            self.weight, self.out = nn.Parameter(torch.randn(6, 2, 3)), nn.Linear(80, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x).clone()
            x[:, :, 0] = 2 * x[:, :, 1]
            x = torch.einsum("bchw,cxy->bxyhw", x, self.weight).flatten(1, 2)
            return self.out(F.relu(self.b(x.roll(1, 3))).flatten(1))

    graph = assert_exact(Rolled(), (torch.randn(2, 3, 4, 4),))
    found = {group.name: len(group) for group in graph.groups}
    assert found == {"a.weight": 6, "weight": 3, "b.weight": 5}
