"""Weighing: how far scores look ahead to the repair that follows, settled by repairing.

A unit's value in the masked game says what it is worth while nothing is made up for, its value in
the refit game what no refit can make up for, either on average or as units go greedily. Before
least squares the geometric mean of the first with one of the others ranks best, but which depends
on the network and on how much goes; on some networks, and before other repairs, it may be the first
alone, or something in between. So the plans of all are cut and repaired, and their networks'
predictions compared with the unpruned one's. Of those that look ahead the one is kept that diverges
least, unless the masked game's own diverges less by more than a standard error.

All images judge, none a network that has seen it: one half repairs and the other half judges, then
the other way round. A quarter held out was measured, too, and chose worse plans, because so few
images say little; so did networks judged on the images that had repaired them, because some plans
owe more to that than others do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphprune.building import Repairing, build
from graphprune.data import CalibrationBatches
from graphprune.errors import SurgeryError
from graphprune.fidelity import Judge, judge_of, rises
from graphprune.graph import DependencyGraph, Kept
from graphprune.progress import Progress, silent
from graphprune.ranking import AHEAD, REFITTING, Ranking
from graphprune.releasing import release, size_of
from graphprune.selection import Budget, PruningPlan, select_within


@dataclass(frozen=True)
class Share:
    """How far scores look ahead.

    Args:
        refit: The share of the refit game, from 0 (the masked game alone) to 1.
        greedy: Whether its values are those of units that go the cheapest first, not averages.
    """

    refit: float
    greedy: bool = False


MASKED = Share(0.0)
"""The masked game alone."""

SHARES = (Share(AHEAD), Share(AHEAD, greedy=True))
"""What competes with it ..."""

MORE_SHARES = (*SHARES, Share(AHEAD / 2), Share(AHEAD / 2, greedy=True))
"""... and before a repair that refits no layer, which takes little time."""

_STAGE = "weighing"

_JUDGED_AS = {"distill": "least-squares"}
"""Repairs that take too long to be done twice, and what stands in for them."""


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One way to weigh the two games, and what it came to.

    Args:
        share: How far scores look ahead.
        ranking: Scores by it.
        plan: Its plan.
        divergence: Mean divergence of the repaired network from the unpruned one in nats, lower is
            better; infinite where predictions are not finite, or the repair overflows.
    """

    share: Share
    ranking: Ranking
    plan: PruningPlan
    divergence: float


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """All plans.

    Args:
        tried: Every weight: the one that is kept, then the others, the best first.
        n_images: Images that judged them, each the networks that the other half had repaired.
    """

    tried: tuple[Weight, ...]
    n_images: int

    @property
    def best(self) -> Weight:
        """The weight that is kept."""
        return self.tried[0]


@dataclass(frozen=True)
class _Trial:
    """Images that repair, a judge on others, and how many those are."""

    repairing: CalibrationBatches
    judge: Judge
    n_images: int


def weigh(
    ranking: Ranking,
    data: CalibrationBatches,
    budget: Budget,
    repairing: Repairing,
    progress: Progress = silent,
) -> Weighed | None:
    """Try some weights of the two games, and choose by what is left after the repair.

    Args:
        ranking: Scores of the masked game, with values in the refit game.
        data: Calibration images; they need no labels.
        budget: How much goes; of the latency, by what its model predicts.
        repairing: The repair that follows.
        progress: Told about every plan.

    Returns:
        None where there is nothing to weigh: the ranking does not know the refit game, no repair
        follows, all plans are the same, or the network makes no predictions to judge by.

    Raises:
        BudgetError: So much cannot be removed.
        DataError: The images do not fit the network.
    """
    if repairing.method == "none" or not ranking.knows_refits:
        return None
    ahead = SHARES if repairing.method in REFITTING else MORE_SHARES
    shares = [s for s in ahead if ranking.knows_greedy_refits or not s.greedy] + [MASKED]
    rankings = [ranking.weighed(share.refit, greedy=share.greedy) for share in shares]
    plans = [select_within(each, budget) for each in rankings]
    graph = ranking.graph
    kept = [plan.kept(graph) for plan in plans]
    different = {each.tobytes(): each for each in kept}  # several may come to one plan
    if len(different) == 1:
        return None
    trials = _trials(graph, data, repairing.seed)
    if trials is None:
        return None
    left = _divergences(trials, graph, list(different.values()), repairing, progress)
    by_plan = dict(zip(different, left, strict=True))
    found = [by_plan[each.tobytes()] for each in kept]
    weights = [
        Weight(share=share, ranking=scores, plan=plan, divergence=_mean(each))
        for share, scores, plan, each in zip(shares, rankings, plans, found, strict=True)
    ]
    best = _best(weights, found)
    others = sorted(weights[:best] + weights[best + 1 :], key=lambda weight: weight.divergence)
    return Weighed(tried=(weights[best], *others), n_images=data.n_images)


def _best(weights: Sequence[Weight], found: Sequence[Tensor]) -> int:
    """Return the number of the plan that is kept; the masked game's is the last."""
    masked = len(weights) - 1
    ahead = min(range(masked), key=lambda n: weights[n].divergence)
    better = weights[masked].divergence < weights[ahead].divergence
    return masked if better and rises(found[ahead] - found[masked]) else ahead


def _mean(divergences: Tensor) -> float:
    mean = float(divergences.mean())
    return mean if math.isfinite(mean) else math.inf


def _trials(graph: DependencyGraph, data: CalibrationBatches, seed: int) -> list[_Trial] | None:
    """Return both halves' trials, a single image's alone; None if there are no predictions."""
    parts = [(data, data)]
    if data.n_images > 1:
        one, other = data.split(data.n_images // 2, seed=seed)
        parts = [(one, other), (other, one)]
    judges = [judge_of(graph, others) for _, others in parts]
    trials = [
        _Trial(repairing=images, judge=judge, n_images=others.n_images)
        for (images, others), judge in zip(parts, judges, strict=True)
        if judge is not None
    ]
    return trials or None


def _divergences(
    trials: Sequence[_Trial],
    graph: DependencyGraph,
    coalitions: Sequence[Kept],
    repairing: Repairing,
    progress: Progress,
) -> Iterator[Tensor]:
    """Yield every repaired network's divergence on every image; one network is held at a time."""
    method = _JUDGED_AS.get(repairing.method, repairing.method)
    wanted = replace(repairing, method=method)
    size, total = size_of(graph.program.module), len(coalitions) * len(trials)
    for done, kept in enumerate(coalitions):
        left = []
        for half, trial in enumerate(trials, done * len(trials)):
            progress(_STAGE, half, total)
            release(size)  # what came before
            left.append(_left(trial, graph, kept, wanted))
            progress(_STAGE, half + 1, total)
        yield torch.cat(left)


def _left(trial: _Trial, graph: DependencyGraph, kept: Kept, repairing: Repairing) -> Tensor:
    """Return the divergence on every image that judges; infinite where the repair overflows."""
    try:
        repaired = build(graph, kept, trial.repairing, repairing).model
    except SurgeryError:  # that of other plans need not
        return torch.full((trial.n_images,), math.inf, dtype=torch.float64)
    return trial.judge.divergences(repaired, kept)
