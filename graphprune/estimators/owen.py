"""Gate gradients along Owen's integral: all players at once, from a game that has slopes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import numpy.typing as npt
import torch

from graphprune.checkpoint import NO_STATE, Arrays, State
from graphprune.errors import BudgetError
from graphprune.estimators.base import (
    Floats,
    ShapleyEstimate,
    register,
    require_no_unions,
    stability_of_halves,
)
from graphprune.estimators.semivalues import SHAPLEY, Semivalue
from graphprune.estimators.stopping import NEVER, Stopping, looks
from graphprune.game.games import SlopedGame
from graphprune.progress import Progress, silent

SLOPE_COST = 3
"""Evaluations that a forward and a backward pass are counted as (measured: 2.4 to 3)."""

DEFAULT_DRAWS = 32

_LONGEST = 1024

_FIRST_LOOK = 4
"""Pairs after which the stability is looked at first."""

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
        run = _Run(game, self.semivalue, self.seed, stopping)
        stopped = run.play(n_pairs, progress, state)
        count = len(run.means)
        return ShapleyEstimate(
            run.sums.sum(0) / count,
            run.means.std(0, ddof=1) / np.sqrt(count),
            2 * SLOPE_COST * count,
            own_coalitions=True,
            stability=run.stability() if stopping.asked else None,
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


class _Run:
    """Draws pairs, one after the other; their sums are all there is to save."""

    def __init__(
        self, game: SlopedGame, semivalue: Semivalue, seed: int, stopping: Stopping
    ) -> None:
        self._game = game
        self._semivalue = semivalue
        self._seed = seed
        self._stopping = stopping
        self.sums = np.zeros((2, game.n_images, game.n_players))
        self.means = np.zeros((0, game.n_players))
        self._seconds = 0.0
        # The stability at the look before this one, see evidence.py.
        self._before = 0.0

    def play(self, n_pairs: int, progress: Progress, state: State) -> str:
        """Draw pairs until something ends it; return what did."""
        self._restore(state)
        start = self._stopping.clock() - self._seconds
        planned = frozenset(takewhile(lambda look: look < n_pairs, looks(_FIRST_LOOK)))
        while len(self.means) < n_pairs:
            number = len(self.means)
            self._seconds = self._stopping.clock() - start
            if number >= 2 and self._stopping.expired(self._seconds):
                return "seconds"
            if number in planned:
                if self._stopping.stable(self.stability()):
                    return "stable"
                self._before = self._now()
            stop = min((look for look in planned if look > number), default=n_pairs)
            self._draw(range(number, min(stop, number + max(self._stopping.ranks.size // 2, 1))))
            self._seconds = self._stopping.clock() - start
            state.save(self._arrays())
            progress("pairs of gradients", len(self.means), n_pairs)
        return "stable" if self._stopping.stable(self.stability()) else "budget"

    def _draw(self, numbers: range) -> None:
        """Draw pairs together, as many as make work for all ranks."""
        slopes = slopes_of_pairs(self._game, self._semivalue, self._seed, numbers)
        for number, slope in zip(numbers, slopes, strict=True):
            self.sums[number % 2] += slope
            self.means = np.concatenate([self.means, slope.mean(0)[None]])

    def stability(self) -> float:
        """Return the stability; where it may end the work, the lower one of two looks."""
        now = self._now()
        return now if self._stopping.stability is None else min(now, self._before)

    def _now(self) -> float:
        counts = (len(self.means) + 1) // 2, len(self.means) // 2
        one, other = (half / count for half, count in zip(self.sums, counts, strict=True))
        return stability_of_halves(one, other, self._stopping.aggregate)

    def _arrays(self) -> Arrays:
        return {
            "sums": self.sums,
            "means": self.means,
            "seconds": np.array(self._seconds),
            "before": np.array(self._before),
        }

    def _restore(self, state: State) -> None:
        known = state.load(self._arrays())
        if known is None:
            return
        self.sums = known["sums"].astype(np.float64)
        self.means = known["means"].astype(np.float64)
        self._seconds, self._before = float(known["seconds"]), float(known["before"])


def slopes_of_pairs(
    game: SlopedGame, semivalue: Semivalue, seed: int, numbers: Sequence[int]
) -> Floats:
    """Return the mean slopes of pairs of opposite draws, (n_pairs, n_images, n_players).

    Args:
        game: The game.
        semivalue: Says where q lies.
        seed: Of all draws.
        numbers: The pairs'.
    """
    gates = np.concatenate([_gates(game, semivalue, seed, number) for number in numbers])
    slopes = game.slopes(torch.from_numpy(gates)).numpy()
    found: Floats = (slopes[0::2] + slopes[1::2]) / 2
    return found


def _gates(
    game: SlopedGame, semivalue: Semivalue, seed: int, number: int
) -> npt.NDArray[np.float32]:
    """Return a pair of opposite openings for every image, (2, n_images, n_players)."""
    generator = np.random.default_rng([seed, number])
    # Golden-ratio steps fill [0, 1] evenly however many pairs follow, and so do the images' starts.
    first = np.random.default_rng([seed, _STARTS])
    starts = (first.permutation(game.n_images) + first.random()) / game.n_images
    share = (starts + number * _GOLDEN) % 1.0
    openings = []
    draws = generator.random((game.n_images, game.n_players))
    for at, drawn in ((share, draws), (1 - share, 1 - draws)):
        q = (semivalue.low + at * (semivalue.high - semivalue.low))[:, None]
        openings.append(q + _OPENNESS * ((drawn < q) - q))
    return np.stack(openings).astype(np.float32)


_STARTS = 1 << 30
_GOLDEN = (np.sqrt(5) - 1) / 2
