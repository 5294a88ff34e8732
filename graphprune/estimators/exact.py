"""Exact Shapley values: all coalitions of a small game, the oracle of every other estimator."""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import numpy as np
import torch

from graphprune.errors import BudgetError
from graphprune.estimators.base import ShapleyEstimate, register
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

    def estimate(self, game: Game, progress: Progress = silent) -> ShapleyEstimate:
        """Enumerate.

        Raises:
            BudgetError: The game has too many players, or more coalitions than the budget allows.
        """
        n_players = game.n_players
        if n_players > MAX_PLAYERS or (self.budget or 1 << n_players) < 1 << n_players:
            raise BudgetError(
                f"exact values of {n_players} players take 2^{n_players} coalitions, "
                f"allowed are {self.budget or 1 << MAX_PLAYERS}",
                hint="use --estimator permutation for groups of this size",
            )
        # Row k keeps the players whose bits are set in k.
        codes = np.arange(1 << n_players)
        kept = (codes[:, None] >> np.arange(n_players) & 1).astype(bool)
        chunks = []
        for start in range(0, len(codes), _CHUNK):
            chunks.append(game.values(torch.from_numpy(kept[start : start + _CHUNK])).numpy())
            progress("coalitions", min(start + _CHUNK, len(codes)), len(codes))
        worth = np.concatenate(chunks)
        per_image = np.stack(
            [_weighted_marginals(worth, codes, kept, player) for player in range(n_players)], 1
        )
        return ShapleyEstimate(per_image, np.zeros(n_players), len(codes))


def _weighted_marginals(
    worth: np.ndarray, codes: np.ndarray, kept: np.ndarray, player: int
) -> np.ndarray:
    """Sum |S|! (n - |S| - 1)! / n! (v(S + i) - v(S)) over all S without the player."""
    n_players = kept.shape[1]
    without = codes[~kept[:, player]]
    weight = np.array(
        [factorial(k) * factorial(n_players - k - 1) / factorial(n_players)
         for k in range(n_players)]
    )
    marginals = worth[without | 1 << player] - worth[without]
    return np.asarray(weight[kept[without].sum(1)] @ marginals)
