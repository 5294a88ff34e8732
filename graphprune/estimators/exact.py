"""Exact Shapley values: all coalitions of a small game, the oracle of every other estimator."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
import torch
from torch import Tensor

from graphprune.checkpoint import NO_STATE, State
from graphprune.errors import BudgetError
from graphprune.estimators.base import Floats, ShapleyEstimate, register, require_no_unions
from graphprune.estimators.semivalues import SHAPLEY, Semivalue
from graphprune.estimators.stopping import NEVER, Stopping
from graphprune.game.games import Game
from graphprune.progress import Progress, silent

MAX_PLAYERS = 20
"""More would need over a million coalitions."""

_CHUNK = 256


@register("exact")
@dataclass(frozen=True, kw_only=True, slots=True)
class ExactEstimator:
    """Enumerates all coalitions that count, ``2 ** n_players`` of Shapley values; no error.

    Args:
        budget: Coalitions allowed; None for as many as it takes.
        seed: Not used; here so that all estimators are made alike.
        semivalue: What is computed.

    References:
        Shapley (1953), A value for n-person games.
    """

    budget: int | None = None
    seed: int = 0
    semivalue: Semivalue = SHAPLEY

    def estimate(
        self,
        game: Game,
        progress: Progress = silent,
        state: State = NO_STATE,
        stopping: Stopping = NEVER,
    ) -> ShapleyEstimate:
        """Enumerate; nothing ends the work before it is done.

        Raises:
            BudgetError: The game has too many players, or more coalitions than the budget allows.
        """
        require_no_unions(game, "exact")
        n_players, total = game.n_players, self._n_coalitions(game.n_players)
        done = np.zeros((), np.int64)
        # A game tells its number of images with its first values.
        none = torch.zeros(0, n_players, dtype=torch.bool)
        sums = np.zeros((n_players, game.values(none).shape[1]))
        known = state.load({"done": done, "sums": sums})
        if known is not None:
            done, sums = known["done"].astype(np.int64), known["sums"].astype(np.float64)
        for start in range(int(done), total, _CHUNK):
            stop = min(start + _CHUNK, total)
            kept = self._coalitions(n_players, start, stop)
            sums += _weights(kept, self.semivalue).T @ game.values(kept).numpy()
            state.save({"done": np.array(stop, np.int64), "sums": sums})
            progress("coalitions", stop, total)
        return ShapleyEstimate(
            sums.T.copy(),
            np.zeros(n_players),
            total,
            stability=1.0 if stopping.asked else None,
            stopped="stable" if stopping.asked else "budget",
        )

    def _n_coalitions(self, n_players: int) -> int:
        counted = n_players + 1 if self._one_out else 1 << n_players
        allowed = 1 << MAX_PLAYERS if self.budget is None else self.budget
        if allowed < counted or (n_players > MAX_PLAYERS and not self._one_out):
            raise BudgetError(
                f"exact values of {n_players} players take "
                f"{counted if self._one_out else f'2^{n_players}'} coalitions, "
                f"allowed are {min(allowed, 1 << MAX_PLAYERS)}",
                hint="use --estimator gaussian-process for groups of this size",
            )
        return counted

    @property
    def _one_out(self) -> bool:
        """Whether all that counts is the grand coalition, with and without each player."""
        return self.semivalue.low == 1

    def _coalitions(self, n_players: int, start: int, stop: int) -> Tensor:
        if self._one_out:
            rows = torch.ones(n_players + 1, n_players, dtype=torch.bool)
            rows[torch.arange(n_players), torch.arange(n_players)] = False
            return rows[start:stop]
        return _coalitions(n_players, start, stop)


def _coalitions(n_players: int, start: int, stop: int) -> Tensor:
    """Row k keeps the players whose bits are set in ``start + k``."""
    codes = np.arange(start, stop, dtype=np.int64)
    return torch.from_numpy((codes[:, None] >> np.arange(n_players) & 1).astype(bool))


def _weights(kept: Tensor, semivalue: Semivalue) -> Floats:
    """Return how much each coalition's worth counts for each player, (coalitions, players).

    The marginals at coalitions of s others share a weight, so a coalition of k players counts
    ``share(k - 1) / C(n - 1, k - 1)`` for those in it and ``-share(k) / C(n - 1, k)`` for the
    others.
    """
    n_players = kept.shape[1]
    shares = semivalue.size_shares(n_players)
    each = np.array([share / comb(n_players - 1, size) for size, share in enumerate(shares)])
    inside, outside = np.append(0.0, each), np.append(each, 0.0)
    present = kept.numpy()
    sizes = present.sum(1, keepdims=True)
    weights: Floats = np.where(present, inside[sizes], -outside[sizes])
    return weights
