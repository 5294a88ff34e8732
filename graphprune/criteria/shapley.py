"""Shapley values of the pruning game."""

from __future__ import annotations

from dataclasses import replace

from graphprune.criteria.base import criterion
from graphprune.criteria.playing import play_groups, play_network
from graphprune.criteria.request import RankRequest, Scored
from graphprune.errors import OptionError
from graphprune.game.value import is_stepwise


@criterion("shapley", needs_data=True)
def shapley(request: RankRequest) -> Scored:
    """Value of a unit in the whole-network game near the coalitions that pruning will visit.

    Label-free (minus the divergence from the unpruned network), mean magnitude per image; see
    :mod:`graphprune.estimators.gradients`. Ahead of a repair it counts by what layers that read the
    unit cannot make up for, see :mod:`graphprune.criteria.foreseeing`. With ``game="group"`` every
    group plays a game of its own over the full range of coalitions; so it does where the estimator,
    the value or the semivalue asked for has no gradients. With ``game="hierarchical"`` groups join
    together (Owen values).
    """
    settled = replace(
        request,
        game=request.game or _natural_game(request),
        value=request.value or "kl",
        aggregate=request.aggregate or "magnitude",
    )
    return play_groups(settled) if settled.game == "group" else play_network(settled)


@criterion("shapley-paper", needs_data=True)
def shapley_paper(request: RankRequest) -> Scored:
    """The paper's score: one full-range game per group, mean + 2 std over images.

    Cross-entropy where there are labels, else minus the divergence from the unpruned network.

    References:
        Ancona, Öztireli and Gross (2020), arXiv 2006.01795.
    """
    if request.game not in (None, "group"):
        raise OptionError(
            "criterion 'shapley-paper' plays one game per group",
            hint="use --criterion shapley --game network",
        )
    settled = replace(
        request,
        game="group",
        estimator="permutation" if request.estimator == "auto" else request.estimator,
        value=request.value or ("cross-entropy" if request.images.has_labels else "kl"),
        aggregate=request.aggregate or "mean+2std",
    )
    return play_groups(settled)


def _natural_game(request: RankRequest) -> str:
    if request.estimator == "gradients":
        return "network"
    sloped = request.estimator == "auto" and not is_stepwise(request.value)
    return "network" if sloped and request.semivalue.efficient else "group"
