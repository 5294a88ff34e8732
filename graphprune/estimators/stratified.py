"""Stratified sampling: mean worth by size of coalition, with and without each player."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from graphprune.estimators.base import register, require_no_unions
from graphprune.estimators.evidence import Evidence, Floats, TableEstimator, jackknife
from graphprune.estimators.pairs import PairDesign, pair_design
from graphprune.estimators.regression import closest_additive, shapley_kernel
from graphprune.game.games import Game


@register("stratified")
@dataclass(frozen=True, kw_only=True)
class StratifiedEstimator(TableEstimator):
    """Every coalition counts for every player. Eight coalitions per player by default.

    A value is the mean, over sizes, of the worth of coalitions with the player minus that of
    coalitions without. The closest additive game is taken off first, whose values are known, so
    that only what it leaves is averaged.

    References:
        Kolpaczki, Bengs, Muschalik and Hüllermeier (2024), Approximating the Shapley value without
        marginal contributions, arXiv 2302.00736.
    """

    def design(self, game: Game, *, longer: bool) -> PairDesign:
        """Return pairs of all sizes alike."""
        require_no_unions(game, "stratified")
        return pair_design(game.n_players, self.budget, self.seed, longer=longer)

    def per_image(self, evidence: Evidence) -> Floats:
        """Return additive values plus stratified means of what they leave."""
        sizes = evidence.kept.sum(1)
        additive = closest_additive(evidence, *shapley_kernel(evidence.kept))
        left = evidence.worth - evidence.empty - evidence.kept @ additive.T
        shares = self.semivalue.size_shares(evidence.n_players)
        found = np.zeros((evidence.n_players, evidence.full.size))
        for size in np.unique(sizes):
            rows = sizes == size
            inside, outside = _means(evidence.kept[rows], left[rows])
            found += shares[size - 1] * inside - shares[size] * outside
        if self.semivalue.efficient:
            found -= found.mean(0)
        return additive + found.T

    def stderr(self, evidence: Evidence) -> Floats:
        """Return jackknife standard errors for what was not drawn, (n_players,)."""
        _, unseen = shapley_kernel(evidence.kept)
        return jackknife(evidence.of_mean(), self.per_image) * sqrt(unseen)


def _means(kept: Floats, worth: Floats) -> tuple[Floats, Floats]:
    """Return the mean worth of coalitions with and without each player, (n_players, n_images).

    Where there are none of one kind, all stand for them.
    """
    everything = worth.mean(0)
    found = []
    for members in (kept.astype(np.float64), 1.0 - kept):
        counts = members.sum(0)[:, None]
        means = members.T @ worth / np.maximum(counts, 1)
        found.append(np.where(counts > 0, means, everything))
    return found[0], found[1]
