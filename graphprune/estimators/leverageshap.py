"""LeverageSHAP: regression on coalitions of all sizes alike, drawn without replacement."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from graphprune.estimators.base import register, require_no_unions, require_shapley
from graphprune.estimators.evidence import Evidence, Floats, TableEstimator, jackknife
from graphprune.estimators.pairs import PairDesign, pair_design
from graphprune.estimators.regression import closest_additive, shapley_kernel
from graphprune.game.games import Game


@register("leverageshap")
@dataclass(frozen=True, kw_only=True)
class LeverageShapEstimator(TableEstimator):
    """Consistent, with a ridge where coalitions are few. Eight coalitions per player by default.

    Exact once all coalitions are evaluated.

    References:
        Musco and Witter (2024), arXiv 2410.01917.
    """

    def design(self, game: Game, *, longer: bool) -> PairDesign:
        """Return pairs of all sizes alike."""
        require_shapley(self.semivalue, "leverageshap")
        require_no_unions(game, "leverageshap")
        return pair_design(game.n_players, self.budget, self.seed, longer=longer)

    def per_image(self, evidence: Evidence) -> Floats:
        """Return the closest additive game's weights, (n_images, n_players)."""
        return closest_additive(evidence, *shapley_kernel(evidence.kept))

    def stderr(self, evidence: Evidence) -> Floats:
        """Return jackknife standard errors for what was not drawn, (n_players,)."""
        _, unseen = shapley_kernel(evidence.kept)
        return jackknife(evidence.of_mean(), self.per_image) * sqrt(unseen)
