"""Exact enumeration against a brute force that knows nothing of it."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from graphprune.data import as_batches
from graphprune.errors import BudgetError
from graphprune.estimators.exact import ExactEstimator
from graphprune.game.games import GroupGame
from graphprune.graph import trace
from tests.estimators.table import TableGame, pairs
from tests.helpers import run_zeroed
from tests.networks import NETWORKS


@pytest.mark.parametrize(
    ("network", "group"),
    [("Concat", "left.0.weight"), ("Residual", "a.0.weight"), ("FlattenLinear", "1.0.weight")],
)
def test_exact_values_are_mean_marginals_over_all_orders(network: str, group: str) -> None:
    """Every order of players; worth from the original module with zeroed slices."""
    model, inputs = NETWORKS[network].make(), NETWORKS[network].inputs()
    graph = trace(model, inputs)
    players = graph.group(group)
    x = torch.randn(3, *inputs[0].shape[1:], dtype=torch.float64)
    whole = model(x).log_softmax(1).detach()
    worth: dict[frozenset[int], np.ndarray] = {}

    def value(members: frozenset[int]) -> np.ndarray:
        if members not in worth:
            kept = graph.all_kept()
            kept[players.span] = [k in members for k in range(len(players))]
            (outputs,) = run_zeroed(model, graph, kept, (x,))
            divergence = (whole.exp() * (whole - outputs.log_softmax(1))).sum(1)
            worth[members] = -divergence.numpy()
        return worth[members]

    expected = np.zeros((3, len(players)))
    orders = list(permutations(range(len(players))))
    for order in orders:
        for place, player in enumerate(order):
            before = frozenset(order[:place])
            expected[:, player] += (value(before | {player}) - value(before)) / len(orders)
    game = GroupGame(graph, players, as_batches((x,)), "kl")
    found = ExactEstimator().estimate(game)
    np.testing.assert_allclose(found.per_image, expected, atol=1e-12)
    assert found.evaluations == game.evaluations == 2 ** len(players)
    assert np.abs(expected).max() > 1e-4


def test_memory_does_not_grow_with_coalitions() -> None:
    """Coalitions are asked for in pieces."""
    game = pairs(11, n_images=1)
    ExactEstimator().estimate(game)
    assert max(len(kept) for kept in game.asked) <= 256
    assert len(np.unique(np.concatenate(game.asked), axis=0)) == 2**11


def test_too_many_players() -> None:
    game = TableGame(21, lambda kept: kept.sum(1)[:, None])
    with pytest.raises(BudgetError, match=r"exact values of 21 players take 2\^21 coalitions"):
        ExactEstimator().estimate(game)
    with pytest.raises(BudgetError, match="allowed are 1023"):
        ExactEstimator(budget=1023).estimate(pairs(10, 1))
