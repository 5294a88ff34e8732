"""Checks of what a criterion is asked, before the long work, and of what it answers."""

from __future__ import annotations

import numpy as np

from graphprune.criteria.request import RankRequest, Scored
from graphprune.errors import DataError, OptionError
from graphprune.estimators import AGGREGATES
from graphprune.estimators import available as available_estimators
from graphprune.game.evaluation import PRECISIONS
from graphprune.game.value import performance_named
from graphprune.graph import DependencyGraph

REPAIRS = ("none", "least-squares")
"""Repairs that a ranking can be made for."""

GAMES = ("network", "group", "hierarchical")


def check_options(request: RankRequest) -> None:
    """Check what was asked.

    Raises:
        OptionError: An option is not one of those allowed.
    """
    for option, given, allowed in (
        ("game", request.game, GAMES),
        ("aggregate", request.aggregate, AGGREGATES),
        ("for_repair", request.for_repair, ("auto", *REPAIRS)),
        ("estimator", request.estimator, ("auto", *available_estimators())),
    ):
        if given is not None and given not in allowed:
            raise OptionError(f"{option} {given!r} is none of {', '.join(allowed)}")
    if isinstance(request.value, str):
        performance_named(request.value)
    if request.budget is not None and request.budget < 1:
        raise OptionError(f"a budget of {request.budget} is less than 1")
    _check_stopping(request)
    if not 0 < request.for_ratio < 1:
        raise OptionError(
            f"a ratio of {request.for_ratio:g} to rank for is not in (0, 1)",
            hint="give the largest share of MACs that you will remove, e.g. --for-ratio 0.3",
        )
    if request.seed < 0:
        raise OptionError(f"seed {request.seed} is negative", hint="seeds count from 0")


def _check_stopping(request: RankRequest) -> None:
    if request.seconds is not None and not request.seconds > 0:
        raise OptionError(f"{request.seconds} seconds are no time to rank in")
    if request.stability is not None and not 0 < request.stability < 1:
        raise OptionError(
            f"a stability of {request.stability} cannot be reached",
            hint="give a rank correlation between 0 and 1, e.g. --until-stable 0.95",
        )
    if request.running.precision not in PRECISIONS:
        allowed = ", ".join(PRECISIONS)
        raise OptionError(f"precision {request.running.precision!r} is none of {allowed}")
    if request.running.max_memory < 1:
        raise OptionError(f"{request.running.max_memory} bytes of memory hold nothing")


def stability_notes(
    graph: DependencyGraph, scored: Scored, request: RankRequest
) -> tuple[str, ...]:
    """Say which of the stability asked for was not reached."""
    asked, names = request.stability, [group.name for group in graph.groups]
    if asked is None:
        return ()
    if not scored.efforts:
        return ("--until-stable has no meaning here: nothing is estimated",)
    reached = {
        name: effort.stability
        for name, effort in zip(names, scored.efforts, strict=True)
        if effort.stability is not None and effort.stability < asked
    }
    if not reached:
        return ()
    worst = min(reached, key=reached.__getitem__)
    return (
        f"a stability of {asked:g} was not reached by {len(reached)} of {len(names)} groups; "
        f"lowest: {worst} with {reached[worst]:.2f}",
    )


def check_finite(scored: Scored, criterion: str) -> None:
    """Check what was answered.

    Raises:
        DataError: A score is not finite.
    """
    errors = np.zeros(0) if scored.stderr is None else scored.stderr
    if not (np.isfinite(scored.scores).all() and np.isfinite(errors).all()):
        raise DataError(
            f"criterion {criterion!r} gave scores that are not finite",
            hint="a game over the full range may empty what a softmax or maximum runs over: "
            "use --game network; else look for overflow",
        )
