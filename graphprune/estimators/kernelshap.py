"""KernelSHAP: regression on coalitions drawn in proportion to the Shapley kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphprune.estimators.base import register, require_no_unions, require_shapley
from graphprune.estimators.evidence import Bools, Evidence, Floats, TableEstimator, jackknife
from graphprune.estimators.pairs import PER_BLOCK, pair_design
from graphprune.estimators.regression import closest_additive
from graphprune.game.games import Game


@register("kernelshap")
@dataclass(frozen=True, kw_only=True)
class KernelShapEstimator(TableEstimator):
    """Consistent, with a ridge where coalitions are few. Eight coalitions per player by default.

    Coalitions are drawn with their complements and with replacement.

    References:
        Lundberg and Lee (2017), arXiv 1705.07874; Covert and Lee (2021), arXiv 2012.01536 (pairs).
    """

    def design(self, game: Game, *, longer: bool) -> KernelDesign:
        """Return pairs, most of them of extreme size."""
        require_shapley(self.semivalue, "kernelshap")
        require_no_unions(game, "kernelshap")
        blocks = pair_design(game.n_players, self.budget, self.seed, longer=longer).n_blocks
        return KernelDesign(game.n_players, blocks, self.seed)

    def per_image(self, evidence: Evidence) -> Floats:
        """Return the closest additive game's weights, (n_images, n_players)."""
        return closest_additive(evidence, np.ones(len(evidence.kept)))

    def stderr(self, evidence: Evidence) -> Floats:
        """Return jackknife standard errors, (n_players,)."""
        return jackknife(evidence.of_mean(), self.per_image)


@dataclass(frozen=True)
class KernelDesign:
    """Blocks of pairs whose sizes follow the Shapley kernel.

    Args:
        n_players: Players.
        n_blocks: Blocks that the budget pays for.
        seed: Of all draws.
    """

    n_players: int
    n_blocks: int
    seed: int
    stage: str = "pairs of coalitions"

    @property
    def fewest(self) -> int:
        """Blocks that an estimate takes at least."""
        return min(2, self.n_blocks)

    def block(self, number: int) -> Bools:
        """Return the coalitions of a block, (8, n_players)."""
        generator = np.random.default_rng([self.seed, number])
        sizes = np.arange(1, self.n_players)
        shares = 1 / (sizes * (self.n_players - sizes))
        rows = []
        for size in generator.choice(sizes, PER_BLOCK, p=shares / shares.sum()):
            members = generator.permutation(self.n_players) < size
            rows += [members, ~members]
        return np.stack(rows)
