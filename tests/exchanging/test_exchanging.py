"""Exchange: never worse by the game that is played, and within the budget."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import graphprune as gp
from graphprune.errors import DataError, OptionError
from graphprune.exchanging import check_exchange, exchange, fits
from graphprune.game.games import NetworkGame
from graphprune.ranking import Ranking
from graphprune.selection import Budget, select_within
from graphprune.steps import LastStep, Step, Stepped, Trading, exchange_if
from tests.exchanging.plans import HALF, NAMES, at_random, images, scored, worth
from tests.traced import traced


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shift", [0.0, -0.6])  # some scores, or most, below zero
def test_what_is_kept_is_worth_no_less_and_the_budget_is_kept(name: str, shift: float) -> None:
    graph = traced(name)
    ranking, data = scored(graph, at_random(graph).scores + shift), images(graph)
    found = exchange(ranking, data, HALF)
    own = select_within(ranking, HALF).kept(graph)
    game = NetworkGame(graph, data)
    before, after = (worth(game, kept) for kept in (own, found.plan.kept(graph)))
    assert found.before == pytest.approx(before, rel=1e-6)
    assert found.after == pytest.approx(after, rel=1e-6)
    assert after >= before
    assert found.plan.reached >= HALF.ratio - 1e-9
    assert found.n_images == data.n_images


def test_groups_that_scores_rob_get_their_units_back() -> None:
    graph = traced("Depthwise")
    data = images(graph)
    scores = gp.rank(graph, data).scores
    # As if one group were worth nothing: all that may go is taken from it.
    robbed = graph.groups[1]
    scores[robbed.span] /= 1e3
    found = exchange(scored(graph, scores), data, HALF)
    own = select_within(scored(graph, scores), HALF).kept(graph)
    assert found.after > found.before
    assert found.plan.kept(graph)[robbed.span].sum() > own[robbed.span].sum()


def test_equal_seeds_give_equal_plans() -> None:
    graph = traced("Concat")
    ranking, data = at_random(graph), images(graph)
    assert exchange(ranking, data, HALF, seed=4) == exchange(ranking, data, HALF, seed=4)


def test_what_is_left_alone_is_not_traded() -> None:
    graph = traced("Residual")
    ranking = replace(at_random(graph), protected=(graph.groups[0].name,))
    plan = exchange(ranking, images(graph), replace(HALF, ratio=0.2)).plan
    assert not plan.groups[0].removed_units


def test_a_large_calibration_set_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = traced("Residual")
    monkeypatch.setattr("graphprune.exchanging.ENOUGH_PASSES", 0)
    found = exchange(at_random(graph), images(graph, 64), HALF)
    assert found.n_images == 32
    assert found.evaluations <= 17


def test_progress_ends_at_the_total() -> None:
    graph, told = traced("Residual"), []
    exchange(
        at_random(graph),
        images(graph),
        HALF,
        progress=lambda stage, k, n: told.append((stage, k, n)),
    )
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == [
        "exchange of groups",
        "exchange of units",
    ]
    assert all(0 < k <= n for _, k, n in told)
    ends = {stage: (k, n) for stage, k, n in told}  # what each stage told last
    assert all(k == n for k, n in ends.values())


def test_it_fits_plans_of_one_game_that_stay_as_they_are_cut() -> None:
    ranking = at_random(traced("Residual"))
    assert fits(ranking, HALF, "none")
    assert not fits(ranking, HALF, "auto")
    assert not fits(replace(ranking, game="group"), HALF, "none")
    assert not fits(replace(ranking, for_repair="least-squares"), HALF, "none")
    assert not fits(ranking, replace(HALF, of="units"), "none")
    assert not fits(ranking, replace(HALF, of="latency", scope="global"), "none")


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (Budget(ratio=0.5, of="units"), "scope is group"),
        (Budget(ratio=0.5, of="latency", scope="global"), "latency"),
    ],
)
def test_budgets_that_cannot_be_traded_for(budget: Budget, told: str) -> None:
    with pytest.raises(OptionError, match=told):
        check_exchange(budget)


def stepped(ranking: Ranking, steps: int) -> Stepped:
    plan = select_within(ranking, HALF)
    step = Step(asked=0.5, reached=plan.reached, units=1)
    last = LastStep(ranking=ranking, budget=HALF)
    return Stepped(ranking=ranking, plan=plan, steps=(step,) * steps, last=last)


def test_by_default_only_where_it_fits() -> None:
    graph = traced("Residual")
    found, data = stepped(at_random(graph), 1), images(graph)
    assert exchange_if(Trading(wanted=None, repair="auto"), found, data, HALF).exchanged is None
    assert exchange_if(Trading(wanted=None, repair="none"), found, None, HALF).exchanged is None
    assert exchange_if(Trading(wanted=False, repair="none"), found, data, HALF).exchanged is None
    assert exchange_if(Trading(wanted=True, repair="auto"), found, data, HALF).exchanged is not None
    traded = exchange_if(Trading(wanted=None, repair="none"), found, data, HALF)
    assert traded.exchanged is not None
    assert traded.plan == traded.exchanged.plan
    assert traded.steps[0].reached == traded.plan.reached


def test_wanted_where_it_cannot_be() -> None:
    graph = traced("Residual")
    ranking = at_random(graph)
    with pytest.raises(OptionError, match="several steps"):
        exchange_if(Trading(wanted=True, repair="none"), stepped(ranking, 2), images(graph), HALF)
    with pytest.raises(DataError, match="there are none"):
        exchange_if(Trading(wanted=True, repair="none"), stepped(ranking, 1), None, HALF)


def test_from_python() -> None:
    graph = traced("Residual")
    data = images(graph)
    ranking = gp.rank(graph, data, for_ratio=0.4)
    found = gp.exchange(ranking, data, ratio=0.4)
    assert found.plan.of == "macs"
    assert found.value == "kl"
    pruned = gp.prune(graph, found.plan)
    masked = gp.mask(graph, found.plan)
    x = graph.example_inputs[0]
    torch.testing.assert_close(pruned(x), masked(x), rtol=1e-4, atol=1e-5)
