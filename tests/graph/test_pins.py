"""What may not go, and why."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphprune.graph import DependencyGraph, trace
from tests.helpers import assert_exact
from tests.networks import NETWORKS


def reasons(graph: DependencyGraph) -> dict[str, set[str]]:
    """Return the reasons by parameter."""
    found: dict[str, set[str]] = {}
    for pin in graph.pinned:
        found.setdefault(pin.parameter, set()).add(pin.reason)
    return found


def test_outputs_are_pinned() -> None:
    network = NETWORKS["Residual"]
    graph = trace(network.make(), network.inputs())
    assert reasons(graph) == {"head.fc.weight": {"output of the network"}}
    (pin,) = graph.pinned
    assert (pin.dim, pin.size, pin.n_pinned) == (0, 5, 5)


def test_an_unknown_op_is_named_with_its_place() -> None:
    network = NETWORKS["MatrixExponential"]
    graph = trace(network.make(), network.inputs())
    assert dict(graph.unknown_ops) == {"aten.matrix_exp.default": 1}
    pin = next(pin for pin in graph.pinned if pin.parameter == "mid.0.weight")
    assert pin.reason == "no rule for aten.matrix_exp.default"
    assert pin.op == "matrix_exp"
    assert "networks.py:" in pin.source


def test_tokens_that_attention_sums_over_are_pinned() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.out = nn.Linear(6, 5), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.tokens(x.transpose(1, 2)).transpose(1, 2)
            return self.out(F.scaled_dot_product_attention(x, y, y))

    graph = assert_exact(Mixer(), (torch.randn(2, 6, 4),))
    assert reasons(graph)["tokens.weight"] == {"tokens that attention sums over"}


def test_a_used_argmax_pins_its_axis_and_an_unused_one_does_not() -> None:
    class Peak(nn.Module):
        def __init__(self, places: bool) -> None:
            super().__init__()
            self.up, self.out, self.places = nn.Linear(4, 6), nn.Linear(1, 2), places

        def forward(self, x: Tensor) -> Tensor:
            values, where = self.up(x).max(1, keepdim=True)
            return self.out(values) + (where if self.places else 0)

    assert not trace(Peak(True), (torch.randn(2, 4),)).groups
    graph = assert_exact(Peak(False), (torch.randn(2, 4),))
    assert [len(group) for group in graph.groups] == [6]


@pytest.mark.parametrize("rank", [2, 3])
def test_pooling_without_a_channel_dim_pins_its_positions(rank: int) -> None:
    """Pools take a tensor of one dim less for an image without a batch."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.out = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.up(x)
            pooled = F.avg_pool1d(x, 3, 1, 1) if rank == 2 else F.max_pool2d(x, 3, 1, 1)
            return self.out(pooled)

    inputs = (torch.randn(2, *[5] * (rank - 2), 4),)
    graph = trace(Pooled(), inputs)
    assert reasons(graph)["up.weight"] == {"positions that a pooling or resampling op mixes"}


def test_a_frozen_network_has_groups_all_the_same() -> None:
    network = NETWORKS["Residual"]
    model = network.make().requires_grad_(False)
    assert trace(model, network.inputs()).n_units == 14


def test_one_channel_is_never_a_unit() -> None:
    model = nn.Sequential(nn.Conv2d(3, 1, 3), nn.ReLU(), nn.Conv2d(1, 2, 1))
    assert not trace(model, (torch.randn(2, 3, 8, 8),)).groups


def test_reason_of_an_activation() -> None:
    network = NETWORKS["Residual"]
    graph = trace(network.make(), network.inputs())
    assert graph.reason(("add", None), 1) == ""
    assert graph.reason(("add", None), 2) == "fixed size"
    assert graph.reason(("linear", None), 1) == "output of the network"
