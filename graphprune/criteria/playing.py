"""Playing: the games that Shapley criteria are made of, of the whole network or group by group."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from graphprune.checkpoint import Arrays
from graphprune.criteria.foreseeing import looking_ahead
from graphprune.criteria.request import RankRequest, Scored
from graphprune.errors import OptionError
from graphprune.estimators import Stopping, create, scores_of
from graphprune.estimators.base import ShapleyEstimate
from graphprune.estimators.choice import GameKind, chosen_estimator
from graphprune.game.games import GroupGame, HierarchicalGame, NetworkGame
from graphprune.game.value import is_stepwise
from graphprune.groups import PruningGroup
from graphprune.ranking import Effort, Scores
from graphprune.seeds import seed_of


def play_network(request: RankRequest) -> Scored:
    """Play one game of all units; the request's game, value and aggregate are settled."""
    name, budget = _network_estimator(request), request.budget
    game = _network_game(request)
    if name != "gradients" and budget is not None:
        budget *= game.n_players
    notes = _precision_notes(request, game)
    estimator = create(name, budget=budget, seed=request.seed, semivalue=request.semivalue)
    estimate = estimator.estimate(
        game, request.progress, request.checkpoint.part("network"), _stopping(request)
    )
    scores, stderr = scores_of(estimate, str(request.aggregate))
    effort = _effort(name, estimate)
    efforts = (effort,) * len(request.graph.groups)
    scored = _scored(request, scores, stderr, efforts, effort.evaluations, notes)
    if name != "gradients":
        return scored
    return looking_ahead(request, replace(scored, for_ratio=request.for_ratio), game)


def _network_game(request: RankRequest) -> NetworkGame:
    make = HierarchicalGame if request.game == "hierarchical" else NetworkGame
    return make(
        request.graph,
        request.images,
        request.worth,
        request.running,
        request.ranks,
        request.for_ratio,
    )


def _network_estimator(request: RankRequest) -> str:
    if request.estimator != "auto":
        return request.estimator
    unions = request.game == "hierarchical"
    if not unions and request.semivalue.efficient and not is_stepwise(request.value):
        return "gradients"
    readers = sum(1 for _ in request.graph.gates())
    kind = GameKind(n_players=request.graph.n_units, readers=readers, sloped=False, unions=unions)
    return chosen_estimator(kind, None, request.semivalue)


def play_groups(request: RankRequest) -> Scored:
    """Play one game per group; the request's game, value and aggregate are settled."""
    if request.estimator == "gradients":
        raise OptionError(
            "estimator 'gradients' plays the whole-network game only",
            hint="use --game network, or --estimator owen",
        )
    graph = request.graph
    scores, stderr = np.zeros(graph.n_units), np.zeros(graph.n_units)
    spent, efforts = 0.0, []
    for place, group in enumerate(graph.groups):
        found = _resumed(request, group)
        if found is None:
            found = _played(request, place, _game(request, group), spent)
        spent += float(found["seconds"])
        scores[group.span], stderr[group.span] = found["scores"], found["stderr"]
        efforts.append(_recorded(found))
    total = sum(effort.evaluations for effort in efforts)
    return _scored(request, scores, stderr, tuple(efforts), total, _notes_of_first(request))


def _notes_of_first(request: RankRequest) -> tuple[str, ...]:
    """Say what lower precision costs the first group, in a run that is taken up later, too."""
    if request.running.precision == "float32" or not request.graph.groups:
        return ()
    return _precision_notes(request, _game(request, request.graph.groups[0]))


def _game(request: RankRequest, group: PruningGroup) -> GroupGame:
    return GroupGame(
        request.graph, group, request.images, request.worth, request.running, request.ranks
    )


def _played(request: RankRequest, place: int, game: GroupGame, spent: float) -> Arrays:
    """Play a group's game and keep its result."""
    group, start = request.graph.groups[place], time.monotonic()
    name, budget = _choice(request, group)
    # Of its own, so that groups of one size do not share their orders.
    seed = seed_of(request.seed, place)
    estimator = create(name, budget=budget, seed=seed, semivalue=request.semivalue)

    def step(stage: str, done: int, total: int) -> None:
        # In units of the network, so that groups of all sizes and estimators add up.
        reached = group.first + group.n_units * done // total
        request.progress(f"{group.name}: {stage}", reached, request.graph.n_units)

    part = request.checkpoint.part(group.name)
    estimate = estimator.estimate(game, step, part, _stopping(request, group, spent))
    step("done", 1, 1)
    scores, stderr = scores_of(estimate, str(request.aggregate))
    found = _record(name, estimate, scores, stderr, time.monotonic() - start)
    part.finish(found)
    return found


def _choice(request: RankRequest, group: PruningGroup) -> tuple[str, int | None]:
    """Return the estimator for a group and what it may spend."""
    budget = None if request.budget is None else request.budget * group.n_units
    if request.estimator != "auto":
        return request.estimator, budget
    readers = {member.parameter for member in group.members if member.role == "consumer"}
    kind = GameKind(
        n_players=group.n_units,
        readers=len(readers),
        sloped=not is_stepwise(request.value),
    )
    return chosen_estimator(kind, budget, request.semivalue), budget


def _stopping(
    request: RankRequest, group: PruningGroup | None = None, spent: float = 0.0
) -> Stopping:
    """Return what ends a game; a group is given its units' share of the time that is left."""
    seconds = request.seconds
    if seconds is not None and group is not None:
        share = group.n_units / (request.graph.n_units - group.first)
        seconds = max(seconds - spent, 0.0) * share
    return Stopping(
        seconds=seconds,
        stability=request.stability,
        aggregate=str(request.aggregate),
        ranks=request.ranks,
    )


def _precision_notes(request: RankRequest, game: GroupGame | NetworkGame) -> tuple[str, ...]:
    """Say what lower precision costs, where it was asked for."""
    if request.running.precision == "float32":
        return ()
    return (
        f"in {request.running.precision} the worth of a coalition is off by "
        f"{game.precision_error():.2g} of its spread",
    )


# ---- what is recorded -----------------------------------------------------------------------

_NONE = np.nan


def _effort(name: str, estimate: ShapleyEstimate) -> Effort:
    return Effort(name, estimate.evaluations, estimate.stability, estimate.stopped)


def _record(
    name: str, estimate: ShapleyEstimate, scores: Scores, stderr: Scores, seconds: float
) -> Arrays:
    stability = _NONE if estimate.stability is None else estimate.stability
    return {
        "scores": scores,
        "stderr": stderr,
        "evaluations": np.array(estimate.evaluations, np.int64),
        "stability": np.array(stability, np.float64),
        "seconds": np.array(seconds, np.float64),
        "names": np.array([name, estimate.stopped], _NAMES),
    }


_NAMES = "U40"


def _resumed(request: RankRequest, group: PruningGroup) -> Arrays | None:
    """Return a group's result where the run that is taken up got that far."""
    none = np.zeros(group.n_units)
    like = _record("", ShapleyEstimate(none[None], none, 0), none, none, 0.0)
    return request.checkpoint.part(group.name).result(like)


def _recorded(found: Arrays) -> Effort:
    name, stopped = map(str, found["names"])
    stability = float(found["stability"])
    return Effort(
        name, int(found["evaluations"]), None if np.isnan(stability) else stability, stopped
    )


def _scored(
    request: RankRequest,
    scores: Scores,
    stderr: Scores,
    efforts: tuple[Effort, ...],
    evaluations: int,
    notes: tuple[str, ...],
) -> Scored:
    return Scored(
        scores=scores,
        stderr=stderr,
        game=request.game,
        estimator="+".join(sorted({effort.estimator for effort in efforts})),
        value=request.value,
        aggregate=request.aggregate,
        semivalue=request.semivalue.name,
        evaluations=evaluations,
        efforts=efforts,
        notes=notes,
    )
