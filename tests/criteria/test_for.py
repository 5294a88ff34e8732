"""Rankings are made for what will be removed and for the repair that follows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from graphprune.criteria import playing, rank
from graphprune.criteria.request import RankRequest
from graphprune.data import as_batches
from graphprune.errors import OptionError
from graphprune.estimators.gradients import GradientEstimator
from graphprune.game.games import HierarchicalGame, NetworkGame, RepairedGame
from graphprune.graph import DependencyGraph
from tests.helpers import batch_of
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
) -> NetworkGame:
    """Return the game that is played."""
    games: list[NetworkGame] = []
    real = playing._network_game

    def watched(request: RankRequest, estimator: str) -> NetworkGame:
        games.append(real(request, estimator))
        return games[-1]

    monkeypatch.setattr(playing, "_network_game", watched)
    rank(graph, as_batches((images,)), **options)
    (game,) = games
    return game


def test_the_game_is_that_of_the_repair_and_of_the_ratio(
    graph: DependencyGraph, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked = played(monkeypatch, graph, images, for_repair="none", for_ratio=0.3)
    assert type(masked) is NetworkGame
    assert masked.band == 0.3
    repaired = played(monkeypatch, graph, images, for_repair="least-squares")
    assert type(repaired) is RepairedGame
    assert repaired.band == 0.5


def test_games_over_the_full_range_know_of_no_repair(
    graph: DependencyGraph, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    game = played(monkeypatch, graph, images, game="hierarchical", budget=5)
    assert type(game) is HierarchicalGame


def test_what_a_ranking_is_for_is_recorded(graph: DependencyGraph, images: Tensor) -> None:
    data = as_batches((images,))
    ranking = rank(graph, data, for_ratio=0.2, for_repair="least-squares")
    assert (ranking.for_ratio, ranking.for_repair) == (0.2, "least-squares")
    default = rank(graph, data, budget=2)
    assert (default.for_ratio, default.for_repair) == (0.5, "none")
    for options in ({"criterion": "l2"}, {"game": "group", "estimator": "owen"}):
        ranking = rank(graph, data, **options)
        assert (ranking.for_ratio, ranking.for_repair) == (None, None)


def test_rankings_differ_by_what_they_are_for(graph: DependencyGraph, images: Tensor) -> None:
    data = as_batches((images,))
    options = ({}, {"for_repair": "least-squares"}, {"for_ratio": 0.1})
    one, other, third = (rank(graph, data, **each).scores for each in options)
    assert (one != other).any()
    assert (one != third).any()


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


def test_equal_seeds_give_equal_estimates_of_the_repaired_game(
    graph: DependencyGraph, images: Tensor
) -> None:
    def estimated(seed: int) -> np.ndarray:
        game = RepairedGame(graph, as_batches((images,)))
        return GradientEstimator(budget=4, seed=seed).estimate(game).per_image

    np.testing.assert_array_equal(estimated(0), estimated(0))
    assert (estimated(0) != estimated(1)).any()


def test_every_image_of_a_batch_is_given_the_same_coalition(
    graph: DependencyGraph, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    game = RepairedGame(graph, as_batches((images,)))
    seen: list[Tensor] = []

    def watched(batch: int, kept: Tensor, generator: torch.Generator, n_draws: int) -> object:
        seen.append(kept.clone())
        return RepairedGame.gradients(game, batch, kept, generator, n_draws)

    monkeypatch.setattr(game, "gradients", watched)
    GradientEstimator(budget=6).estimate(game)
    assert len(seen) == 7
    assert all((kept == kept[0]).all() for kept in seen)
    assert len({kept[0].numpy().tobytes() for kept in seen}) > 2
