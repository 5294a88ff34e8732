"""Exchange: units trade places as long as what is kept plays better.

Scores are averages over many coalitions, and a plan is one. What a unit is worth there depends on
what else has gone by then, and scores err most across groups: the marginals of units that many
layers read are over-estimated. But the coalition that a plan keeps is one that the game can simply
play, and so is every other one of the same budget. So plans near the ranking's own are played:

1. :mod:`~graphprune.exchanging.turns`: groups trade, one after the other, each in the order that
   its units were ranked in;
2. :mod:`~graphprune.exchanging.swaps`: units trade, by the gradients of their gates where the plan
   stands.

This fits networks that stay as they are cut. A repair changes what the coalition is worth: after
least squares such an exchange does harm (see the benchmarks of quality).
"""

from __future__ import annotations

from dataclasses import dataclass

from graphprune.cost import CostModel
from graphprune.criteria.images import fitting_images
from graphprune.data import CalibrationBatches
from graphprune.distributed import ALONE, Ranks
from graphprune.errors import OptionError
from graphprune.exchanging.held import Held, Passes
from graphprune.exchanging.swaps import swap_units
from graphprune.exchanging.turns import n_turns, trade_groups
from graphprune.game.evaluation import DEFAULT, Running
from graphprune.game.games import NetworkGame
from graphprune.game.value import NEEDS_LABELS, PERFORMANCES, is_stepwise
from graphprune.progress import Progress, silent
from graphprune.ranking import Ranking
from graphprune.selection import Budget, PruningPlan, select_within

ENOUGH_PASSES = 20_000
"""Images of all passes of the turns together, and as many again of the swaps."""

ENOUGH_MACS = 4 * 10**12
"""Multiply-accumulates of either: about what a ranking takes."""

FEWEST_IMAGES = 32
"""Images that judge, at least, where there are so many."""

FEWEST_PASSES = 16
"""Passes of either, at least, however large the network is."""

PASSES_OF_SWAPS = 75
"""Passes that swaps should have; images are left out for them, and for those of the turns."""


@dataclass(frozen=True, kw_only=True)
class Exchanged:
    """A plan whose units have traded places.

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
    """Select, then let units trade places while what is kept is worth more.

    Args:
        ranking: Scores, higher = keep.
        data: Calibration images; where there are many, some that a seed draws.
        budget: How much goes; all units compete.
        running: How and where the network is run.
        ranks: The processes that share the work.
        seed: Draws images, and predictions for second-order terms.
        progress: Told about every pass.

    Raises:
        OptionError: Not all units compete, or the budget is one of the latency.
        BudgetError: So much cannot be removed.
        DataError: The images do not fit the network.
    """
    check_exchange(budget)
    data = fitting_images(ranking.graph, data, seed, needed=True) or data
    value = _value(ranking, data)
    task = _Task(ranking, budget, data, value, running, ranks, seed, progress)
    own = select_within(ranking, budget)
    turns = task.turns(own)
    if is_stepwise(value):
        # Without gradients there is nothing that single units could trade by.
        return turns
    return task.swaps(own, turns)


@dataclass(frozen=True)
class _Task:
    """What is exchanged, on what."""

    ranking: Ranking
    budget: Budget
    data: CalibrationBatches
    value: str
    running: Running
    ranks: Ranks
    seed: int
    progress: Progress

    def turns(self, own: PruningPlan) -> Exchanged:
        """Let groups trade; each part has a game of its own, so that none is held for longer."""
        wanted = n_turns(len(self.ranking.graph.groups))
        held = self._held("groups", own, wanted, most=wanted)
        before = held.worth
        trade_groups(held)
        return self._ended(held, before, 0)

    def swaps(self, own: PruningPlan, turns: Exchanged) -> Exchanged:
        """Let units trade, from where groups have got to if that is worth more on all images."""
        held = self._held("units", own, PASSES_OF_SWAPS)
        before = held.worth
        held.offer(turns.plan)
        swap_units(held, self.seed)
        return self._ended(held, before, turns.evaluations)

    def _held(self, who: str, own: PruningPlan, wanted: int, most: int | None = None) -> Held:
        """Return the ranking's own plan, with passes and images that fit the means.

        Args:
            who: Trades.
            own: The plan.
            wanted: Passes that there should be; images are left out for them.
            most: Passes that there may be.
        """
        graph = self.ranking.graph
        macs = CostModel(graph).total(graph.all_kept()).macs
        affordable = min(ENOUGH_PASSES, ENOUGH_MACS // max(macs, 1))
        judges = _some(self.data, max(affordable // wanted, FEWEST_IMAGES), self.seed)
        count = max(affordable // judges.n_images, FEWEST_PASSES)
        passes = Passes(f"exchange of {who}", min(count, most or count), self.progress)
        game = NetworkGame(graph, judges, self.value, self.running, self.ranks)
        return Held(self.ranking, self.budget, game, own, passes)

    def _ended(self, held: Held, before: float, evaluations: int) -> Exchanged:
        held.passes.end()
        return Exchanged(
            plan=held.plan,
            before=before,
            after=held.worth,
            value=self.value,
            evaluations=evaluations + held.game.evaluations,
            n_images=held.game.n_images,
        )


def check_exchange(budget: Budget) -> None:
    """Refuse budgets for which units cannot trade places.

    Raises:
        OptionError: Not all units compete, or the budget is one of the latency.
    """
    if budget.chosen_scope != "global":
        raise OptionError(
            f"units trade places where all compete, and the scope is {budget.chosen_scope}",
            hint="use --scope global, or leave out --exchange",
        )
    if budget.of == "latency":
        raise OptionError(
            "units do not trade places for a budget of the latency",
            hint="use --of macs, or leave out --exchange",
        )


def _value(ranking: Ranking, data: CalibrationBatches) -> str:
    """Return the ranking's value of a coalition if it can be played here, else ``kl``."""
    value = ranking.value
    known = value in PERFORMANCES and (value not in NEEDS_LABELS or data.has_labels)
    return value if value is not None and known else "kl"


def _some(data: CalibrationBatches, count: int, seed: int) -> CalibrationBatches:
    return data.split(count, seed=seed)[1] if count < data.n_images else data
