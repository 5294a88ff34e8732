"""KernelSHAP: regression on coalitions drawn in proportion to the Shapley kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphprune.errors import BudgetError
from graphprune.estimators.base import register, require_no_unions, require_shapley
from graphprune.estimators.evidence import Bools, Evidence, Floats, TableEstimator, jackknife
from graphprune.estimators.pairs import PER_BLOCK
from graphprune.estimators.regression import closest_additive
from graphprune.game.games import Game

_LONGEST = 25
"""Blocks per player at most where no budget is set and something else ends the work."""


@register("kernelshap")
@dataclass(frozen=True, kw_only=True)
class KernelShapEstimator(TableEstimator):
    """Consistent, with a ridge where coalitions are few. Eight coalitions per player by default.

    Coalitions are drawn with their complements and with replacement.

    References:
        Lundberg and Lee (2017), arXiv 1705.07874; Covert and Lee (2021), arXiv 2012.01536 (pairs).
    """

    def design(self, game: Game, *, longer: bool) -> KernelDesign:
        """Return pairs, most of them of extreme size.

        Raises:
            BudgetError: The budget does not pay for two blocks.
            OptionError: The semivalue is not Shapley's, or the players form unions.
        """
        require_shapley(self.semivalue, "kernelshap")
        require_no_unions(game, "kernelshap")
        blocks = self._n_blocks(game.n_players, longer=longer)
        return KernelDesign(game.n_players, blocks, self.seed)

    def _n_blocks(self, n_players: int, *, longer: bool) -> int:
        """Return how many blocks the budget pays for; drawn with replacement, they never end."""
        size = 2 * PER_BLOCK
        blocks = max(n_players * (_LONGEST if longer else 1), 8)
        least = 2 if n_players == 1 else 2 + 2 * size
        if self.budget is not None:
            if self.budget < least:
                raise BudgetError(
                    f"{self.budget} coalitions are too few to tell {n_players} players apart",
                    hint=f"allow at least {least}",
                )
            blocks = (self.budget - 2) // size
        return blocks if n_players > 1 else 0

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
