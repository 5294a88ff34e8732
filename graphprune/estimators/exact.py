"""Exact Shapley values: all coalitions of a small game, the oracle of every other estimator."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
import torch
from torch import Tensor

from graphprune.checkpoint import NO_STATE, State
from graphprune.errors import BudgetError
from graphprune.estimators.base import Floats, ShapleyEstimate, register
from graphprune.game.games import Game
from graphprune.progress import Progress, silent

MAX_PLAYERS = 20
"""More would need over a million coalitions."""

_CHUNK = 256


@register("exact")
@dataclass(frozen=True, kw_only=True, slots=True)
class ExactEstimator:
    """Enumerates all ``2 ** n_players`` coalitions; no error.

    Args:
        budget: Coalitions allowed; None for as many as it takes.
        seed: Not used; here so that all estimators are made alike.

    References:
        Shapley (1953), A value for n-person games.
    """

    budget: int | None = None
    seed: int = 0

    def estimate(
        self, game: Game, progress: Progress = silent, state: State = NO_STATE
    ) -> ShapleyEstimate:
        """Enumerate.

        Raises:
            BudgetError: The game has too many players, or more coalitions than the budget allows.
        """
        n_players, total = game.n_players, self._n_coalitions(game.n_players)
        done = np.zeros((), np.int64)
        # A game tells its number of images with its first values.
        sums = np.zeros((n_players, game.values(_coalitions(n_players, 0, 0)).shape[1]))
        known = state.load({"done": done, "sums": sums})
        if known is not None:
            done, sums = known["done"].astype(np.int64), known["sums"].astype(np.float64)
        for start in range(int(done), total, _CHUNK):
            stop = min(start + _CHUNK, total)
            kept = _coalitions(n_players, start, stop)
            sums += _weights(kept).T @ game.values(kept).numpy()
            state.save({"done": np.array(stop, np.int64), "sums": sums})
            progress("coalitions", stop, total)
        return ShapleyEstimate(sums.T.copy(), np.zeros(n_players), total)

    def _n_coalitions(self, n_players: int) -> int:
        allowed = 1 << MAX_PLAYERS if self.budget is None else self.budget
        if n_players > MAX_PLAYERS or allowed < 1 << n_players:
            raise BudgetError(
                f"exact values of {n_players} players take 2^{n_players} coalitions, "
                f"allowed are {min(allowed, 1 << MAX_PLAYERS)}",
                hint="use --estimator permutation for groups of this size",
            )
        return 1 << n_players


def _coalitions(n_players: int, start: int, stop: int) -> Tensor:
    """Row k keeps the players whose bits are set in ``start + k``."""
    codes = np.arange(start, stop, dtype=np.int64)
    return torch.from_numpy((codes[:, None] >> np.arange(n_players) & 1).astype(bool))


def _weights(kept: Tensor) -> Floats:
    """Return how much each coalition's worth counts for each player, (coalitions, players).

    A player's value is the sum of ``|S|! (n - |S| - 1)! / n! (v(S + i) - v(S))`` over all S without
    it, so a coalition of k players counts ``(k - 1)! (n - k)! / n!`` for those in it and
    ``-k! (n - k - 1)! / n!`` for the others.
    """
    n_players = kept.shape[1]
    inside = np.array([0.0] + [1 / (k * comb(n_players, k)) for k in range(1, n_players + 1)])
    outside = np.array([1 / ((n_players - k) * comb(n_players, k)) for k in range(n_players)] + [0])
    present = kept.numpy()
    sizes = present.sum(1, keepdims=True)
    weights: Floats = np.where(present, inside[sizes], -outside[sizes])
    return weights
