"""Pruning in steps: rank, remove a part, rank what is left, until the budget is reached.

Scores say what a unit is worth while the others are there. The more of them go, the less they say;
so every step cuts (and repairs) what went so far, traces the smaller network and ranks its units.
All steps together are one plan of the original network, whose outputs all steps are faithful to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import nn

from graphprune.building import Repairing
from graphprune.correspondence import correspondence
from graphprune.data import CalibrationBatches
from graphprune.distributed import ALONE, Ranks
from graphprune.errors import DataError, OptionError
from graphprune.exchanging import Exchanged, exchange, fits
from graphprune.fidelity import with_reference
from graphprune.game.evaluation import DEFAULT, Running
from graphprune.graph import DependencyGraph, Kept, trace
from graphprune.progress import Progress, silent
from graphprune.ranking import Ranking, Scores, split_by_group
from graphprune.selection import Budget, PruningPlan, select_within
from graphprune.weighing import Weighed, weigh

Ranker = Callable[[DependencyGraph, CalibrationBatches | None, int], Ranking]
"""Ranks a network on data in a step, counted from 0."""

Builder = Callable[[Kept], nn.Module]
"""Returns the network with the units kept, repaired if it is to be."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step.

    Args:
        asked: Share of the cost to be gone by its end.
        reached: Share that was gone.
        units: Units that were gone.
    """

    asked: float
    reached: float
    units: int


@dataclass(frozen=True, kw_only=True)
class LastStep:
    """What the last step selects from, so that a little more or less can be asked for afterwards.

    Args:
        ranking: Of the original's units.
        budget: How much was to go in all.
        gone: Units that earlier steps removed; None if there were none.
        locked: Units that stay whatever they score.
    """

    ranking: Ranking
    budget: Budget
    gone: Kept | None = None
    locked: Kept | None = None

    def select(self, ratio: float) -> PruningPlan:
        """Select for another ratio of the same cost; what earlier steps removed stays removed.

        Raises:
            BudgetError: So much cannot be removed.
        """
        return select_within(
            self.ranking, replace(self.budget, ratio=ratio), gone=self.gone, locked=self.locked
        )


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """What several steps came to.

    Args:
        ranking: Of the original's units: the last step's, and below them, the earlier the lower,
            those that went in earlier steps.
        plan: What all steps remove of the original.
        steps: Every step.
        last: What the last step selected from.
        weighed: How far it is best to look ahead; None if that was not tried.
        exchanged: How units traded places in the end; None if they did not.
    """

    ranking: Ranking
    plan: PruningPlan
    steps: tuple[Step, ...]
    last: LastStep
    weighed: Weighed | None = None
    exchanged: Exchanged | None = None

    def ending_in(self, plan: PruningPlan) -> Stepped:
        """Return the same steps with another outcome of the last one."""
        return replace(self, plan=plan, steps=(*self.steps[:-1], _step(plan)))


def check_steps(steps: int) -> None:
    """Refuse a number of steps that is none.

    Raises:
        OptionError: It is less than one.
    """
    if steps < 1:
        raise OptionError(f"steps {steps} is less than 1", hint="one step ranks and prunes once")


def select_in_steps(
    graph: DependencyGraph,
    data: CalibrationBatches | None,
    budget: Budget,
    *,
    steps: int,
    rank: Ranker,
    build: Builder,
    progress: Progress = silent,
) -> Stepped:
    """Choose the units that go, a part at a time, ranking again in between.

    Args:
        graph: The network.
        data: Calibration images.
        budget: How much goes; every step adds the same share of it. Of the latency, all steps go by
            what the budget's model predicts.
        steps: How many; one ranks once, like :func:`graphprune.selection.select`.
        rank: Ranks the network, and later what is left of it.
        build: Cuts, and repairs.
        progress: Told about every step.

    Raises:
        OptionError: An option is not one of those allowed.
        BudgetError: So much cannot be removed.
    """
    check_steps(steps)
    ranking = rank(graph, data, 0)
    select_within(ranking, budget)  # what cannot be reached is said before the long work
    last = LastStep(ranking=ranking, budget=budget)
    plans = [last.select(budget.ratio / steps)]
    for step in range(1, steps):
        progress("steps", step, steps)
        kept = plans[-1].kept(graph)
        ranking, locked = _ranked_again(ranking, data, kept, rank, build, step)
        last = LastStep(ranking=ranking, budget=budget, gone=~kept, locked=locked)
        plans.append(last.select(budget.ratio * ((step + 1) / steps)))
        progress("steps", step + 1, steps)
    return Stepped(
        ranking=_below(ranking, plans),
        plan=plans[-1],
        steps=tuple(map(_step, plans)),
        last=last,
    )


def select_once(ranking: Ranking, budget: Budget) -> Stepped:
    """Choose the units that go by one ranking.

    Args:
        ranking: Scores, higher = keep.
        budget: How much goes.

    Raises:
        OptionError: An option is not one of those allowed.
        BudgetError: So much cannot be removed.
    """
    last = LastStep(ranking=ranking, budget=budget)
    plan = last.select(budget.ratio)
    return Stepped(ranking=ranking, plan=plan, steps=(_step(plan),), last=last)


def weigh_if(
    found: Stepped,
    data: CalibrationBatches | None,
    budget: Budget,
    repairing: Repairing,
    progress: Progress = silent,
) -> Stepped:
    """Settle by repairing how far a single step's scores look ahead, where that can be asked.

    Args:
        found: The plan so far.
        data: Calibration images.
        budget: How much goes.
        repairing: The repair that follows.
        progress: Told about every plan that is tried.
    """
    if len(found.steps) > 1 or data is None:
        return found
    weighed = weigh(found.ranking, data, budget, repairing, progress)
    if weighed is None:
        return found
    best = weighed.best
    last = replace(found.last, ranking=best.ranking)
    return replace(found.ending_in(best.plan), ranking=best.ranking, last=last, weighed=weighed)


@dataclass(frozen=True, kw_only=True)
class Trading:
    """Whether and how units trade places, see :mod:`graphprune.exchanging`.

    Args:
        wanted: Whether; None does where it fits: in one step, and if no repair follows.
        repair: The repair that will follow.
        running: How and where the network is run.
        ranks: The processes that share the work.
        seed: Draws images.
        progress: Told about every pass.
    """

    wanted: bool | None = None
    repair: str = "none"
    running: Running = DEFAULT
    ranks: Ranks = ALONE
    seed: int = 0
    progress: Progress = field(default=silent)


def exchange_if(
    trading: Trading, found: Stepped, data: CalibrationBatches | None, budget: Budget
) -> Stepped:
    """Let units trade places where that is wanted.

    Args:
        trading: Whether and how.
        found: The plan so far.
        data: Calibration images.
        budget: How much goes.

    Raises:
        OptionError: It is wanted and there are several steps, or not all units compete.
        DataError: It is wanted and there are no images.
    """
    once = len(found.steps) == 1
    wanted = trading.wanted
    if wanted is None:
        wanted = once and data is not None and fits(found.ranking, budget, trading.repair)
    if not wanted:
        return found
    if not once:
        raise OptionError(
            "units of one ranking trade places, and there are several steps",
            hint="leave out one of --exchange and --steps",
        )
    if data is None:
        raise DataError(
            "units trade places by what calibration images say, and there are none",
            hint="give some with --data, or leave out --exchange",
        )
    traded = exchange(
        found.ranking,
        data,
        budget,
        running=trading.running,
        ranks=trading.ranks,
        seed=trading.seed,
        progress=trading.progress,
    )
    return replace(found.ending_in(traded.plan), exchanged=traded)


def _step(plan: PruningPlan) -> Step:
    return Step(asked=plan.asked, reached=plan.reached, units=plan.before.units - plan.after.units)


def _ranked_again(
    before: Ranking,
    data: CalibrationBatches | None,
    kept: Kept,
    rank: Ranker,
    build: Builder,
    step: int,
) -> tuple[Ranking, Kept]:
    """Rank what is left; returns the original's units and which of them no unit of it is."""
    graph = before.graph
    unpinned = [output.name for output in graph.outputs if output.place in graph.output_units]
    smaller = trace(build(kept), graph.example_inputs, unpin_outputs=unpinned)
    found = rank(smaller, None if data is None else with_reference(graph, data, kept), step)
    same = correspondence(graph, kept, smaller)
    stderr = np.concatenate([group.stderr for group in found.groups] or [np.zeros(0)])
    scores = same.carried_back(found.scores)
    # What went before keeps the order in which it went, see _below.
    scores[~kept] = before.scores[~kept]
    errors = np.sqrt(same.carried_back(np.square(stderr)))
    ranking = replace(
        found,
        graph=graph,
        groups=split_by_group(graph, scores, errors),
        protected=before.protected,
        notes=tuple(dict.fromkeys((*before.notes, *found.notes))),
    )
    return ranking, kept & ~same.known


def _below(ranking: Ranking, plans: Sequence[PruningPlan]) -> Ranking:
    """Put the units of earlier steps below the last step's, so that they stay the first to go."""
    kept = np.stack([plan.kept(ranking.graph) for plan in plans])
    steps_ago = (~kept[:-1]).sum(0)  # 0 for units that the last step has ranked
    last = steps_ago == 0
    scores = ranking.scores
    if last.all():
        return ranking
    span = max(float(np.abs(scores).max()), 1e-12)
    lowest = min(float(scores[last].min(initial=0.0)), 0.0)
    # Units of one step lie closer together than two steps do, and keep their order.
    lowered: Scores = lowest - span * steps_ago + scores / 4 - span / 4
    stderr = np.concatenate([group.stderr for group in ranking.groups])
    groups = split_by_group(ranking.graph, np.where(last, scores, lowered), stderr)
    return replace(ranking, groups=groups)
