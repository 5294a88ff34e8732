"""Gaussian-process regression of the game, with closed-form values; optionally led by gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphprune.errors import BudgetError
from graphprune.estimators.base import register, require_no_unions
from graphprune.estimators.evidence import Bools, Evidence, Floats, TableEstimator
from graphprune.estimators.owen import SLOPE_COST, slopes_of_pairs
from graphprune.estimators.pairs import PER_BLOCK, PairDesign, pair_design
from graphprune.estimators.semivalues import Semivalue
from graphprune.estimators.surrogate import Corrected, corrected, fitted, posterior, standardised
from graphprune.game.games import Game, SlopedGame

_FITTED_IMAGES = 64
"""Images whose deviations from the mean the kernel is chosen on."""


@register("gaussian-process")
@dataclass(frozen=True, kw_only=True)
class GaussianProcessEstimator(TableEstimator):
    """Values of the game that is most probable given some coalitions' worth.

    See :mod:`graphprune.estimators.surrogate`. All images are outputs of one kernel; their mean,
    which is smoother than they are, has one of its own. Consistent; held back by its prior where
    coalitions are few, so that it does not explode. Eight coalitions per player by default.
    """

    def design(self, game: Game, *, longer: bool) -> PairDesign:
        """Return pairs of all sizes alike."""
        require_no_unions(game, "gaussian-process")
        budget = None if self.budget is None else self.budget - self.slope_cost(game.n_players)
        return pair_design(game.n_players, budget, self.seed, longer=longer)

    def per_image(self, evidence: Evidence) -> Floats:
        """Return every player's value on every image, (n_images, n_players)."""
        mean = self._estimated(evidence.of_mean()).values
        if evidence.full.size == 1:
            return mean
        deviations = self._estimated(_deviations(evidence)).values
        found: Floats = mean + deviations - deviations.mean(0)
        return found

    def stderr(self, evidence: Evidence) -> Floats:
        """Return posterior standard deviations of the mean's values, (n_players,)."""
        covariance = self._estimated(evidence.of_mean()).covariance
        stderr: Floats = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        return stderr

    def _estimated(self, evidence: Evidence) -> Corrected:
        """Return the values of all outputs and their common posterior covariance."""
        kept, worth = _with_ends(evidence)
        targets, spread = standardised(worth)
        n_players, gain = evidence.n_players, evidence.full - evidence.empty
        found = Corrected(np.zeros((len(gain), n_players)), np.zeros((n_players, n_players)))
        if spread.any():
            fit = fitted(kept, _some(targets[:, spread > 0]))
            told = posterior(fit.kernel, kept, self.semivalue)
            scale = fit.scale * np.sqrt(np.square(spread).mean())
            found = Corrected(
                (targets.T @ told.weights) * spread[:, None], told.covariance * scale**2
            )
        if evidence.slopes is not None:
            heard = _centred(evidence.slopes.mean(0), self.semivalue)
            found = corrected(found.values, found.covariance, heard, _LEAST_ERROR)
        if self.semivalue.efficient:
            missing = (gain - found.values.sum(1)) / n_players
            found = Corrected(found.values + missing[:, None], found.covariance)
        return found


@register("gaussian-process-gradients")
@dataclass(frozen=True, kw_only=True)
class GradientLedEstimator(GaussianProcessEstimator):
    """The same, corrected by gate gradients, see :mod:`graphprune.estimators.owen`.

    Gradients cost about three evaluations and tell about all players at once, but they err by more
    than chance. How much is judged by their distance from what the coalitions tell, so that they
    lead where coalitions are few and fade where these tell more. A draw for every unit is made, 16
    at least and 32 at most, but not for more than half of the budget.
    """

    def slopes(self, game: SlopedGame) -> Floats:  # type: ignore[override] # its name says so
        """Return mean slopes of the two halves of the draws, (2, n_images, n_players)."""
        numbers = range(self._n_pairs(game.n_players))
        found = slopes_of_pairs(game, self.semivalue, self.seed, numbers)
        return np.stack([found[0::2].mean(0), found[1::2].mean(0)])

    def slope_cost(self, n_players: int) -> int:
        """Return how many evaluations the slopes are counted as."""
        return 2 * SLOPE_COST * self._n_pairs(n_players)

    def _n_pairs(self, n_players: int) -> int:
        most = int(np.clip(n_players // 4 * 2, *_PAIRS))
        if self.budget is None:
            return most
        if self.budget < _LEAST:
            raise BudgetError(
                f"{self.budget} evaluations do not pay for gradients and coalitions",
                hint=f"allow at least {_LEAST}",
            )
        return min(self.budget // (2 * 2 * SLOPE_COST) // 2 * 2, most)


_PAIRS = (8, 16)
"""Pairs of gradients at least, where the budget allows it, and at most; between, one in 2 units."""

_LEAST = 2 * 2 * SLOPE_COST + 2 + 2 * 2 * PER_BLOCK
"""Evaluations that two pairs of gradients take, the two ends and two blocks of coalitions."""

_LEAST_ERROR = 0.05
"""Least error variance of gradients, as a share of the values' own: measured on networks."""


def _deviations(evidence: Evidence) -> Evidence:
    """Return the evidence on how each image differs from the mean."""
    slopes = evidence.slopes
    return Evidence(
        kept=evidence.kept,
        worth=evidence.worth - evidence.worth.mean(1, keepdims=True),
        blocks=evidence.blocks,
        empty=evidence.empty - evidence.empty.mean(),
        full=evidence.full - evidence.full.mean(),
        slopes=None if slopes is None else slopes - slopes.mean(1, keepdims=True),
    )


def _with_ends(evidence: Evidence) -> tuple[Bools, Floats]:
    """Return all coalitions and their worth, the empty and the grand coalition first."""
    n_players = evidence.n_players
    ends = np.stack([np.zeros(n_players, bool), np.ones(n_players, bool)])
    worth = [evidence.empty[None], evidence.full[None], evidence.worth]
    return np.concatenate([ends, evidence.kept]), np.concatenate(worth)


def _some(targets: Floats) -> Floats:
    """Return some outputs to choose the kernel on, where there are many."""
    count = targets.shape[1]
    return targets[:, np.linspace(0, count - 1, min(count, _FITTED_IMAGES)).astype(int)]


def _centred(slopes: Floats, semivalue: Semivalue) -> Floats:
    """Return slopes relative to their mean where that is known, as posterior means are."""
    return slopes - slopes.mean(1, keepdims=True) if semivalue.efficient else slopes
