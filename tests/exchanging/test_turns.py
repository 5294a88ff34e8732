"""Turns: groups trade so many units over the edge, each in the order of its scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphprune.exchanging.turns import _factor, _positive, n_turns, trade_groups
from tests.exchanging.plans import NAMES, at_random, held
from tests.traced import traced


@pytest.mark.parametrize("name", NAMES)
def test_within_a_group_the_lowest_scores_go(name: str) -> None:
    graph = traced(name)
    ranking = at_random(graph, 1)
    traded = held(ranking, passes=n_turns(len(graph.groups)))
    before = traded.worth
    trade_groups(traded)
    assert traded.worth >= before
    for group in graph.groups:
        scores, stays = ranking.scores[group.span], traded.kept[group.span]
        if stays.any() and not stays.all():
            assert scores[stays].min() > scores[~stays].max()


def test_turns_end_with_the_passes() -> None:
    graph = traced("Residual")
    traded = held(at_random(graph), passes=4)
    trade_groups(traded)
    assert not traded.passes.left
    assert traded.game.evaluations <= 5


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30))
def test_lifted_scores_are_positive_and_keep_their_order(listed: list[float]) -> None:
    scores = np.array(listed)
    lifted = _positive(scores)
    assert (lifted > 0).all()
    order = np.argsort(scores, kind="stable")
    assert (np.diff(lifted[order]) >= 0).all()


@pytest.mark.parametrize("step", [0.25, -0.25, 0.5, -0.5])
def test_a_factor_moves_that_many_units_over_the_edge(step: float) -> None:
    scores = np.arange(1.0, 9.0)
    kept = scores > 4  # the edge lies between 4 and 5
    moved = scores * _factor(scores, kept, step)
    across = (moved >= 5).sum() if step > 0 else (moved > 4).sum()
    assert across - kept.sum() == round(8 * step)


def test_there_is_nothing_to_move_where_all_or_one_is_kept() -> None:
    scores = np.arange(1.0, 5.0)
    assert _factor(scores, np.ones(4, bool), 0.25) == 1
    assert _factor(scores, scores > 3, -0.25) == 1
