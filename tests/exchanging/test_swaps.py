"""Swaps: those who would add most come back, those who add least pay, and it is worth more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

import graphprune as gp
from graphprune.cost import CostModel
from graphprune.data import as_batches
from graphprune.exchanging import exchange
from graphprune.exchanging.held import Held
from graphprune.exchanging.swaps import (
    _Place,
    _Stride,
    swap_units,
    worths_at,
)
from graphprune.game.games import NetworkGame
from graphprune.graph import trace
from graphprune.selection import Budget, select_within
from tests.exchanging.plans import HALF, NAMES, at_random, held, images, scored, worth
from tests.networks import NETWORKS
from tests.traced import traced


def place_of(name: str, budget: Budget = HALF) -> tuple[Held, _Place]:
    """Return a held plan and where it stands; what units add is drawn and positive."""
    one = held(at_random(traced(name)), budget)
    drawn = np.random.default_rng(5).random(one.kept.size) + 0.1
    return one, _Place((drawn, drawn), CostModel(traced(name)).price(budget.of, one.kept), one.kept)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("of", ["macs", "params", "units"])
def test_who_would_add_most_for_its_cost_comes_back(name: str, of: str) -> None:
    one, place = place_of(name, Budget(ratio=0.4, of=of, scope="global"))
    per_cost, absent = place.worths[0] / place.cost, np.flatnonzero(~one.kept)
    best = absent[np.argsort(-per_cost[absent])][:2]
    plan = select_within(scored(one.ranking.graph, place.scores(0, 2)), one.budget)
    kept = plan.kept(one.ranking.graph)
    assert kept[best].all()
    assert plan.reached >= one.budget.ratio - 1e-9
    paid = one.kept & ~kept
    if paid.any():
        assert per_cost[paid].mean() < per_cost[one.kept & kept].mean()


@pytest.mark.parametrize("name", NAMES)
def test_nobody_pays_where_nobody_comes_back(name: str) -> None:
    one, place = place_of(name)
    plan = select_within(scored(one.ranking.graph, place.scores(1, 0)), HALF)
    assert plan.kept(one.ranking.graph)[one.kept].all()


def test_who_would_do_harm_does_not_come_back() -> None:
    one, place = place_of("Residual")
    harm = replace(place, worths=(-place.worths[0], place.worths[1]))
    levels = np.log10(harm.scores(0, 5) / harm.cost)
    assert (levels[~one.kept] < 1).all()


@pytest.mark.parametrize("name", ["Residual", "Concat", "Depthwise", "MLP", "PaddedShortcut"])
def test_expansions_agree_with_what_is_played(name: str) -> None:
    graph = trace(
        NETWORKS[name].make().double(), tuple(x.double() for x in NETWORKS[name].inputs())
    )
    game = NetworkGame(graph, images(graph, 64))
    kept = select_within(at_random(graph), replace(HALF, ratio=0.2)).kept(graph)
    at = worth(game, kept)
    exact = np.zeros(kept.size)
    for unit in range(kept.size):
        other = kept.copy()
        other[unit] = ~other[unit]
        exact[unit] = (at - worth(game, other)) * (1 if kept[unit] else -1)
    mean, magnitude = worths_at(game, kept)
    assert spearmanr(mean[kept], exact[kept]).statistic > 0.9
    assert spearmanr(mean[~kept], exact[~kept]).statistic > 0.9
    assert np.abs(mean - exact).mean() < 0.5 * np.abs(exact).mean()
    assert (magnitude[kept] >= np.abs(mean[kept]) - 1e-12).all()
    assert np.array_equal(magnitude[~kept], mean[~kept])


def test_at_the_unpruned_network_nothing_is_lost_at_first_order() -> None:
    graph = traced("Residual")
    mean, magnitude = worths_at(NetworkGame(graph, images(graph)), graph.all_kept())
    assert (mean > -1e-6).all()
    np.testing.assert_allclose(mean, magnitude, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_units_that_scores_confuse_are_put_right(name: str) -> None:
    """What groups cannot trade: an order within groups that is the wrong way round."""
    graph = traced(name)
    own = gp.rank(graph, images(graph), for_repair="none").scores
    wrong = held(scored(graph, 1 / np.maximum(own, 1e-3 * own.max())), passes=150)
    before = wrong.worth
    swap_units(wrong)
    assert wrong.worth > before
    assert wrong.plan.reached >= HALF.ratio - 1e-9


def test_widths_that_are_asked_for_stay() -> None:
    graph = traced("Residual")
    ranking = replace(at_random(graph), protected=(graph.groups[0].name,))
    budget = replace(HALF, ratio=0.2, min_units=3, round_to=2)
    found = exchange(ranking, images(graph), budget)
    assert not found.plan.groups[0].removed_units
    left = [group.units - len(group.removed_units) for group in found.plan.groups]
    assert all(width >= 3 and width % 2 == 0 for width in left)
    assert found.plan.reached >= 0.2 - 1e-9


def test_a_worth_without_gradients_is_traded_by_groups_alone() -> None:
    graph = traced("Residual")
    x = images(graph).batches[0].inputs[0]
    data, told = as_batches((x, torch.arange(len(x)) % 3)), []
    ranking = replace(at_random(graph), value="accuracy")
    found = exchange(ranking, data, HALF, progress=lambda stage, *_: told.append(stage))
    assert found.value == "accuracy"
    assert set(told) == {"exchange of groups"}


def test_gradients_that_are_not_finite_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    one = held(at_random(traced("Residual")))
    plan = one.plan
    broken = (np.full(one.kept.size, np.nan),) * 2
    monkeypatch.setattr("graphprune.exchanging.swaps.worths_at", lambda *_: broken)
    swap_units(one)
    assert one.plan is plan


def test_swaps_end_with_the_passes() -> None:
    one = held(at_random(traced("Residual")), passes=9)
    swap_units(one)
    assert not one.passes.left
    assert one.game.evaluations <= 7  # the first plan, and at most two looks


# ---- how many come back -------------------------------------------------------------------------


def test_strides_go_the_way_that_leads_on_and_end_where_none_does() -> None:
    stride = _Stride(400)
    assert (stride.way, stride.count) == (0, 2)
    stride.lengthen()
    assert (stride.way, stride.count) == (0, 3)
    stride.shorten()
    assert (stride.way, stride.count) == (1, 2)
    seen = []
    while stride.some:
        seen.append((stride.way, stride.count))
        stride.shorten()
    assert seen == [(1, 2), (0, 1), (1, 1)]


def test_a_way_that_ended_is_tried_again_after_a_step() -> None:
    stride = _Stride(200)
    stride.shorten()  # the first has nothing left
    assert stride.way == 1
    stride.lengthen()
    stride.shorten()
    assert (stride.way, stride.count) == (0, 1)


@given(st.integers(1, 10_000), st.lists(st.booleans(), max_size=60))
def test_strides_stay_within_bounds(n_units: int, steps: list[bool]) -> None:
    stride = _Stride(n_units)
    for better in steps:
        if not stride.some:
            return
        assert 1 <= stride.count <= max(round(n_units / 8), 1)
        (stride.lengthen if better else stride.shorten)()
