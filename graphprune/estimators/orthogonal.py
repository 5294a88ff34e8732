"""Orthogonal sampling: orders that are as different from each other as orders can be."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from graphprune.estimators.base import register, require_no_unions
from graphprune.estimators.orders import Order, OrderDesign, OrderEstimator
from graphprune.game.games import Game, Unions


@register("orthogonal")
@dataclass(frozen=True, kw_only=True)
class OrthogonalEstimator(OrderEstimator):
    """Unbiased; orders are directions of a randomly turned cross of orthogonal axes.

    An order of players is a direction in the space of vectors whose entries add up to zero. The
    ``n_players - 1`` axes of one cross give as many pairs of opposite orders. A pair asks for
    ``2 (n_players - 1)`` coalitions. Three pairs by default. The pairs of one cross even each other
    out, so that standard errors, which take pairs to be independent, are too large rather than too
    small.

    References:
        Mitchell, Cooper, Frank and Holmes (2022), Sampling permutations for Shapley value
        estimation, arXiv 2104.12199, section 4.2.
    """

    per_block = 2
    default_blocks = 3

    def design(self, game: Game, *, longer: bool) -> OrderDesign:
        """Return pairs of orders, as many as the budget pays for."""
        require_no_unions(game, "orthogonal")
        return super().design(game, longer=longer)

    def orders(self, number: int, n_players: int, unions: Unions | None) -> list[Order]:
        """Return the pair of orders of one axis."""
        del unions
        if n_players == 1:
            return [np.zeros(1, np.int64)] * 2
        cross, axis = divmod(number, n_players - 1)
        order = np.argsort(_cross(self.seed, cross, n_players)[axis])
        return [order, order[::-1]]


@lru_cache(maxsize=2)
def _cross(seed: int, number: int, n_players: int) -> npt.NDArray[np.float64]:
    """Return the axes of a cross, (n_players - 1, n_players)."""
    generator = np.random.default_rng([seed, number])
    # A uniformly random rotation: the QR decomposition whose R has a positive diagonal.
    turned, upper = np.linalg.qr(generator.standard_normal((n_players - 1,) * 2))
    axes: npt.NDArray[np.float64] = (turned * np.sign(np.diag(upper))) @ _basis(n_players)
    return axes


def _basis(n_players: int) -> npt.NDArray[np.float64]:
    """Return an orthonormal basis of the vectors that add up to zero, (n - 1, n) (Helmert)."""
    counts = np.arange(1, n_players)[:, None]
    places = np.arange(n_players)[None]
    rows = np.where(places < counts, 1.0, np.where(places == counts, -counts, 0.0))
    basis: npt.NDArray[np.float64] = rows / np.sqrt(counts * (counts + 1.0))
    return basis
