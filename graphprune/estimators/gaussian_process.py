"""Gaussian-process regression of the game, with closed-form values; optionally led by gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphprune.errors import BudgetError
from graphprune.estimators.base import register, require_no_unions
from graphprune.estimators.evidence import Bools, Evidence, Floats, TableEstimator
from graphprune.estimators.owen import SLOPE_COST, slopes_of_pair
from graphprune.estimators.pairs import PairDesign, pair_design
from graphprune.estimators.surrogate import Kernel, fitted_kernel, posterior, scales, standardised
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
        budget = None if self.budget is None else self.budget - self.slope_cost
        return pair_design(game.n_players, budget, self.seed, longer=longer)

    def per_image(self, evidence: Evidence) -> Floats:
        """Return every player's value on every image, (n_images, n_players)."""
        mean = self._values(_Outputs.of(evidence.of_mean()))
        if evidence.full.size == 1:
            return mean
        deviations = self._values(_Outputs.of(_deviations(evidence)))
        found: Floats = mean + deviations - deviations.mean(0)
        return found

    def stderr(self, evidence: Evidence) -> Floats:
        """Return posterior standard deviations of the mean's values, (n_players,)."""
        outputs = _Outputs.of(evidence.of_mean())
        if not outputs.spread.any():
            return np.zeros(evidence.n_players)
        kernel = outputs.kernel()
        found = posterior(kernel, outputs.kept, self.semivalue)
        scale = outputs.scale(kernel)
        stderr: Floats = np.sqrt(found.variance) * float(scale[0] * outputs.spread[0])
        return stderr

    def _values(self, outputs: _Outputs) -> Floats:
        """Return the values of all outputs, (n_outputs, n_players)."""
        n_players = outputs.kept.shape[1]
        found = np.zeros((len(outputs.spread), n_players))
        if outputs.spread.any():
            weights = posterior(outputs.kernel(), outputs.kept, self.semivalue).weights
            found = (outputs.targets.T @ weights) * outputs.spread[:, None]
        found += outputs.led
        if self.semivalue.efficient:
            gain = outputs.gain - found.sum(1)
            found += (gain / n_players)[:, None]
        return found


@register("gaussian-process-gradients")
@dataclass(frozen=True, kw_only=True)
class GradientLedEstimator(GaussianProcessEstimator):
    """The same, led by gate gradients: what they say of a coalition is taken off first.

    Gradients cost about three evaluations and tell about all players at once, so that wide
    interiors are ranked with fewer evaluations than they have units. A quarter of the budget goes
    to them, 16 at most. On residual streams gradients mislead: use ``gaussian-process`` there.
    """

    def slopes(self, game: SlopedGame) -> Floats:  # type: ignore[override] # its name says so
        """Return mean slopes of the two halves of the draws, (2, n_images, n_players)."""
        found = np.zeros((2, game.n_images, game.n_players))
        for number in range(self._n_pairs):
            slope = slopes_of_pair(game, self.semivalue, self.seed, number)
            found[number % 2] += slope / (self._n_pairs / 2)
        return found

    @property
    def _n_pairs(self) -> int:
        if self.budget is None:
            return _MOST_PAIRS
        pairs = self.budget // (4 * 2 * SLOPE_COST) // 2 * 2
        if pairs < 2:
            raise BudgetError(
                f"{self.budget} evaluations do not pay for gradients and coalitions",
                hint=f"allow at least {4 * 2 * SLOPE_COST * 2}",
            )
        return min(pairs, _MOST_PAIRS)

    @property
    def slope_cost(self) -> int:
        """Evaluations that the slopes are counted as."""
        return 2 * SLOPE_COST * self._n_pairs


_MOST_PAIRS = 8


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


@dataclass(frozen=True)
class _Outputs:
    """Outputs to be regressed on coalitions, the two ends among them.

    Args:
        kept: (n_coalitions, n_players).
        targets: (n_coalitions, n_outputs), of mean zero and spread one.
        spread: What they were divided by, (n_outputs,).
        gain: What the grand coalition adds to the empty one, (n_outputs,).
        led: Values of what gradients predict and the targets lack, (n_outputs, n_players).
    """

    kept: Bools
    targets: Floats
    spread: Floats
    gain: Floats
    led: Floats

    @classmethod
    def of(cls, evidence: Evidence) -> _Outputs:
        n_players = evidence.n_players
        ends = np.stack([np.zeros(n_players, bool), np.ones(n_players, bool)])
        kept = np.concatenate([ends, evidence.kept])
        worth = np.concatenate([evidence.empty[None], evidence.full[None], evidence.worth])
        led = np.zeros((worth.shape[1], n_players))
        if evidence.slopes is not None:
            led = _scaled(evidence.slopes.mean(0), kept, worth)
            worth = worth - kept @ led.T
        targets, spread = standardised(worth)
        return cls(kept, targets, spread, evidence.full - evidence.empty, led)

    def kernel(self) -> Kernel:
        """Return the kernel that fits the outputs best, some of them where there are many."""
        chosen = np.linspace(0, len(self.spread) - 1, min(len(self.spread), _FITTED_IMAGES))
        return fitted_kernel(self.kept, self.targets[:, np.unique(chosen.astype(int))])

    def scale(self, kernel: Kernel) -> Floats:
        """Return by how much the outputs' spread differs from what the kernel expects."""
        return scales(kernel, self.kept, self.targets)


def _scaled(slopes: Floats, kept: Bools, worth: Floats) -> Floats:
    """Return slopes times the factor with which they predict each output best."""
    predicted = kept @ slopes.T
    predicted = predicted - predicted.mean(0)
    power = np.square(predicted).sum(0)
    factor = (predicted * (worth - worth.mean(0))).sum(0) / np.where(power > 0, power, 1.0)
    scaled: Floats = slopes * np.where(power > 0, factor, 0.0)[:, None]
    return scaled
