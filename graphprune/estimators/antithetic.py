"""Antithetic sampling: every order is played backwards as well."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphprune.estimators.base import register
from graphprune.estimators.orders import Order, OrderEstimator, random_order
from graphprune.game.games import Unions


@register("antithetic")
@dataclass(frozen=True, kw_only=True)
class AntitheticEstimator(OrderEstimator):
    """Unbiased; who joins early in an order joins late in its reverse, which evens marginals out.

    A pair of orders asks for ``2 (n_players - 1)`` coalitions. Three pairs by default.

    References:
        Mitchell, Cooper, Frank and Holmes (2022), Sampling permutations for Shapley value
        estimation, arXiv 2104.12199.
    """

    per_block = 2
    default_blocks = 3

    def orders(self, number: int, n_players: int, unions: Unions | None) -> list[Order]:
        """Return an order and its reverse."""
        order = random_order(np.random.default_rng([self.seed, number]), n_players, unions)
        return [order, order[::-1]]
