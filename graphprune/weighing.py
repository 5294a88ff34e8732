"""Weighing: how far scores look ahead to the repair that follows, settled by repairing.

A unit's value in the masked game says what it is worth while nothing is made up for, its value in
the refit game what no refit can make up for. Before least squares their geometric mean ranks best
on residual networks, yet on a small plain one it costs up to three points; before other repairs
either may be better, or something in between. So the plans of all are cut and repaired, and their
networks' predictions compared with the unpruned one's. The one that looks furthest ahead is kept
unless another diverges less by more than a standard error.

All images repair and all of them judge. The networks owe about as much to having seen them, so
that the difference is fair; a quarter held out was measured, too, and chose worse plans, because
so few images say little.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
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

SHARES = (AHEAD, 0.0)
"""Shares of the refit game that compete; one that comes first need not be better by much ..."""

MORE_SHARES = (AHEAD, AHEAD / 2, 0.0)
"""... and those before a repair that refits no layer, which takes little time."""

_STAGE = "weighing"

_JUDGED_AS = {"distill": "least-squares"}
"""Repairs that take too long to be done twice, and what stands in for them."""


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One way to weigh the two games, and what it came to.

    Args:
        refit: The share of the refit game, from 0 (the masked game alone) to 1.
        ranking: Scores by it.
        plan: Its plan.
        divergence: Mean divergence of the repaired network from the unpruned one in nats, lower is
            better; infinite where predictions are not finite, or the repair overflows.
    """

    refit: float
    ranking: Ranking
    plan: PruningPlan
    divergence: float


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """All plans.

    Args:
        tried: Every weight: the one that is kept, then the others, the best first.
        n_images: Images that repaired them and judged them.
    """

    tried: tuple[Weight, ...]
    n_images: int

    @property
    def best(self) -> Weight:
        """The weight that is kept."""
        return self.tried[0]


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
    shares = SHARES if repairing.method in REFITTING else MORE_SHARES
    rankings = [ranking.weighed(share) for share in shares]
    plans = [select_within(each, budget) for each in rankings]
    graph = ranking.graph
    kept = [plan.kept(graph) for plan in plans]
    if all(np.array_equal(kept[0], each) for each in kept):
        return None
    judge = judge_of(graph, data)
    if judge is None:
        return None
    found = list(_divergences(judge, graph, kept, data, repairing, progress))
    weights = [
        Weight(refit=share, ranking=scores, plan=plan, divergence=_mean(each))
        for share, scores, plan, each in zip(shares, rankings, plans, found, strict=True)
    ]
    lowest = min(range(len(weights)), key=lambda n: weights[n].divergence)
    best = next(n for n in range(len(found)) if n == lowest or not rises(found[n] - found[lowest]))
    others = sorted(weights[:best] + weights[best + 1 :], key=lambda weight: weight.divergence)
    return Weighed(tried=(weights[best], *others), n_images=data.n_images)


def _mean(divergences: Tensor) -> float:
    mean = float(divergences.mean())
    return mean if math.isfinite(mean) else math.inf


def _divergences(
    judge: Judge,
    graph: DependencyGraph,
    coalitions: Sequence[Kept],
    data: CalibrationBatches,
    repairing: Repairing,
    progress: Progress,
) -> Iterator[Tensor]:
    """Yield every repaired network's divergence on every image; one network is held at a time."""
    method = _JUDGED_AS.get(repairing.method, repairing.method)
    wanted = replace(repairing, method=method)
    size = size_of(graph.program.module)
    for done, kept in enumerate(coalitions):
        progress(_STAGE, done, len(coalitions))
        release(size)  # what came before
        try:
            repaired = build(graph, kept, data, wanted).model
        except SurgeryError:  # it overflows on these images; the other plan need not
            yield torch.full((data.n_images,), math.inf, dtype=torch.float64)
        else:
            yield judge.divergences(repaired, kept)
            del repaired
        progress(_STAGE, done + 1, len(coalitions))
