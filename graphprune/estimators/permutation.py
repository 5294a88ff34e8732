"""Permutation sampling: average marginals over random orders (the paper's estimator)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphprune.checkpoint import NO_STATE, State
from graphprune.errors import BudgetError
from graphprune.estimators.base import Floats, ShapleyEstimate, register
from graphprune.game.games import Game
from graphprune.progress import Progress, silent

DEFAULT_ORDERS = 5
"""As in the paper's experiments."""


@register("permutation")
@dataclass(frozen=True, kw_only=True, slots=True)
class PermutationEstimator:
    """Unbiased; one order asks for ``n_players - 1`` coalitions, the two ends are asked for once.

    All images share their orders, so the standard error is that of their mean over orders.

    Args:
        budget: Coalitions the game may be asked for; None for five orders.
        seed: Equal seeds give equal estimates.

    References:
        Castro, Gómez and Tejada (2009), doi:10.1016/j.cor.2008.04.004; Ancona, Öztireli and Gross
        (2020), arXiv 2006.01795, section 3.
    """

    budget: int | None = None
    seed: int = 0

    def estimate(
        self, game: Game, progress: Progress = silent, state: State = NO_STATE
    ) -> ShapleyEstimate:
        """Estimate every player's value.

        Raises:
            BudgetError: The budget pays for fewer than two orders, so no standard error exists.
        """
        n_players = game.n_players
        n_orders = self._n_orders(n_players)
        ends = torch.tensor([[False] * n_players, [True] * n_players])
        empty, full = game.values(ends).numpy()
        total, means = np.zeros((empty.size, n_players)), np.zeros((n_orders, n_players))
        done = np.zeros((), np.int64)
        known = state.load({"done": done, "total": total, "means": means})
        if known is not None:
            done = known["done"].astype(np.int64)
            total, means = known["total"].astype(np.float64), known["means"].astype(np.float64)
        for number in range(int(done), n_orders):
            marginals = self._marginals(game, number, empty, full)
            total += marginals
            means[number] = marginals.mean(0)
            state.save({"done": np.array(number + 1, np.int64), "total": total, "means": means})
            progress("orders", number + 1, n_orders)
        stderr = means.std(0, ddof=1) / np.sqrt(n_orders)
        evaluations = 2 + n_orders * max(n_players - 1, 0)
        return ShapleyEstimate(total / n_orders, stderr, evaluations)

    def _marginals(self, game: Game, number: int, empty: Floats, full: Floats) -> Floats:
        """Return what players add when they join in the order of this number, (images, players)."""
        # Every order has a generator of its own: it does not depend on the orders before it.
        order = np.random.default_rng([self.seed, number]).permutation(game.n_players)
        inner = game.values(_prefixes(order)[1:-1]).numpy()
        worth = np.concatenate([empty[None], inner, full[None]])
        marginals = np.empty((empty.size, order.size))
        marginals[:, order] = np.diff(worth, axis=0).T
        return marginals

    def _n_orders(self, n_players: int) -> int:
        if self.budget is None:
            return DEFAULT_ORDERS
        # The orders of one player are all alike and cost nothing beyond the two ends.
        affordable = (self.budget - 2) // (n_players - 1) if n_players > 1 else self.budget
        if affordable < 2:
            raise BudgetError(
                f"{self.budget} coalitions pay for fewer than two orders of {n_players} players",
                hint=f"allow at least {2 * n_players}, that is 2 a player",
            )
        return affordable


def _prefixes(order: np.ndarray) -> Tensor:
    """Row k keeps the first k players of the order."""
    place = np.argsort(order)
    return torch.from_numpy(place[None, :] < np.arange(order.size + 1)[:, None])
