"""Forms of single ops that once went wrong, each in a network around it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers import assert_exact, assert_samplewise


class Around(nn.Module):
    """``Linear(6, 8) -> something -> Linear(width, 3)`` on (batch, 5, 6)."""

    def __init__(self, op: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.op = op
        self.up, self.other = nn.Linear(6, 8), nn.Linear(6, 8)
        self.out = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.op(self.up(x)))


def zeros_beside(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_zeros(x.shape[0], 5, 2)], -1)


def upper(x: Tensor) -> Tensor:
    return x.transpose(1, 2).unsqueeze(2).expand(-1, -1, 5, -1).triu().sum(2).transpose(1, 2)


OPS: dict[str, tuple[Callable[[Tensor], Tensor], int, int]] = {
    # name: (op, width after it, units of `up`)
    "squeeze all": (lambda x: x.mean(1, keepdim=True).squeeze().unsqueeze(1), 8, 8),
    "squeeze a wide dim": (lambda x: x.squeeze(2).squeeze((1, 2)), 8, 8),
    "view_as": (lambda x: x.flatten(1).view_as(x), 8, 8),
    "reshape_as itself": (lambda x: x.reshape_as(x.relu()), 8, 8),
    "expand_as": (lambda x: x * x.amax(-1, keepdim=True).expand_as(x), 8, 8),
    "expand by -1": (lambda x: x[:, :1].expand(-1, 5, -1), 8, 8),
    "broadcast_to": (lambda x: torch.broadcast_to(x[:, :1], x.shape), 8, 8),
    "repeat": (lambda x: x.repeat(1, 1, 3), 24, 8),
    "repeat_interleave": (lambda x: x.repeat_interleave(3, -1), 24, 8),
    "new_zeros": (zeros_beside, 10, 8),
    "triu over tokens": (upper, 8, 8),
    "tensor_split": (lambda x: torch.cat(x.tensor_split((3, 5), -1)[::-1], -1), 8, 8),
    "tensor_split sections": (lambda x: torch.cat(x.tensor_split(3, -1)[::-1], -1), 8, 8),
    "split size": (lambda x: torch.cat(x.split(3, -1)[::-1], -1), 8, 8),
    "unbind": (lambda x: torch.stack(x.unflatten(-1, (2, 4)).unbind(2), 2).flatten(2), 8, 4),
    "narrow": (lambda x: x.narrow(-1, 2, 5), 5, 8),
    "negative slice": (lambda x: torch.cat([x[..., -3:], x[..., :-3]], -1), 8, 8),
    "pad tokens": (lambda x: F.pad(x, (0, 0, 1, 1))[:, 1:-1], 8, 8),
    "pad with one": (lambda x: F.pad(x, (1, 2), value=1.0), 11, 8),
    "movedim": (lambda x: x.movedim((1, 2), (2, 1)).mT, 8, 8),
    "unflatten": (lambda x: x.unflatten(-1, (-1, 2)).flatten(-2), 8, 4),
    "index tokens": (lambda x: x[:, torch.tensor([0, 2, 4])], 8, 8),
    "permuted by a constant": (
        lambda x: x[..., torch.tensor([3, 1, 0, 2, 7, 5, 4, -2])],
        8,
        8,
    ),
    "picked twice by a constant": (
        lambda x: x.index_select(-1, torch.tensor([3, 1, 1, 0, 5])),
        5,
        8,
    ),
    "strided slice": (lambda x: x[..., 1::2], 4, 8),
    "strided slices joined": (lambda x: torch.cat([x[..., 1::2], x[..., ::2]], -1), 8, 8),
    "where": (lambda x: torch.where(x > 0, x, 0.1 * x), 8, 8),
    "masked_fill": (lambda x: x.masked_fill(x > 0.5, 0.5), 8, 8),
    "type_as": (lambda x: x.float().type_as(x), 8, 8),
    "min": (lambda x: x + x.min(-1, keepdim=True)[0], 8, 8),
    "max of all": (lambda x: x / x.max(), 8, 8),
    "variance": (lambda x: x / (1 + x.var(-1, keepdim=True, correction=0)), 8, 8),
    "norm": (lambda x: x / x.norm(dim=-1, keepdim=True), 8, 8),
    "normalize": (lambda x: F.normalize(x, p=1, dim=-1), 8, 8),
    "sum": (lambda x: x + x.sum((1, 2), keepdim=True), 8, 8),
    "log_softmax": (lambda x: F.log_softmax(x, -1), 8, 8),
    "batch statistics": (
        lambda x: F.batch_norm(x.mT, None, None, training=True).mT,
        8,
        8,
    ),
    "layer norm over two dims": (lambda x: F.layer_norm(x, (5, 8)), 8, 8),
}


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("ratio", [0.4, 1.0])
def test_op_is_exact(name: str, ratio: float) -> None:
    op, width, units = OPS[name]
    graph = assert_exact(Around(op, width), (torch.randn(2, 5, 6),), ratio=ratio)
    assert {group.name: len(group) for group in graph.groups} == {"up.weight": units}
    if name not in ("max of all", "batch statistics"):
        assert_samplewise(graph)


@pytest.mark.parametrize("kind", [nn.functional.relu, F.gelu])
def test_a_network_made_of_weights_alone_is_exact(kind: Callable[[Tensor], Tensor]) -> None:
    """A bias computed from a table by layers of its own: those are pruned as well."""

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Buffer(torch.randn(5, 2))
            self.a, self.b = nn.Linear(2, 9), nn.Linear(9, 4)
            self.up, self.out = nn.Linear(6, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.up(x) + self.b(kind(self.a(self.table))))

    graph = assert_exact(Table(), (torch.randn(2, 5, 6),))
    assert {group.name: len(group) for group in graph.groups} == {"a.weight": 9, "up.weight": 4}


def test_a_weight_made_by_the_network_is_exact() -> None:
    """A constant input to a layer whose weight depends on the input."""

    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(5, 6))
            self.make, self.out = nn.Linear(4, 6), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.linear(self.table, self.make(x).sum(0).expand(3, -1)))

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(5, 6))
            self.make = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.table @ self.make(x).transpose(1, 2)

    graph = assert_exact(Product(), (torch.randn(2, 3, 4),))
    assert len(graph.groups) == 1
    assert_samplewise(graph)
    graph = assert_exact(Hyper(), (torch.randn(2, 4),))
    assert len(graph.groups) == 1
