"""Shapley values of the pruning game."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graphprune.criteria.base import RankRequest, Scored, criterion
from graphprune.errors import OptionError
from graphprune.estimators import Estimator, ShapleyEstimate, aggregate, create
from graphprune.game.games import GroupGame, NetworkGame
from graphprune.groups import PruningGroup

SMALL_GROUP = 8
"""Groups of up to this many units are enumerated by ``auto``."""


@criterion("shapley", needs_data=True)
def shapley(request: RankRequest) -> Scored:
    """Value of a unit in the whole-network game near the coalitions that pruning will visit.

    Label-free (minus the divergence from the unpruned network), mean magnitude per image; see
    :mod:`graphprune.estimators.gradients`. With ``game="group"`` every group plays a game of its
    own over the full range of coalitions.
    """
    settled = replace(
        request,
        game=request.game or ("network" if request.estimator in ("auto", "gradients") else "group"),
        value=request.value or "kl",
        aggregate=request.aggregate or "magnitude",
    )
    return _network(settled) if settled.game == "network" else _by_group(settled)


@criterion("shapley-paper", needs_data=True)
def shapley_paper(request: RankRequest) -> Scored:
    """The paper's score: one full-range game per group, mean + 2 std over images.

    Cross-entropy where there are labels, else minus the divergence from the unpruned network.

    References:
        Ancona, Öztireli and Gross (2020), arXiv 2006.01795.
    """
    settled = replace(
        request,
        game="group",
        value=request.value or ("cross-entropy" if request.data.has_labels else "kl"),
        aggregate=request.aggregate or "mean+2std",
    )
    return _by_group(settled)


def _network(request: RankRequest) -> Scored:
    name = "gradients" if request.estimator == "auto" else request.estimator
    game = NetworkGame(request.graph, request.data, str(request.value), request.device)
    budget = request.budget
    if name != "gradients" and budget is not None:
        budget *= game.n_players
    estimate = create(name, budget=budget, seed=request.seed).estimate(game, request.progress)
    scores, stderr = aggregate(estimate.per_image, str(request.aggregate))
    return _scored(request, name, scores, stderr, estimate.evaluations)


def _by_group(request: RankRequest) -> Scored:
    if request.estimator == "gradients":
        raise OptionError(
            "estimator 'gradients' plays the whole-network game only",
            hint="use --game network, or --estimator permutation",
        )
    scores = np.zeros(request.graph.n_units)
    stderr = np.zeros(request.graph.n_units)
    evaluations, names = 0, set()
    for place, group in enumerate(request.graph.groups):
        name, estimate = _play(request, group, place)
        scores[group.span], stderr[group.span] = aggregate(
            estimate.per_image, str(request.aggregate)
        )
        evaluations += estimate.evaluations
        names.add(name)
    return _scored(request, "+".join(sorted(names)), scores, stderr, evaluations)


def _play(request: RankRequest, group: PruningGroup, place: int) -> tuple[str, ShapleyEstimate]:
    name = request.estimator
    if name == "auto":
        name = "exact" if group.n_units <= SMALL_GROUP else "permutation"
    budget = None
    if request.budget is not None and name != "exact":
        budget = request.budget * group.n_units
    estimator: Estimator = create(name, budget=budget, seed=request.seed + place)
    game = GroupGame(request.graph, group, request.data, str(request.value), request.device)
    total = len(request.graph.groups)

    def step(stage: str, done: int, steps: int) -> None:
        request.progress(f"{group.name}: {stage}", place * steps + done, total * steps)

    return name, estimator.estimate(game, step)


def _scored(
    request: RankRequest, estimator: str, scores: np.ndarray, stderr: np.ndarray, evaluations: int
) -> Scored:
    return Scored(
        scores=scores,
        stderr=stderr,
        game=request.game,
        estimator=estimator,
        value=request.value,
        aggregate=request.aggregate,
        evaluations=evaluations,
    )
