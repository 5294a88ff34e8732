"""What estimators that follow orders share: players join one after the other, in random orders."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from graphprune.errors import BudgetError, OptionError
from graphprune.estimators.evidence import Evidence, TableEstimator
from graphprune.estimators.semivalues import Semivalue
from graphprune.game.games import Game, Unions

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Order = npt.NDArray[np.int64]

_LONGEST = 200
"""Blocks at most where no budget is set and something else ends the work."""

_NEGLIGIBLE = 1e-12


@dataclass(frozen=True)
class OrderDesign:
    """Blocks of orders, each evaluated at the coalitions of those who have joined.

    Args:
        estimator: What draws the orders.
        game: Who joins.
        places: Numbers of members at which an order is evaluated, the two ends left out.
        n_blocks: Blocks that the budget pays for.
    """

    estimator: OrderEstimator
    n_players: int
    unions: Unions | None
    places: Order
    n_blocks: int
    stage: str
    fewest: int = 2

    def block(self, number: int) -> Bools:
        """Return the coalitions of a block's orders, one order after the other."""
        orders = self.estimator.orders(number, self.n_players, self.unions)
        return np.concatenate([_members(order, self.places) for order in orders])


@dataclass(frozen=True, kw_only=True)
class OrderEstimator(TableEstimator):
    """Base of estimators that average marginals over orders, block by block; unbiased.

    A semivalue other than Shapley's weights a marginal by how many have joined before. Standard
    errors are those of a mean over blocks.
    """

    per_block: ClassVar[int]
    """Orders in a block."""

    default_blocks: ClassVar[int]
    """Blocks where no budget is set."""

    @abstractmethod
    def orders(self, number: int, n_players: int, unions: Unions | None) -> list[Order]:
        """Return the orders of a block; they depend on nothing but the arguments and the seed."""

    def design(self, game: Game, *, longer: bool) -> OrderDesign:
        """Return orders, as many as the budget pays for.

        Raises:
            BudgetError: It pays for fewer than two blocks, so no standard error exists.
            OptionError: The semivalue counts almost no places of an order, or unions play it.
        """
        self._check(game)
        places = _places(self.semivalue, game.n_players)
        n_blocks = _LONGEST if longer else self.default_blocks
        if game.unions is not None:
            # What a union adds depends on those before it, so each should come early and late.
            n_blocks = max(n_blocks, int(game.unions.max()) + 1)
        if self.budget is not None:
            cost = self.per_block * len(places)
            # The orders of one player are all alike and cost nothing beyond the two ends.
            n_blocks = (self.budget - 2) // cost if cost else self.budget
            if n_blocks < 2:
                raise BudgetError(
                    f"{self.budget} coalitions pay for fewer than two times {self._stage} of "
                    f"{game.n_players} players",
                    hint=f"allow at least {2 + 2 * cost}",
                )
        return OrderDesign(self, game.n_players, game.unions, places, n_blocks, self._stage)

    @property
    def _stage(self) -> str:
        return "orders" if self.per_block == 1 else f"{self.per_block} orders"

    def _check(self, game: Game) -> None:
        if game.unions is not None:
            _require_shapley_of_unions(self.semivalue)
        if self.semivalue.low == 1:
            raise OptionError(
                f"an order tells about one player only of the semivalue {self.semivalue.name}",
                hint="use --estimator exact, which takes one coalition per player",
            )

    def per_image(self, evidence: Evidence) -> Floats:
        """Return mean marginals, (n_images, n_players)."""
        total = np.zeros((evidence.n_players, evidence.full.size))
        orders = self._split(evidence)
        shares = self.semivalue.size_shares(evidence.n_players)
        for kept, worth in orders:
            total += _weighted(kept, shares).T @ np.diff(worth, axis=0)
        return total.T / max(len(orders), 1)

    def stderr(self, evidence: Evidence) -> Floats:
        """Return standard errors over blocks, (n_players,)."""
        orders = self._split(evidence)
        if len(orders) < 2 * self.per_block:
            # Of one player alone: all orders are alike.
            return np.zeros(evidence.n_players)
        shares = self.semivalue.size_shares(evidence.n_players)
        means = [_weighted(kept, shares).T @ np.diff(worth.mean(1)) for kept, worth in orders]
        by_block = np.stack(means).reshape(-1, self.per_block, evidence.n_players).mean(1)
        stderr: Floats = by_block.std(0, ddof=1) / np.sqrt(len(by_block))
        return stderr

    def _split(self, evidence: Evidence) -> list[tuple[Bools, Floats]]:
        """Return members and worth along every order, both ends included."""
        n_players = evidence.n_players
        length = len(_places(self.semivalue, n_players))
        n_orders = len(evidence.kept) // length if length else 1
        ends = np.zeros((2, n_players), bool)
        ends[1] = True
        return [
            (
                np.concatenate([ends[:1], evidence.kept[rows], ends[1:]]),
                np.concatenate([evidence.empty[None], evidence.worth[rows], evidence.full[None]]),
            )
            for rows in (slice(k * length, (k + 1) * length) for k in range(n_orders))
        ]


def _weighted(kept: Bools, shares: Floats) -> Floats:
    """Return how much each step along an order counts for each player, (steps, n_players).

    A step at which several join counts for none: its size has no share in the semivalue.
    """
    n_players = kept.shape[1]
    joined = kept[1:] & ~kept[:-1]
    before = np.minimum(kept[:-1].sum(1), n_players - 1)
    counts = np.where(joined.sum(1) == 1, shares[before] * n_players, 0.0)
    weighted: Floats = joined.astype(np.float64) * counts[:, None]
    return weighted


def _require_shapley_of_unions(semivalue: Semivalue) -> None:
    if not semivalue.efficient:
        raise OptionError(
            f"the hierarchical game has Shapley (Owen) values only, no {semivalue.name} values",
            hint="leave out --semivalue, or use --game network or group",
        )


def _places(semivalue: Semivalue, n_players: int) -> Order:
    """Return the numbers of members at which an order is evaluated, the two ends left out."""
    shares = semivalue.size_shares(n_players) > _NEGLIGIBLE
    # A coalition of k members ends the step from k - 1 and begins the one from k.
    return np.flatnonzero(shares[:-1] | shares[1:]) + 1


def _members(order: Order, places: Order) -> Bools:
    """Row k keeps the first ``places[k]`` players of the order."""
    joins = np.argsort(order)
    members: Bools = joins[None, :] < places[:, None]
    return members


def random_order(generator: np.random.Generator, n_players: int, unions: Unions | None) -> Order:
    """Draw an order of all players, in which those of one union follow each other."""
    order = generator.permutation(n_players)
    if unions is None:
        return order
    turns = generator.permutation(int(unions.max()) + 1)
    return order[np.argsort(turns[unions[order]], kind="stable")]
