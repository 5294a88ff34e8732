"""Exchange: groups trade units for one another as long as what is kept plays better.

Scores of one group order its units well. Across groups they err: the marginals of units that many
layers read are over-estimated, and what a group may lose depends on what the others have lost by
then. The coalition that a plan keeps is one that the game can simply play. So a group's scores are
scaled by a factor, up or down; selection under the same budget makes room elsewhere; and the factor
stays if the coalition that is left is worth more. Every group has its turn, with smaller changes
after those that fail.

This fits networks that stay as they are cut. A repair changes what the coalition is worth: after
least squares such an exchange does harm (see the benchmarks of quality).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from graphprune.cost import CostModel
from graphprune.criteria.images import fitting_images
from graphprune.data import CalibrationBatches
from graphprune.distributed import ALONE, Ranks
from graphprune.errors import OptionError
from graphprune.game.evaluation import DEFAULT, Running
from graphprune.game.games import NetworkGame
from graphprune.game.value import NEEDS_LABELS, PERFORMANCES
from graphprune.graph import Kept
from graphprune.groups import PruningGroup
from graphprune.progress import Progress, silent
from graphprune.ranking import Ranking, Scores, split_by_group
from graphprune.selection import Budget, PruningPlan, select_within

ROUNDS = 3
"""Turns of every group; more gain little."""

ENOUGH_PASSES = 20_000
"""Images of all evaluations together."""

ENOUGH_MACS = 4 * 10**12
"""Multiply-accumulates of all evaluations together: about what a ranking takes."""

FEWEST_IMAGES = 32
"""Images that judge, at least, where there are so many."""

FEWEST_EVALUATIONS = 16
"""Coalitions that are played at least, however large the network is."""

_FIRST_STEP = 1 / 8
"""Share of a group's units that its first turn adds or takes away."""

_STAGE = "exchange"


@dataclass(frozen=True, kw_only=True)
class Exchanged:
    """A plan whose groups have traded units.

    Args:
        plan: What goes.
        before: Mean worth of what the ranking's own plan keeps (in nats for ``kl``), higher is
            better.
        after: Mean worth of what this plan keeps, on the same images; never less.
        value: What a coalition is worth.
        evaluations: Coalitions played.
        n_images: Images that each was played on.
    """

    plan: PruningPlan
    before: float
    after: float
    value: str
    evaluations: int
    n_images: int


def fits(ranking: Ranking, budget: Budget, repair: str) -> bool:
    """Whether exchanging is worth it: for scores of one game of all units, left unrepaired."""
    return (
        ranking.game == "network"
        and ranking.for_repair in (None, "none")
        and repair == "none"
        and budget.of != "latency"
        and budget.chosen_scope == "global"
    )


def exchange(
    ranking: Ranking,
    data: CalibrationBatches,
    budget: Budget,
    *,
    running: Running = DEFAULT,
    ranks: Ranks = ALONE,
    seed: int = 0,
    progress: Progress = silent,
) -> Exchanged:
    """Select, then let groups trade units while what is kept is worth more.

    Args:
        ranking: Scores, higher = keep; their order within each group stays.
        data: Calibration images; where there are many, some that a seed draws.
        budget: How much goes; all units compete.
        running: How and where the network is run.
        ranks: The processes that share the work.
        seed: Draws images.
        progress: Told about every coalition.

    Raises:
        OptionError: Not all units compete, or the budget is one of the latency.
        BudgetError: So much cannot be removed.
        DataError: The images do not fit the network.
    """
    check_exchange(budget)
    graph = ranking.graph
    data = fitting_images(graph, data, seed, needed=True) or data
    value = _value(ranking, data)
    macs = CostModel(graph).total(graph.all_kept()).macs
    most = 2 * ROUNDS * max(len(graph.groups), 1) + 1
    passes = min(ENOUGH_PASSES, ENOUGH_MACS // max(macs, 1))
    judges = _some(data, max(passes // most, FEWEST_IMAGES), seed)
    most = min(most, max(passes // judges.n_images, FEWEST_EVALUATIONS))
    game = NetworkGame(graph, judges, value, running, ranks)
    search = _Search(ranking, budget, game, most, progress)
    search.run()
    progress(_STAGE, most, most)
    return Exchanged(
        plan=search.plan,
        before=search.before,
        after=search.worth,
        value=value,
        evaluations=game.evaluations,
        n_images=judges.n_images,
    )


def check_exchange(budget: Budget) -> None:
    """Refuse budgets for which groups cannot trade units.

    Raises:
        OptionError: Not all units compete, or the budget is one of the latency.
    """
    if budget.chosen_scope != "global":
        raise OptionError(
            f"groups trade units where all units compete, and the scope is {budget.chosen_scope}",
            hint="use --scope global, or leave out --exchange",
        )
    if budget.of == "latency":
        raise OptionError(
            "groups do not trade units for a budget of the latency",
            hint="use --of macs, or leave out --exchange",
        )


def _value(ranking: Ranking, data: CalibrationBatches) -> str:
    """Return the ranking's value of a coalition if it can be played here, else ``kl``."""
    value = ranking.value
    known = value in PERFORMANCES and (value not in NEEDS_LABELS or data.has_labels)
    return value if value is not None and known else "kl"


def _some(data: CalibrationBatches, count: int, seed: int) -> CalibrationBatches:
    return data.split(count, seed=seed)[1] if count < data.n_images else data


class _Search:
    """Coordinate search over one factor for each group's scores.

    Args:
        ranking: Scores, higher = keep.
        budget: How much goes.
        game: What says what is kept is worth.
        most: Coalitions that may be played.
        progress: Told about every one.
    """

    def __init__(
        self, ranking: Ranking, budget: Budget, game: NetworkGame, most: int, progress: Progress
    ) -> None:
        self._ranking = ranking
        self._budget = budget
        self._game = game
        self._most = most
        self._progress = progress
        self._scores = _positive(ranking.scores)
        self.plan = select_within(ranking, budget)
        self._kept = self.plan.kept(ranking.graph)
        self.before = self.worth = self._worth(self._kept)

    def run(self) -> None:
        """Give every group its turns, in the graph's order (others were tried, and were worse)."""
        groups, protected = self._ranking.graph.groups, self._ranking.protected
        free = [group for group in groups if group.name not in protected]
        steps = {group.name: _FIRST_STEP for group in free}
        for _ in range(ROUNDS):
            for group in free:
                if self._game.evaluations >= self._most:
                    return
                steps[group.name] = self._turn(group, steps[group.name])

    def _turn(self, group: PruningGroup, step: float) -> float:
        """Move one group's scores; returns the step of its next turn, negative to shrink first."""
        for signed in (step, -step):
            if self._moved(group, signed):
                return signed
        return -step / 2

    def _moved(self, group: PruningGroup, step: float) -> bool:
        """Move a group's scores by what adds (or takes away) a share of its units, if it is better.

        The other groups pay for it, or are paid.
        """
        shift = _factor(self._scores[group.span], self._kept[group.span], step)
        scores = self._scores.copy()
        scores[group.span] *= shift
        plan = select_within(self._scaled(scores), self._budget)
        kept = plan.kept(self._ranking.graph)
        if np.array_equal(kept, self._kept):
            return False
        worth = self._worth(kept)
        if not worth > self.worth:
            return False
        self.plan, self._kept, self.worth, self._scores = plan, kept, worth, scores
        return True

    def _worth(self, kept: Kept) -> float:
        """Return what is kept is worth: the mean over images."""
        found = float(self._game.values(torch.from_numpy(kept)[None])[0].mean())
        self._progress(_STAGE, min(self._game.evaluations, self._most), self._most)
        return found if math.isfinite(found) else -math.inf

    def _scaled(self, scores: Scores) -> Ranking:
        return replace(self._ranking, groups=split_by_group(self._ranking.graph, scores))


def _positive(scores: Scores) -> Scores:
    """Return scores that factors move, in the same order: those near zero and below are lifted."""
    above = scores[scores > 0]
    highest = float(np.abs(scores).max(initial=0.0)) or 1.0
    floor = max(0.5 * float(np.quantile(above, 0.05)) if above.size else 0.0, 1e-9 * highest)
    below = floor / (1 + np.maximum(floor - scores, 0) / floor)
    return np.where(scores > floor, scores, below)


def _factor(scores: Scores, kept: Kept, step: float) -> float:
    """Return what one group's scores are multiplied by to keep more of its units, or fewer.

    Args:
        scores: (n_units,) of the group, positive.
        kept: (n_units,) Bool, those that the plan keeps now.
        step: Share of the units to add, or if negative to take away.
    """
    count = max(1, round(abs(step) * scores.size))
    inside, outside = np.sort(scores[kept]), np.sort(scores[~kept])[::-1]
    if step > 0:
        # What comes in is where the edge is now: the lowest score that stays.
        if not outside.size or not inside.size:
            return 1.0
        return float(inside[0] / outside[min(count, outside.size) - 1]) * _OVER
    if inside.size <= 1:
        return 1.0
    edge = outside[0] if outside.size else inside[0]
    return float(edge / inside[min(count, inside.size) - 1]) / _OVER


_OVER = 1 + 1e-6
"""Past a tie."""
