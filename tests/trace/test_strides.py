"""``as_strided`` calls that change nothing go; others pin what they address."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import assert_exact


class Restated(nn.Module):
    def __init__(self, restate: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.up, self.out, self.restate = nn.Linear(4, 6), nn.Linear(width, 2), restate

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.restate(self.up(x)))


@pytest.mark.parametrize(
    ("restate", "width", "units"),
    [
        (lambda x: x.as_strided(x.shape, x.stride()), 6, 6),
        # The stride of a dim of one entry is never taken.
        (lambda x: x.unsqueeze(1).as_strided((x.shape[0], 1, 6), (6, 99, 1)).squeeze(1), 6, 6),
        (lambda x: x.as_strided((x.shape[0], 3), (6, 2)), 3, 0),
        (lambda x: x.as_strided((x.shape[0], 6), (6, 1), 0).T.as_strided(x.shape, (1, 1)), 6, 0),
    ],
    ids=["whole", "one entry", "every second", "overlapping"],
)
def test_restated_strides(restate: Callable[[Tensor], Tensor], width: int, units: int) -> None:
    graph = assert_exact(Restated(restate, width), (torch.randn(2, 4),))
    assert graph.n_units == units
    named = {str(node.target) for node in graph.nodes.values()}
    assert ("aten.as_strided.default" in named) == (units == 0)
