"""Gate gradients along Owen's integral: all players at once, from a game that has slopes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from graphprune.checkpoint import NO_STATE, State
from graphprune.errors import BudgetError
from graphprune.estimators.base import (
    Floats,
    ShapleyEstimate,
    aggregate,
    register,
    require_no_unions,
)
from graphprune.estimators.semivalues import SHAPLEY, Semivalue
from graphprune.estimators.stopping import NEVER, Stopping, stability_of
from graphprune.game.games import SlopedGame
from graphprune.progress import Progress, silent

SLOPE_COST = 3
"""Evaluations that a forward and a backward pass are counted as (measured: 2.4 to 3)."""

DEFAULT_DRAWS = 32

_LONGEST = 1024

_OPENNESS = 0.9
"""How far gates lie from their mean towards 0 or 1; at 1 a closed gate hides what is behind it."""


@register("owen")
@dataclass(frozen=True, kw_only=True)
class OwenEstimator:
    """Mean slope of the worth in every player's gate, at random openings.

    The Shapley value is the integral, over q from 0 to 1, of the mean slope where every other
    player is in with probability q (Owen's multilinear extension). Draws come in pairs of opposite
    openings, and their q are spread evenly. Unbiased for games that are multilinear in the gates;
    in networks biased, little on interiors and badly on residual streams. Every image has openings
    of its own. A draw counts as three evaluations; 32 draws by default.

    Args:
        budget: Evaluations allowed.
        seed: Equal seeds give equal estimates.
        semivalue: What is estimated; it says where q lies.

    References:
        Owen (1972), doi:10.1287/mnsc.18.5.64.
    """

    budget: int | None = None
    seed: int = 0
    semivalue: Semivalue = SHAPLEY

    def estimate(
        self,
        game: SlopedGame,
        progress: Progress = silent,
        state: State = NO_STATE,
        stopping: Stopping = NEVER,
    ) -> ShapleyEstimate:
        """Estimate every player's value.

        Raises:
            BudgetError: The budget does not pay for two pairs of draws.
            OptionError: The worth changes in steps, or the game has unions.
        """
        require_no_unions(game, "owen")
        n_pairs = self._n_pairs(longer=stopping.asked)
        sums = np.zeros((2, game.n_images, game.n_players))
        means = np.zeros((0, game.n_players))
        seconds = np.zeros(())
        known = state.load({"sums": sums, "means": means, "seconds": seconds})
        if known is not None:
            sums, means = known["sums"].astype(np.float64), known["means"].astype(np.float64)
            seconds = known["seconds"].astype(np.float64)
        start, stopped = stopping.clock() - float(seconds), "budget"
        for number in range(len(means), n_pairs):
            elapsed = stopping.clock() - start
            if number >= 2 and stopping.expired(elapsed):
                stopped = "seconds"
                break
            if number >= 4 and stopping.stable(_stability(sums, number, stopping)):
                stopped = "stable"
                break
            slope = slopes_of_pair(game, self.semivalue, self.seed, number)
            sums[number % 2] += slope
            means = np.concatenate([means, slope.mean(0)[None]])
            spent = np.array(stopping.clock() - start)
            state.save({"sums": sums, "means": means, "seconds": spent})
            progress("pairs of gradients", number + 1, n_pairs)
        count = len(means)
        return ShapleyEstimate(
            sums.sum(0) / count,
            means.std(0, ddof=1) / np.sqrt(count),
            2 * SLOPE_COST * count,
            own_coalitions=True,
            stability=_stability(sums, count, stopping) if stopping.asked else None,
            stopped=stopped,
        )

    def _n_pairs(self, *, longer: bool) -> int:
        if self.budget is None:
            return (_LONGEST if longer else DEFAULT_DRAWS) // 2
        n_pairs = self.budget // (2 * SLOPE_COST)
        if n_pairs < 2:
            raise BudgetError(
                f"{self.budget} evaluations do not pay for two pairs of gradients",
                hint=f"allow at least {4 * SLOPE_COST}",
            )
        return n_pairs


def slopes_of_pair(game: SlopedGame, semivalue: Semivalue, seed: int, number: int) -> Floats:
    """Return the mean slope of a pair of opposite draws, (n_images, n_players).

    Args:
        game: The game.
        semivalue: Says where q lies.
        seed: Of all draws.
        number: The pair's.
    """
    slopes = game.slopes(torch.from_numpy(_gates(game, semivalue, seed, number)))
    found: Floats = slopes.numpy().mean(0)
    return found


def _gates(
    game: SlopedGame, semivalue: Semivalue, seed: int, number: int
) -> npt.NDArray[np.float32]:
    """Return a pair of opposite openings for every image, (2, n_images, n_players)."""
    generator = np.random.default_rng([seed, number])
    # Golden-ratio steps fill [0, 1] evenly however many pairs follow; images begin anywhere.
    starts = np.random.default_rng([seed, _STARTS]).random(game.n_images)
    share = (starts + number * _GOLDEN) % 1.0
    openings = []
    draws = generator.random((game.n_images, game.n_players))
    for at, drawn in ((share, draws), (1 - share, 1 - draws)):
        q = (semivalue.low + at * (semivalue.high - semivalue.low))[:, None]
        openings.append(q + _OPENNESS * ((drawn < q) - q))
    return np.stack(openings).astype(np.float32)


_STARTS = 1 << 30
_GOLDEN = (np.sqrt(5) - 1) / 2


def _stability(sums: Floats, count: int, stopping: Stopping) -> float:
    if count < 2:
        return 0.0
    counts = (count + 1) // 2, count // 2
    one, other = (
        aggregate(half / number, stopping.aggregate)[0]
        for half, number in zip(sums, counts, strict=True)
    )
    return stability_of(one, other)
