"""Rankings are made for what will be removed and for the repair that follows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphprune.criteria import foreseeing, playing, rank
from graphprune.criteria.request import RankRequest
from graphprune.data import as_batches
from graphprune.errors import OptionError
from graphprune.game.evaluation import Running
from graphprune.game.games import HierarchicalGame, NetworkGame
from graphprune.game.moments import refit_bytes
from graphprune.game.readers import readers_of
from graphprune.game.refit_game import RefitGame
from graphprune.graph import DependencyGraph, trace
from graphprune.ranking import REFITTING
from tests.game.test_evaluation import ONE_INPUT
from tests.helpers import batch_of, randomize
from tests.traced import traced


@pytest.fixture
def graph() -> DependencyGraph:
    return traced("Residual")


@pytest.fixture
def images(graph: DependencyGraph) -> Tensor:
    (x,) = batch_of(graph.example_inputs, 6, 0)
    return x


def played(
    monkeypatch: pytest.MonkeyPatch, graph: DependencyGraph, images: Tensor, **options: object
) -> tuple[NetworkGame, int]:
    """Return the masked game that is played, and how often the refit game is."""
    games: list[NetworkGame] = []
    refits: list[RefitGame] = []
    real = playing._network_game

    def watched(request: RankRequest) -> NetworkGame:
        games.append(real(request))
        return games[-1]

    class Watched(RefitGame):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            refits.append(self)

    monkeypatch.setattr(playing, "_network_game", watched)
    monkeypatch.setattr(foreseeing, "RefitGame", Watched)
    rank(graph, as_batches((images,)), **options)
    (game,) = games
    return game, len(refits)


def test_the_game_is_that_of_the_repair_and_of_the_ratio(
    graph: DependencyGraph, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked, refits = played(monkeypatch, graph, images, for_repair="none", for_ratio=0.3)
    assert (masked.band, refits) == (0.3, 0)
    masked, refits = played(monkeypatch, graph, images, for_repair="least-squares")
    assert (masked.band, refits) == (0.5, 1)


def test_games_over_the_full_range_know_of_no_repair(
    graph: DependencyGraph, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    game, refits = played(monkeypatch, graph, images, game="hierarchical", budget=5)
    assert (type(game), refits) == (HierarchicalGame, 0)


def test_what_a_ranking_is_for_is_recorded(graph: DependencyGraph, images: Tensor) -> None:
    data = as_batches((images,))
    ranking = rank(graph, data, for_ratio=0.2, for_repair="least-squares")
    assert (ranking.for_ratio, ranking.for_repair) == (0.2, "least-squares")
    assert all(group.refit is None for group in ranking.groups)
    masked = rank(graph, data, budget=2, for_repair="none")
    assert (masked.for_ratio, masked.for_repair) == (0.5, "none")
    default = rank(graph, data, budget=2)
    assert (default.for_ratio, default.for_repair) == (0.5, None)
    np.testing.assert_array_equal(default.scores, masked.scores)
    for options in ({"criterion": "l2"}, {"game": "group", "estimator": "owen"}):
        ranking = rank(graph, data, **options)
        assert (ranking.for_ratio, ranking.for_repair) == (None, None)
        assert ranking.ahead_of("least-squares") is ranking


@pytest.mark.parametrize("seed", [0, 1])
def test_a_ranking_for_either_becomes_that_for_a_repair(
    graph: DependencyGraph, images: Tensor, seed: int
) -> None:
    data = as_batches((images,))
    either = rank(graph, data, budget=3, seed=seed)
    expected = rank(graph, data, budget=3, seed=seed, for_repair="least-squares")
    for repair in REFITTING:
        ahead = either.ahead_of(repair)
        np.testing.assert_array_equal(ahead.scores, expected.scores)
        assert ahead.for_repair == "least-squares"
        for one, other in zip(ahead.groups, expected.groups, strict=True):
            np.testing.assert_array_equal(one.stderr, other.stderr)
            assert one.effort == other.effort
    for repair in ("none", "bias"):
        assert either.ahead_of(repair) is either
    # What counts twice is ranked by both: the geometric mean of each with the other.
    for greedy in (False, True):
        known = [group.refit for group in either.groups if group.refit is not None]
        refit = np.concatenate([each.along(greedy=greedy) for each in known])
        both = (refit > 1e-9 * refit.max()) & (either.scores > 1e-9 * either.scores.max())
        assert both.mean() > 0.8
        np.testing.assert_allclose(
            either.weighed(0.5, greedy=greedy).scores[both],
            np.sqrt(refit[both] * either.scores[both]),
            rtol=1e-12,
        )


def test_greedy_refits_are_those_of_the_criterion(graph: DependencyGraph, images: Tensor) -> None:
    data = as_batches((images,))
    ranking, expected = (rank(graph, data, criterion=name) for name in ("shapley", "obs"))
    for one, other in zip(ranking.groups, expected.groups, strict=True):
        assert one.refit is not None
        np.testing.assert_allclose(one.refit.greedy, other.scores, rtol=1e-9)


def test_nothing_can_be_repaired_without_images(graph: DependencyGraph) -> None:
    ranking = rank(graph, None)
    assert ranking.for_repair == "none"
    assert all(group.refit is None for group in ranking.groups)


def test_moments_that_are_too_large_are_not_taken_unasked(
    graph: DependencyGraph, images: Tensor
) -> None:
    data, every = as_batches((images,)), readers_of(graph)
    needed = max(refit_bytes([reader]) for reader in every)
    assert refit_bytes(every) > needed > 4 * 8 * (3 * 9 + 1) ** 2
    enough, little = Running(max_memory=2 * needed), Running(max_memory=2 * needed - 2)
    assert rank(graph, data, running=enough).groups[0].refit is not None
    ranking = rank(graph, data, running=little)
    assert ranking.groups[0].refit is None
    assert ranking.for_repair == "none"
    assert "--for-repair least-squares" in ranking.notes[0]
    asked = rank(graph, data, running=little, for_repair="least-squares")
    assert (asked.for_repair, asked.notes) == ("least-squares", ())


def test_rankings_differ_by_what_they_are_for(graph: DependencyGraph, images: Tensor) -> None:
    data = as_batches((images,))
    options = ({}, {"for_repair": "least-squares"}, {"for_ratio": 0.1})
    one, other, third = (rank(graph, data, **each).scores for each in options)
    assert (one != other).any()
    assert (one != third).any()


@pytest.mark.parametrize("name", ONE_INPUT)
def test_every_network_can_be_ranked_ahead_of_a_repair(name: str) -> None:
    graph = traced(name)
    data = as_batches([batch_of(graph.example_inputs, 4, 0)])
    ranking = rank(graph, data, for_repair="least-squares")
    assert np.isfinite(ranking.scores).all()
    assert (ranking.scores >= 0).all()


def test_a_twin_counts_less_ahead_of_a_repair() -> None:
    """Masked, a unit that another one doubles is missed; refitted, its readers need only one."""
    model = randomize(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))).double().eval()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)).double()
    ranking = rank(trace(model, (x[:2],)), as_batches((x,)))
    places = [np.argsort(np.argsort(r.scores)) for r in (ranking, ranking.ahead_of("auto"))]
    assert places[1][[0, 1]].sum() < places[0][[0, 1]].sum()
    refit = ranking.groups[0].refit
    assert refit is not None
    assert refit.average[[0, 1]].max() < 0.5 * np.delete(refit.average, [0, 1]).min()
    assert refit.greedy is not None
    assert refit.greedy[[0, 1]].min() < 0.1 * np.delete(refit.greedy, [0, 1]).min()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"for_repair": "bias"}, "none of auto, none, least-squares"),
        ({"for_ratio": 0.0}, "not in"),
        ({"for_ratio": 1.0}, "not in"),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: dict[str, object], message: str, graph: DependencyGraph, images: Tensor
) -> None:
    with pytest.raises(OptionError, match=message):
        rank(graph, as_batches((images,)), **options)
