"""Permutation sampling: average marginals over random orders (the paper's estimator)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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

    Args:
        budget: Coalitions the game may be asked for; None for five orders.
        seed: Equal seeds give equal estimates.

    References:
        Castro, Gómez and Tejada (2009), doi:10.1016/j.cor.2008.04.004; Ancona, Öztireli and Gross
        (2020), arXiv 2006.01795, section 3.
    """

    budget: int | None = None
    seed: int = 0

    def estimate(self, game: Game, progress: Progress = silent) -> ShapleyEstimate:
        """Estimate every player's value.

        Raises:
            BudgetError: The budget pays for fewer than two orders, so no standard error exists.
        """
        n_players = game.n_players
        n_orders = self._n_orders(n_players)
        generator = np.random.default_rng(self.seed)
        ends = torch.tensor([[False] * n_players, [True] * n_players])
        empty, full = game.values(ends).numpy()
        orders: list[Floats] = []
        for done in range(n_orders):
            order = generator.permutation(n_players)
            inner = game.values(_prefixes(order)[1:-1]).numpy()
            worth = np.concatenate([empty[None], inner, full[None]])
            marginals = np.empty((worth.shape[1], n_players))
            marginals[:, order] = np.diff(worth, axis=0).T
            orders.append(marginals)
            progress("orders", done + 1, n_orders)
        samples = np.stack(orders)
        spread = samples.mean(1).std(0, ddof=1)
        return ShapleyEstimate(
            samples.mean(0), spread / np.sqrt(n_orders), 2 + n_orders * max(n_players - 1, 0)
        )

    def _n_orders(self, n_players: int) -> int:
        if self.budget is None:
            return DEFAULT_ORDERS
        affordable = (self.budget - 2) // max(n_players - 1, 1)
        if affordable < 2:
            raise BudgetError(
                f"{self.budget} coalitions pay for fewer than two orders of {n_players} players",
                hint=f"allow at least {2 * n_players}",
            )
        return affordable


def _prefixes(order: np.ndarray) -> Tensor:
    """Row k keeps the first k players of the order."""
    place = np.argsort(order)
    return torch.from_numpy(place[None, :] < np.arange(order.size + 1)[:, None])
