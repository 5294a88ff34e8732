"""Permutation sampling: average marginals over random orders (the paper's estimator)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphprune.estimators.base import register
from graphprune.estimators.orders import Order, OrderEstimator, random_order
from graphprune.game.games import Unions


@register("permutation")
@dataclass(frozen=True, kw_only=True)
class PermutationEstimator(OrderEstimator):
    """Unbiased; one order asks for ``n_players - 1`` coalitions. Five orders by default.

    References:
        Castro, Gómez and Tejada (2009), doi:10.1016/j.cor.2008.04.004; Ancona, Öztireli and Gross
        (2020), arXiv 2006.01795, section 3.
    """

    per_block = 1
    default_blocks = 5  # as in the paper's experiments

    def orders(self, number: int, n_players: int, unions: Unions | None) -> list[Order]:
        """Return the order of this number."""
        # Every order has a generator of its own: it does not depend on the orders before it.
        generator = np.random.default_rng([self.seed, number])
        return [random_order(generator, n_players, unions)]
