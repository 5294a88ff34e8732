"""Rankings by every game: group by group, of the whole network, and hierarchical."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise, permutations
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.func import functional_call

from graphprune.checkpoint import StateStore
from graphprune.criteria import playing, rank
from graphprune.data import CalibrationBatches, as_batches
from graphprune.estimators import Stopping, create
from graphprune.game.evaluation import Running
from graphprune.game.games import GroupGame, HierarchicalGame, NetworkGame
from graphprune.graph import DependencyGraph, trace
from graphprune.ranking import Ranking
from tests.game.test_packing import data_for
from tests.helpers import leaves
from tests.networks import NETWORKS
from tests.traced import traced


class Tiny(nn.Sequential):
    """Three groups of three, two and two units."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2), nn.Tanh(),
            nn.Linear(2, 3),
        )  # fmt: skip


def tiny() -> tuple[DependencyGraph, CalibrationBatches]:
    torch.manual_seed(3)
    model = Tiny().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    graph = trace(model, (torch.randn(2, 4, dtype=torch.float64),))
    data = as_batches([(torch.randn(5, 4, dtype=torch.float64), torch.arange(5) % 3)])
    assert [group.n_units for group in graph.groups] == [3, 2, 2]
    return graph, data


Worth = Callable[[frozenset[int]], np.ndarray]


def worth_of(graph: DependencyGraph, data: CalibrationBatches, value: str = "kl") -> Worth:
    """Return the worth of every coalition of the whole network, each on its own, per image."""
    game, known = NetworkGame(graph, data, value), {}

    def worth(kept: frozenset[int]) -> np.ndarray:
        if kept not in known:
            row = torch.zeros(1, graph.n_units, dtype=torch.bool)
            row[0, list(kept)] = True
            known[kept] = game.values(row)[0].numpy()
        return known[kept]

    return worth


def mean_marginals(worth: Worth, players: int, orders: Iterable[tuple[int, ...]]) -> np.ndarray:
    """Average marginals over orders, (n_images, n_players)."""
    total, count = np.zeros((len(worth(frozenset())), players)), 0
    for order in orders:
        count += 1
        for place, player in enumerate(order):
            total[:, player] += worth(frozenset(order[: place + 1])) - worth(
                frozenset(order[:place])
            )
    return total / count


def compatible(sizes: list[int]) -> list[tuple[int, ...]]:
    """Return all orders of players in which those of one union follow each other."""
    starts = np.cumsum([0, *sizes])
    unions = [range(a, b) for a, b in pairwise(starts.tolist())]
    found = []
    for turn in permutations(unions):
        orders: list[tuple[int, ...]] = [()]
        for union in turn:
            orders = [order + inner for order in orders for inner in permutations(union)]
        found += orders
    return found


@pytest.fixture(scope="module")
def small() -> tuple[DependencyGraph, CalibrationBatches, np.ndarray]:
    """A tiny network with its Owen values by brute force, per image."""
    graph, data = tiny()
    orders = compatible([3, 2, 2])
    assert len(orders) == factorial(3) * factorial(3) * 2 * 2
    return graph, data, mean_marginals(worth_of(graph, data), 7, orders)


Small = tuple[DependencyGraph, CalibrationBatches, np.ndarray]


# ---- the hierarchical game ----------------------------------------------------------------------


def test_unions_are_the_groups() -> None:
    graph = traced("PaddedShortcut")
    game = HierarchicalGame(graph, data_for(graph, 3))
    assert game.unions is not None
    assert game.unions.shape == (game.n_players,) == (graph.n_units,)
    for number, group in enumerate(graph.groups):
        assert (game.unions[group.span] == number).all()
        assert (game.unions == number).sum() == group.n_units
    assert NetworkGame(graph, data_for(graph, 3)).unions is None


@pytest.mark.parametrize("name", ["permutation", "antithetic"])
def test_values_are_owen_values(name: str, small: Small) -> None:
    graph, data, truth = small
    estimate = create(name, budget=4000, seed=0).estimate(HierarchicalGame(graph, data))
    assert (np.abs(estimate.values - truth.mean(0)) <= 5 * estimate.stderr + 1e-9).all()
    assert np.abs(estimate.values - truth.mean(0)).max() < 0.05 * np.abs(truth.mean(0)).max()
    # Every order adds up to what the whole network is worth more than none of it.
    worth = worth_of(graph, data)
    whole = worth(frozenset(range(7))) - worth(frozenset())
    np.testing.assert_allclose(estimate.per_image.sum(1), whole, rtol=1e-9)


@pytest.mark.parametrize("name", ["permutation", "antithetic"])
def test_a_groups_values_add_up_to_its_own_in_the_game_of_groups(name: str, small: Small) -> None:
    graph, data, truth = small
    worth = worth_of(graph, data)
    spans = [range(group.first, group.first + group.n_units) for group in graph.groups]

    def of_groups(kept: frozenset[int]) -> np.ndarray:
        return worth(frozenset(unit for group in kept for unit in spans[group]))

    expected = mean_marginals(of_groups, 3, permutations(range(3)))
    sums = np.stack([truth[:, list(span)].sum(1) for span in spans], 1)
    np.testing.assert_allclose(sums, expected, rtol=1e-9)
    ranking = rank(
        graph, data, game="hierarchical", estimator=name, aggregate="mean", budget=600, seed=1
    )
    found = np.array([group.scores.sum() for group in ranking.groups])
    np.testing.assert_allclose(found, expected.mean(0), atol=0.05 * np.abs(expected.mean(0)).max())
    np.testing.assert_allclose(found.sum(), expected.mean(0).sum(), rtol=1e-9)


def test_what_a_hierarchical_ranking_says(small: Small) -> None:
    graph, data, truth = small
    ranking = rank(graph, data, game="hierarchical", budget=600)
    assert (ranking.game, ranking.estimator, ranking.semivalue) == (
        "hierarchical",
        "antithetic",
        "shapley",
    )
    assert len({id(group.effort) for group in ranking.groups}) == 1
    effort = ranking.groups[0].effort
    assert effort is not None
    assert effort.evaluations == ranking.evaluations <= 600 * 7
    magnitudes = np.abs(truth).mean(0)
    np.testing.assert_allclose(ranking.scores, magnitudes, atol=0.05 * magnitudes.max())


@pytest.mark.parametrize("name", ["MLP", "Residual"])
def test_a_network_of_any_size_has_one(name: str) -> None:
    """Small games are enumerated, but not those with unions."""
    graph = traced(name)
    assert rank(graph, data_for(graph, 3), game="hierarchical").estimator == "antithetic"
    small, data = tiny()
    assert rank(small, data, game="hierarchical", budget=300).estimator == "antithetic"
    assert rank(small, data, game="hierarchical").estimator == "antithetic"


# ---- the whole-network game ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exact", "permutation", "gaussian-process"])
@pytest.mark.parametrize("semivalue", ["shapley", "banzhaf", "upper-shapley", "upper-shapley:0.7"])
def test_the_whole_network_by_every_semivalue(name: str, semivalue: str, small: Small) -> None:
    graph, data, _ = small
    options: dict[str, Any] = {"game": "network", "semivalue": semivalue, "aggregate": "mean"}
    exact = rank(graph, data, estimator="exact", **options)
    found = rank(graph, data, estimator=name, budget=300, **options)
    assert (found.game, found.estimator, found.semivalue) == ("network", name, semivalue)
    assert found.evaluations <= 300 * 7
    assert spearmanr(found.scores, exact.scores)[0] > 0.9
    scale = np.abs(exact.scores).max()
    assert np.abs(found.scores - exact.scores).max() < 0.15 * scale


def test_exact_values_of_the_whole_network(small: Small) -> None:
    graph, data, owen = small
    truth = mean_marginals(worth_of(graph, data), 7, permutations(range(7)))
    found = rank(graph, data, game="network", estimator="exact", aggregate="mean")
    np.testing.assert_allclose(found.scores, truth.mean(0), rtol=1e-9)
    magnitudes = rank(graph, data, game="network", estimator="exact")
    np.testing.assert_allclose(magnitudes.scores, np.abs(truth).mean(0), rtol=1e-9)
    # Groups that join together are worth something else.
    assert np.abs(truth - owen).max() > 0.01 * np.abs(truth).max()


@pytest.mark.parametrize("game", ["network", "group"])
@pytest.mark.parametrize("value", ["kl", "cross-entropy", "accuracy"])
def test_the_semivalue_leave_one_out_is_the_criterion(game: str, value: str) -> None:
    graph = traced("Residual")
    data = data_for(graph, 5)
    one = rank(graph, data, criterion="leave-one-out", value=value)
    other = rank(graph, data, game=game, semivalue="leave-one-out", value=value)
    assert other.estimator == "exact"
    np.testing.assert_allclose(other.scores, one.scores, rtol=1e-9, atol=1e-12)


def products(logits: Tensor, reference: Tensor, labels: Tensor | None) -> Tensor:
    """Return a value of the user's own, in which the reference itself is differentiated."""
    del labels
    return (logits * reference).mean((1, 2))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"game": "group"},
        {"game": "group", "estimator": "owen"},
        {"game": "group", "estimator": "exact"},
        {"game": "network", "estimator": "permutation"},
        {"game": "hierarchical", "budget": 100},
    ],
)
def test_a_value_of_the_users_own_in_every_game(options: dict[str, Any], small: Small) -> None:
    graph, data, _ = small
    ranking = rank(graph, data, value=products, **options)
    assert ranking.value is not None
    assert "products" in ranking.value
    assert (ranking.scores != 0).all()


def test_a_group_game_of_the_users_own_value_by_brute_force(small: Small) -> None:
    graph, data, _ = small
    (batch,) = data.batches
    (whole,) = leaves(graph.program.module(*batch.inputs))

    def worth(kept: frozenset[int]) -> np.ndarray:
        # The units of the last group are what its layer reads.
        state = {name: x.detach().clone() for name, x in graph.program.module.state_dict().items()}
        name = next(name for name in state if name.endswith("6.weight"))
        absent = [unit for unit in range(2) if unit not in kept]
        state[name][:, absent] = 0
        (outputs,) = leaves(functional_call(graph.program.module, state, batch.inputs))
        return np.asarray((outputs * whole).mean(-1).detach())

    truth = mean_marginals(worth, 2, permutations(range(2)))
    ranking = rank(graph, data, game="group", estimator="exact", value=products, aggregate="mean")
    np.testing.assert_allclose(ranking.groups[-1].scores, truth.mean(0), rtol=1e-9)


# ---- stopping -----------------------------------------------------------------------------------


def test_stability_that_is_not_reached_is_told() -> None:
    graph = traced("Residual")
    options: dict[str, Any] = {"game": "group", "estimator": "permutation", "budget": 3}
    ranking = rank(graph, data_for(graph, 3), until_stable=0.9999, **options)
    (note,) = ranking.notes
    reached = {group.name: group.effort.stability for group in ranking.groups if group.effort}
    worst = min(reached, key=lambda name: reached[name] or 0.0)
    count = sum((stability or 0.0) < 0.9999 for stability in reached.values())
    assert note == (
        f"a stability of 0.9999 was not reached by {count} of 2 groups; "
        f"lowest: {worst} with {reached[worst]:.2f}"
    )
    assert rank(graph, data_for(graph, 3), **options).notes == ()


def test_stability_where_nothing_is_estimated() -> None:
    ranking = rank(traced("MLP"), criterion="l2", until_stable=0.9)
    assert ranking.notes == ("--until-stable has no meaning here: nothing is estimated",)


def test_groups_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is given its units' share of what is left when it begins."""
    graph = traced("PaddedShortcut")
    clock, given = [100.0], []
    monkeypatch.setattr(playing.time, "monotonic", lambda: clock[0])
    # The second group takes far too long, so that those after it share what it left.
    taken = iter([5.0, 30.0, 1.0, 1.0])

    def watched(*, seconds: float | None, **options: Any) -> Stopping:
        given.append(seconds)
        clock[0] += next(taken)
        return Stopping(seconds=seconds, clock=lambda: 0.0, **options)

    monkeypatch.setattr(playing, "Stopping", watched)
    rank(
        graph,
        data_for(graph, 2),
        game="group",
        estimator="permutation",
        budget=3,
        seconds=80,
    )
    sizes = [group.n_units for group in graph.groups]
    assert sizes == [8, 8, 16, 8]
    left = [80.0, 75.0, 45.0, 44.0]
    shares = [8 / 40, 8 / 32, 16 / 24, 1.0]
    assert given == pytest.approx([a * b for a, b in zip(left, shares, strict=True)])


def test_no_time_is_left() -> None:
    """The least evidence is gathered all the same, and every group says what ended it."""
    graph = traced("Residual")
    ranking = rank(graph, data_for(graph, 2), game="group", estimator="permutation", seconds=1e-9)
    efforts = [group.effort for group in ranking.groups]
    assert {effort.stopped for effort in efforts if effort} == {"seconds"}
    assert all(effort and effort.stability is not None for effort in efforts)
    assert np.isfinite(ranking.scores).all()


@pytest.mark.parametrize(
    "options",
    [{"game": "group", "estimator": "antithetic"}, {"game": "network", "estimator": "permutation"}],
)
def test_until_stable_reaches_what_it_claims(options: dict[str, Any]) -> None:
    """Other runs rank units like this one, about as much alike as is said."""
    graph = traced("Residual")
    data = data_for(graph, 6)
    runs = [rank(graph, data, until_stable=0.9, seed=seed, **options) for seed in range(6)]
    for ranking in runs:
        assert ranking.notes == ()
        for group in ranking.groups:
            assert group.effort is not None
            assert group.effort.stopped == "stable"
            assert group.effort.stability is not None
            assert group.effort.stability >= 0.9
    usual = rank(graph, data, seed=0, budget=200, **options)
    assert max(ranking.evaluations for ranking in runs) < usual.evaluations

    def parts(ranking: Ranking) -> list[np.ndarray]:
        whole = options["game"] == "network"
        return [ranking.scores] if whole else [group.scores for group in ranking.groups]

    for place in range(len(parts(runs[0]))):
        between = spearmanr(np.stack([parts(ranking)[place] for ranking in runs]), axis=1)[0]
        assert between[np.triu_indices(6, 1)].mean() > 0.8


def test_what_precision_costs_is_told_by_a_run_that_is_taken_up_too(tmp_path: Path) -> None:
    network = NETWORKS["Residual"]
    graph = trace(network.make().float(), tuple(x.float() for x in network.inputs()))
    data = data_for(graph, 3)
    options: dict[str, Any] = {"game": "group", "running": Running(precision="bfloat16")}
    expected = rank(graph, data, **options)

    def kill(stage: str, done: int, total: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    store = StateStore(path=tmp_path / "state.npz", model="hash", resume=True, every=0)
    with pytest.raises(KeyboardInterrupt):
        rank(graph, data, store=store, progress=kill, **options)
    found = rank(graph, data, store=store, **options)
    assert found.notes == expected.notes
    assert rank(graph, data, store=store, **options).notes == expected.notes
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_efforts_add_up() -> None:
    graph = traced("Residual")
    ranking = rank(graph, data_for(graph, 3), game="group", budget=20)
    efforts = [group.effort for group in ranking.groups if group.effort]
    assert [effort.estimator for effort in efforts] == ["gaussian-process", "exact"]
    assert ranking.estimator == "exact+gaussian-process"
    assert sum(effort.evaluations for effort in efforts) == ranking.evaluations
    for group, effort in zip(graph.groups, efforts, strict=True):
        assert 0 < effort.evaluations <= 20 * group.n_units


def test_a_group_game_counts_what_it_is_asked() -> None:
    graph = traced("Residual")
    game = GroupGame(graph, graph.group("a.0.weight"), data_for(graph, 3))
    estimate = create("exact", budget=None, seed=0).estimate(game)
    assert estimate.evaluations == game.evaluations == 64
