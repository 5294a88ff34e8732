"""The plan that is held: the best so far, which others have to beat."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from graphprune.errors import BudgetError
from graphprune.game.games import NetworkGame
from graphprune.graph import Kept
from graphprune.progress import Progress
from graphprune.ranking import Ranking, Scores, split_by_group
from graphprune.selection import Budget, PruningPlan, select_within


class Passes:
    """Passes of all images that playing plans may take.

    Args:
        stage: What they are told as.
        most: How many.
        progress: Told of all.
    """

    def __init__(self, stage: str, most: int, progress: Progress) -> None:
        self._stage = stage
        self._most = most
        self._taken = 0
        self._progress = progress

    @property
    def left(self) -> bool:
        """Whether there are any."""
        return self._taken < self._most

    def take(self, count: int) -> None:
        """Count some that were taken."""
        self._taken = min(self._taken + count, self._most)
        self._progress(self._stage, self._taken, self._most)

    def end(self) -> None:
        """Take all that are left."""
        self.take(self._most)


class Held:
    """The best of the plans that were offered.

    Args:
        ranking: Whose units are selected; its scores are those of the first plan.
        budget: How much goes.
        game: Says what is kept is worth.
        plan: The first plan.
        passes: What playing takes.
    """

    def __init__(
        self,
        ranking: Ranking,
        budget: Budget,
        game: NetworkGame,
        plan: PruningPlan,
        passes: Passes,
    ) -> None:
        self.ranking = ranking
        self.budget = budget
        self.game = game
        self.passes = passes
        self.plan = plan
        self.kept: Kept = plan.kept(ranking.graph)
        self.worth = self._worth(self.kept)

    def beaten_by(self, scores: Scores) -> bool:
        """Select by other scores under the same budget; hold that plan if it is worth more."""
        ranking = replace(self.ranking, groups=split_by_group(self.ranking.graph, scores))
        try:
            return self.offer(select_within(ranking, self.budget))
        except BudgetError:
            # What can go at most depends on the order, where axes are made up of several groups.
            return False

    def offer(self, plan: PruningPlan) -> bool:
        """Hold a plan if what it keeps is worth more; returns whether it is."""
        kept = plan.kept(self.ranking.graph)
        if np.array_equal(kept, self.kept):
            return False
        worth = self._worth(kept)
        if not worth > self.worth:
            return False
        self.plan, self.kept, self.worth = plan, kept, worth
        return True

    def _worth(self, kept: Kept) -> float:
        """Return what is kept is worth: the mean over images."""
        found = float(self.game.values(torch.from_numpy(kept)[None])[0].mean())
        self.passes.take(1)
        return found if math.isfinite(found) else -math.inf
