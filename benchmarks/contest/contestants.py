"""Everyone who estimates: graphprune, other libraries, and the published algorithm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.contest.metrics import Floats, magnitudes
from benchmarks.contest.published import orders_of, replay
from benchmarks.contest.rivals import Rival, installed
from graphprune.estimators import available, create
from graphprune.estimators.choice import GameKind, chosen_estimator
from graphprune.estimators.semivalues import SHAPLEY
from graphprune.game.games import GroupGame

AUTO = "auto"
BASELINE = "antithetic"
PAPER = "published"

_NOT_HERE = frozenset({"exact", "gradients"})
"""Estimators that cannot play: all coalitions of these groups are too many, or of another game."""


@dataclass(frozen=True)
class Found:
    """What a contestant found.

    Args:
        values: Shapley values, (n_players,).
        scores: Mean magnitudes over images, if the contestant tells of images.
        evaluations: What it says it spent, if it says so.
    """

    values: Floats
    scores: Floats | None = None
    evaluations: int | None = None


@dataclass(frozen=True)
class Contestant:
    """One who estimates.

    Args:
        name: For the table.
        party: ``graphprune``, ``rival`` or ``published``.
        run: (game, budget in evaluations, seed) -> what it found.
    """

    name: str
    party: str
    run: Callable[[GroupGame, int, int], Found]


def contestants(*, readers: int, rivals: bool) -> list[Contestant]:
    """Return everyone who is there.

    Args:
        readers: Layers that read the players, which ``auto`` asks about.
        rivals: Whether other libraries take part.
    """
    names = [name for name in available() if name not in _NOT_HERE]
    ours = [Contestant(name, "graphprune", _ours(name)) for name in names]
    ours.append(Contestant(AUTO, "graphprune", lambda *run: _auto(readers, *run)))
    others = [Contestant(PAPER, PAPER, published)]
    if rivals:
        others += [Contestant(name, "rival", _theirs(run)) for name, run in installed().items()]
    return ours + others


def chosen(game: GroupGame, readers: int, budget: int) -> str:
    """Return whom ``auto`` chooses with a budget in evaluations."""
    kind = GameKind(n_players=game.n_players, readers=readers, sloped=True)
    return chosen_estimator(kind, budget, SHAPLEY)


def published(game: GroupGame, budget: int, seed: int) -> Found:
    """Play the published orders in our game; a pass for each unit, and one of the whole network."""
    orders = orders_of(seed, max(budget // game.n_players, 1), game.n_players)
    per_image = replay(game.values, orders)
    return Found(per_image.mean(0), magnitudes(per_image), 1 + orders.size)


def _auto(readers: int, game: GroupGame, budget: int, seed: int) -> Found:
    return _ours(chosen(game, readers, budget))(game, budget, seed)


def _ours(name: str) -> Callable[[GroupGame, int, int], Found]:
    def run(game: GroupGame, budget: int, seed: int) -> Found:
        estimate = create(name, budget=budget, seed=seed).estimate(game)
        per_image = np.asarray(estimate.per_image)
        told = per_image.ndim == 2 and len(per_image) > 1
        scores = magnitudes(per_image) if told else None
        return Found(estimate.values, scores, estimate.evaluations)

    return run


def _theirs(rival: Rival) -> Callable[[GroupGame, int, int], Found]:
    def run(game: GroupGame, budget: int, seed: int) -> Found:
        def values(coalitions: npt.NDArray[np.bool_]) -> Floats:
            means: Floats = game.values(torch.from_numpy(coalitions)).numpy().mean(1)
            return means

        return Found(rival(values, game.n_players, budget, seed))

    return run
