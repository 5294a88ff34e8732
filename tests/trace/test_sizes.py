"""Sizes that depend on the data cannot be labelled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphprune.errors import TraceError
from graphprune.graph import trace
from graphprune.tracing import trace_program


class Picked(nn.Module):
    def __init__(self, pick: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.up, self.out, self.pick = nn.Linear(4, 6), nn.Linear(6, 2), pick

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.pick(self.up(x)))


@pytest.mark.parametrize(
    ("pick", "op"),
    [
        (lambda x: x[x.sum(-1) > 0], r"aten\.index\.Tensor"),
        (lambda x: x[:, torch.tensor([True, False, True])], r"aten\.index\.Tensor"),
        (lambda x: x + torch.masked_select(x, x > 0).sum(), r"aten\.masked_select\.default"),
    ],
    ids=["mask", "fixed mask", "masked_select"],
)
def test_what_a_mask_picks_is_refused(pick: Callable[[Tensor], Tensor], op: str) -> None:
    with pytest.raises(TraceError, match=rf"{op} makes a tensor .* \(.*test_sizes\.py:\d+\)"):
        trace(Picked(pick), (torch.randn(2, 3, 4),))


def test_networks_whose_outputs_are_not_finite_are_traced():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[0] = torch.inf
    program = trace_program(model, (torch.zeros(2, 3),))
    torch.testing.assert_close(
        program.module(torch.zeros(2, 3)), model(torch.zeros(2, 3)), equal_nan=True
    )
