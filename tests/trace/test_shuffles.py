"""Shuffles written as views become permutations; other rearrangements stay what they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from graphprune.graph import DependencyGraph, trace
from tests.helpers import assert_exact, randomize


class Rearranged(nn.Module):
    """Two convolutions joined, rearranged, read by a third."""

    def __init__(self, op: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
        self.op, self.out = op, nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.op(torch.cat([self.left(x), self.right(x)], 1)))


def by_views(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def by_permute(x: Tensor) -> Tensor:
    return x.unflatten(1, (3, 4)).permute(0, 2, 1, 3, 4).flatten(1, 2)


def twice(x: Tensor) -> Tensor:
    return by_views(by_permute(x))


def transposed_image(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.flatten(2).transpose(1, 2).reshape(n, w, h, c).permute(0, 3, 2, 1)


def selects(graph: DependencyGraph) -> int:
    nodes = graph.program.module.graph.nodes
    return sum(node.target is torch.ops.aten.index_select.default for node in nodes)


SHUFFLES: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "views": (by_views, 1),
    "permute": (by_permute, 1),
    "op": (lambda x: F.channel_shuffle(x, 3), 1),
    "twice": (twice, 2),
}


@pytest.mark.parametrize("name", SHUFFLES)
@pytest.mark.parametrize("ratio", [0.3, 0.8])
def test_every_shuffled_channel_is_a_unit(name: str, ratio: float) -> None:
    op, count = SHUFFLES[name]
    graph = assert_exact(Rearranged(op), (torch.randn(2, 3, 4, 4),), ratio=ratio)
    assert {group.name: len(group) for group in graph.groups} == {
        "left.weight": 6,
        "right.weight": 6,
    }
    assert selects(graph) == count


@pytest.mark.parametrize(
    "op",
    [lambda x: x.flatten(2).unflatten(2, (4, 4)), transposed_image, lambda x: x.transpose(2, 3)],
)
def test_what_moves_positions_stays(op: Callable[[Tensor], Tensor]) -> None:
    graph = assert_exact(Rearranged(op), (torch.randn(2, 3, 4, 4),))
    assert selects(graph) == 0
    assert graph.n_units == 12


def test_a_view_in_between_that_is_read_elsewhere_keeps_its_meaning() -> None:
    def read_twice(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        dealt = x.view(n, 2, c // 2, h, w).transpose(1, 2)
        return dealt.reshape(n, c, h, w) + dealt.sum((1, 2))[:, None]

    graph = assert_exact(Rearranged(read_twice), (torch.randn(2, 3, 4, 4),))
    assert selects(graph) == 1


def test_shufflenet_loses_single_channels() -> None:
    """24 of the stem, and per block the two pointwise convolutions of each branch."""
    model = randomize(torchvision.models.shufflenet_v2_x0_5())
    graph = trace(model.eval(), (torch.randn(2, 3, 64, 64),))
    widths, blocks = (24, 48, 96), (4, 8, 4)
    interiors = sum(width * (2 * count + 1) for width, count in zip(widths, blocks, strict=True))
    assert graph.n_units == 24 + interiors + 1024
