"""Shapley values of the pruning game."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graphprune.checkpoint import Arrays
from graphprune.criteria.base import RankRequest, Scored, criterion
from graphprune.errors import OptionError
from graphprune.estimators import Estimator, create, scores_of
from graphprune.game.games import GroupGame, NetworkGame
from graphprune.game.value import is_stepwise
from graphprune.groups import PruningGroup
from graphprune.ranking import Scores

SMALL_GROUP = 8
"""Groups of up to this many units are enumerated by ``auto``."""


@criterion("shapley", needs_data=True)
def shapley(request: RankRequest) -> Scored:
    """Value of a unit in the whole-network game near the coalitions that pruning will visit.

    Label-free (minus the divergence from the unpruned network), mean magnitude per image; see
    :mod:`graphprune.estimators.gradients`. With ``game="group"`` every group plays a game of its
    own over the full range of coalitions; so it does where the estimator or the value asked for has
    no gradients.
    """
    settled = replace(
        request,
        game=request.game or _natural_game(request),
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
    if request.game == "network":
        raise OptionError(
            "criterion 'shapley-paper' plays one game per group",
            hint="use --criterion shapley --game network",
        )
    settled = replace(
        request,
        game="group",
        value=request.value or ("cross-entropy" if request.images.has_labels else "kl"),
        aggregate=request.aggregate or "mean+2std",
    )
    return _by_group(settled)


def _natural_game(request: RankRequest) -> str:
    gradients = request.estimator in ("auto", "gradients") and not is_stepwise(request.value)
    return "network" if gradients else "group"


def _network(request: RankRequest) -> Scored:
    name = "gradients" if request.estimator == "auto" else request.estimator
    game = NetworkGame(request.graph, request.images, request.value or "kl", request.device)
    budget = request.budget
    if name != "gradients" and budget is not None:
        budget *= game.n_players
    estimator = create(name, budget=budget, seed=request.seed)
    estimate = estimator.estimate(game, request.progress, request.checkpoint.part("network"))
    scores, stderr = scores_of(estimate, str(request.aggregate))
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
        name, budget = _choice(request, group.n_units)
        estimator = create(name, budget=budget, seed=_seed_of(request.seed, place))
        found = _resumed(request, group) or _played(request, place, estimator)
        scores[group.span], stderr[group.span] = found["scores"], found["stderr"]
        evaluations += int(found["evaluations"].item())
        names.add(name)
    return _scored(request, "+".join(sorted(names)), scores, stderr, evaluations)


def _choice(request: RankRequest, n_units: int) -> tuple[str, int | None]:
    """Return the estimator for a group of this size and what it may spend."""
    budget = None if request.budget is None else request.budget * n_units
    if request.estimator != "auto":
        return request.estimator, budget
    affordable = budget is None or 1 << n_units <= budget
    return ("exact" if n_units <= SMALL_GROUP and affordable else "permutation"), budget


def _seed_of(seed: int, place: int) -> int:
    """Return a seed of a group's own, so that groups of one size do not share their orders."""
    return int(np.random.SeedSequence([seed, place]).generate_state(1)[0])


def _resumed(request: RankRequest, group: PruningGroup) -> Arrays | None:
    """Return a group's result where the run that is taken up got that far."""
    scores = np.zeros(group.n_units)
    like = {"scores": scores, "stderr": scores, "evaluations": np.array(0)}
    return request.checkpoint.part(group.name).result(like)


def _played(request: RankRequest, place: int, estimator: Estimator) -> Arrays:
    groups = request.graph.groups
    game = GroupGame(
        request.graph, groups[place], request.images, request.value or "kl", request.device
    )

    def step(stage: str, done: int, total: int) -> None:
        name = f"{groups[place].name}: {stage}"
        request.progress(name, place * total + done, len(groups) * total)

    part = request.checkpoint.part(groups[place].name)
    estimate = estimator.estimate(game, step, part)
    scores, stderr = scores_of(estimate, str(request.aggregate))
    found = {
        "scores": scores,
        "stderr": stderr,
        "evaluations": np.array(estimate.evaluations, np.int64),
    }
    part.finish(found)
    return found


def _scored(
    request: RankRequest, estimator: str, scores: Scores, stderr: Scores, evaluations: int
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
