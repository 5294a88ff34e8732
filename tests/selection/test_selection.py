"""Selection: budgets reached, axes never emptied, choices nested."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune.coalition import check_coalition
from graphprune.cost import CostModel
from graphprune.errors import BudgetError, OptionError
from graphprune.graph import trace
from graphprune.ranking import Ranking, Scores, split_by_group
from graphprune.selection import COSTS, SCOPES, PruningPlan, select
from graphprune.surgery import cut
from tests.traced import traced

COUNTED = tuple(cost for cost in COSTS if cost != "latency")
"""Costs that need no measurement; for the other see test_latency.py."""

NAMES = ("Residual", "PaddedShortcut", "Dense", "Concat", "PackedAttention", "Depthwise", "Split")


def ranking_of(
    name: str, scores: Scores | None = None, *, seed: int = 0, protected: tuple[str, ...] = ()
) -> Ranking:
    graph = traced(name)
    if scores is None:
        scores = np.random.default_rng(seed).normal(size=graph.n_units)
    return Ranking(
        graph=graph, groups=split_by_group(graph, scores), criterion="test", protected=protected
    )


def removed_share(plan: PruningPlan) -> float:
    return 1 - plan.after.of(plan.of) / plan.before.of(plan.of)


budgets = st.fixed_dictionaries(
    {
        "ratio": st.floats(0, 0.95),
        "of": st.sampled_from(COUNTED),
        "scope": st.sampled_from(SCOPES),
        "min_units": st.sampled_from([1, 2, 3]),
        "round_to": st.sampled_from([1, 2, 4]),
    }
)


# ---- whatever is asked --------------------------------------------------------------------------


@settings(max_examples=150)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 9), budget=budgets)
def test_a_plan_is_what_it_says(name: str, seed: int, budget: dict[str, Any]) -> None:
    ranking = ranking_of(name, seed=seed)
    try:
        plan = select(ranking, **budget)
    except BudgetError:
        return
    graph, kept = ranking.graph, plan.kept(ranking.graph)
    check_coalition(graph, kept)
    costs = CostModel(graph)
    assert plan.before == costs.total(graph.all_kept())
    assert plan.after == costs.total(kept)
    assert plan.reached == pytest.approx(removed_share(plan))
    assert (plan.asked, plan.of, plan.scope) == (budget["ratio"], budget["of"], budget["scope"])
    for group, planned in zip(graph.groups, plan.groups, strict=True):
        left = group.n_units - len(planned.removed_units)
        assert left >= min(budget["min_units"], group.n_units)
        assert left == group.n_units or left % budget["round_to"] == 0
    if budget["scope"] == "global" or budget["of"] != "units" or budget["round_to"] > 1:
        assert plan.reached >= budget["ratio"] - 1e-9


@settings(max_examples=60)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 9), budget=budgets)
def test_what_goes_scores_less_than_what_stays(
    name: str, seed: int, budget: dict[str, Any]
) -> None:
    """Within a group, with the same ratio for every group and no axis that would be emptied."""
    ranking = ranking_of(name, seed=seed)
    try:
        plan = select(ranking, **{**budget, "scope": "group", "ratio": budget["ratio"] / 2})
    except BudgetError:
        return
    for scored, planned in zip(ranking.groups, plan.groups, strict=True):
        gone = np.zeros(scored.units, bool)
        gone[list(planned.removed_units)] = True
        if gone.any():
            assert scored.scores[gone].max() <= scored.scores[~gone].min()


@settings(max_examples=100)
@given(
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 9),
    budget=budgets,
    more=st.floats(0, 1),
)
def test_a_larger_ratio_removes_the_same_and_more(
    name: str, seed: int, budget: dict[str, Any], more: float
) -> None:
    ranking = ranking_of(name, seed=seed)
    larger = budget["ratio"] + (0.95 - budget["ratio"]) * more
    try:
        plans = [
            select(ranking, **{**budget, "ratio": ratio}) for ratio in (larger, budget["ratio"])
        ]
    except BudgetError:
        return
    wide, narrow = (plan.kept(ranking.graph) for plan in plans)
    assert (wide <= narrow).all()


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("of", ["params", "macs"])
@pytest.mark.parametrize("name", NAMES)
def test_no_smaller_choice_reaches_the_budget(name: str, of: str, scope: str) -> None:
    """One step back in the order of removal would miss it."""
    ranking = ranking_of(name)
    plan = select(ranking, ratio=0.4, of=of, scope=scope)
    before = select(ranking, ratio=0.4, of=of, scope=scope).reached
    less = select(ranking, ratio=plan.reached, of=of, scope=scope)
    assert less.groups == plan.groups
    assert before >= 0.4
    lower = [select(ranking, ratio=r, of=of, scope=scope) for r in np.linspace(0, 0.4, 60)]
    assert all(p.reached >= 0.4 or p.groups != plan.groups for p in lower)
    for group, planned in zip(ranking.graph.groups, plan.groups, strict=True):
        if scope == "group":  # everywhere the same share, to the nearest unit
            shares = [len(p.removed_units) / p.units for p in plan.groups]
            assert abs(len(planned.removed_units) / len(group) - np.median(shares)) < 0.5


@pytest.mark.parametrize("ratio", [0, 0.1, 0.25, 0.3, 0.5, 0.74])
def test_units_per_group_are_rounded_to_the_nearest(ratio: float) -> None:
    plan = select(ranking_of("PaddedShortcut"), ratio=ratio)
    for group in plan.groups:
        assert len(group.removed_units) == int(ratio * group.units + 0.5)
        assert group.removed_units == tuple(sorted(group.removed_units))


def test_lowest_scores_go_first() -> None:
    scores = np.array([5.0, 1, 4, 2, 8, 7, 6, 3, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    plan = select(ranking_of("Residual", scores), ratio=0.5)
    assert [group.removed_units for group in plan.groups] == [(1, 2, 3, 7), (0, 1, 2)]
    # The second group's scores are all lower: where all units compete, it loses all but a fifth.
    plan = select(ranking_of("Residual", scores), ratio=0.5, of="units", scope="global")
    assert [group.removed_units for group in plan.groups] == [(1, 3, 7), (0, 1, 2, 3)]


def test_a_share_of_every_group_goes_last_where_all_compete() -> None:
    """The floor yields where the budget needs it: what is reachable does not depend on it."""
    scores = np.concatenate([np.arange(8.0) + 10, np.arange(6.0)])
    ranking = ranking_of("Residual", scores)
    most = reachable(ranking, scope="global")
    widths = [
        [g.units - len(g.removed_units) for g in select(ranking, ratio=r, scope="global").groups]
        for r in (4 / 14, 5 / 14, 10 / 14, most)
    ]
    # Two of six and two of eight stay until nothing else is left to give.
    assert widths == [[8, 2], [7, 2], [2, 2], [1, 1]]


@pytest.mark.parametrize(
    ("of", "chosen"), [("units", "group"), ("params", "global"), ("macs", "global")]
)
def test_the_scope_follows_from_the_cost(of: str, chosen: str) -> None:
    ranking = ranking_of("Residual")
    explicit = select(ranking, ratio=0.3, of=of, scope=chosen)
    assert explicit.scope == chosen
    assert select(ranking, ratio=0.3, of=of) == explicit
    assert select(ranking, ratio=0.3, of=of, scope="auto") == explicit


def test_equal_scores_go_in_order() -> None:
    plan = select(ranking_of("Residual", np.zeros(14)), ratio=0.25)
    assert [group.removed_units for group in plan.groups] == [(0, 1), (0, 1)]


def test_the_worth_counts_per_cost() -> None:
    """Of two units with equal scores the one that costs more goes; of two harmful ones as well."""
    graph = traced("Residual")
    costs = CostModel(graph).marginal("macs")
    stream, interior = graph.groups[0].first, graph.groups[1].first
    assert costs[stream] != costs[interior]
    costly = stream if costs[stream] > costs[interior] else interior
    cheap = stream + interior - costly
    for score in (0.1, -0.1):
        scores = np.full(14, 100.0)
        scores[[stream, interior]] = score
        plan = select(ranking_of("Residual", scores), ratio=1e-6, of="macs", scope="global")
        kept = plan.kept(graph)
        assert not kept[costly]
        assert kept[cheap]


def test_a_unit_that_is_read_by_layers_that_shrink_costs_less_by_then() -> None:
    """Residual: a stream of 8 channels, 8,645 operations each, and 6 interior ones of 9,216.

    With three of the interior ones gone a channel of the stream costs 5,189, on average 6,917.
    """
    graph = traced("Residual")
    costs = CostModel(graph)
    assert costs.marginal("macs")[[0, 8]] == pytest.approx([8645, 9216])
    scores = np.full(14, 100.0)
    scores[8:11] = 0.01
    scores[0], scores[11] = 0.85, 1.0
    assert scores[0] / 8645 < scores[11] / 9216 < scores[0] / 6917
    plan = select(ranking_of("Residual", scores), ratio=0.42, of="macs", scope="global")
    assert [group.removed_units for group in plan.groups] == [(), (0, 1, 2, 3)]
    smaller = select(ranking_of("Residual", scores), ratio=0.39, of="macs", scope="global")
    assert [group.removed_units for group in smaller.groups] == [(), (0, 1, 2)]


# ---- what must stay -----------------------------------------------------------------------------


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("of", COUNTED)
def test_protected_groups_stay_whole(scope: str, of: str) -> None:
    scores = np.concatenate([np.full(8, 9.0), np.zeros(6)])
    ranking = ranking_of("Residual", scores, protected=("a.0.weight",))
    plan = select(ranking, ratio=0.3, of=of, scope=scope)
    assert plan.groups[1].removed_units == ()
    assert plan.groups[0].removed_units


@pytest.mark.parametrize("scope", SCOPES)
def test_an_axis_of_a_part_of_a_group_keeps_an_entry(scope: str) -> None:
    """The stem's eight channels are split: each half feeds an axis of its own."""
    scores = np.arange(12.0)  # the first half is worth less than the second
    ranking = ranking_of("Split", scores)
    plan = select(ranking, ratio=reachable(ranking, scope=scope), scope=scope)
    kept = plan.kept(ranking.graph)
    check_coalition(ranking.graph, kept)
    assert kept[:4].any()
    assert kept[4:8].any()
    cut(ranking.graph, kept)


def reachable(ranking: Ranking, **budget: Any) -> float:
    with pytest.raises(BudgetError) as error:
        select(ranking, ratio=0.999, of="units", **budget)
    return float(error.value.message.rpartition("and ")[2].partition("%")[0]) / 100


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("of", COUNTED)
@pytest.mark.parametrize("name", NAMES)
def test_what_the_error_calls_reachable_is(name: str, of: str, scope: str) -> None:
    ranking = ranking_of(name)
    with pytest.raises(BudgetError) as error:
        select(ranking, ratio=0.999, of=of, scope=scope)
    assert f"removing 99.9% of the {of} is not reachable: between 0 and" in error.value.message
    assert error.value.exit_code == 1
    most = float(error.value.message.rpartition("and ")[2].partition("%")[0]) / 100
    assert select(ranking, ratio=most, of=of, scope=scope).reached > 0.4
    with pytest.raises(BudgetError):
        select(ranking, ratio=most + 0.002, of=of, scope=scope)


def test_the_error_says_what_to_relax() -> None:
    ranking = ranking_of("Residual", protected=("a.0.weight",))
    with pytest.raises(BudgetError) as error:
        select(ranking, ratio=0.9, min_units=4, round_to=4)
    for option in ("--skip", "--min-units", "--round-to"):
        assert option in str(error.value)


def test_everything_protected() -> None:
    ranking = ranking_of("Residual", protected=("stem.0.weight", "a.0.weight"))
    assert select(ranking, ratio=0).reached == 0
    with pytest.raises(BudgetError, match=r"between 0 and 0\.0% can go"):
        select(ranking, ratio=0.1)


@pytest.mark.parametrize("scope", SCOPES)
def test_widths_are_multiples_where_a_group_is_wide_enough(scope: str) -> None:
    ranking = ranking_of("PaddedShortcut")  # groups of 8, 8, 16, 8
    plan = select(ranking, ratio=0.3, of="macs", scope=scope, round_to=4)
    assert plan.reached >= 0.3
    left = [group.units - len(group.removed_units) for group in plan.groups]
    assert all(width % 4 == 0 for width in left)
    plan = select(ranking, ratio=0.15, scope=scope, round_to=8)
    assert plan.reached >= 0.15
    assert [group.units - len(group.removed_units) for group in plan.groups] == [8, 8, 8, 8]
    with pytest.raises(BudgetError, match=r"between 0 and 0\.0%"):  # 8 stay 8, 6 are fewer than 8
        select(ranking_of("Residual"), ratio=0.3, scope=scope, round_to=8)


def test_minimum_widths() -> None:
    plan = select(ranking_of("Residual"), ratio=0.5, scope="global", min_units=3)
    assert all(group.units - len(group.removed_units) >= 3 for group in plan.groups)
    with pytest.raises(BudgetError):
        select(ranking_of("Residual"), ratio=0.6, min_units=6)


# ---- plans --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_removed_entries_are_what_the_cut_network_lacks(name: str) -> None:
    ranking = ranking_of(name)
    plan = select(ranking, ratio=0.3)
    before = ranking.graph.program.module.state_dict()
    after = cut(ranking.graph, plan.kept(ranking.graph)).state_dict()
    shrunk = {name for name, tensor in after.items() if tensor.shape != before[name].shape}
    assert shrunk <= set(plan.removed)
    for parameter in shrunk:
        for dim, indices in plan.removed[parameter].items():
            assert list(indices) == sorted(set(indices))
            assert after[parameter].shape[dim] == before[parameter].shape[dim] - len(indices)


def test_a_plan_for_another_network_is_refused() -> None:
    plan = select(ranking_of("Residual"), ratio=0.3)
    with pytest.raises(OptionError, match="made for another network"):
        plan.kept(traced("Dense"))


def test_a_ranking_of_another_network_is_refused() -> None:
    groups = ranking_of("Residual").groups
    with pytest.raises(OptionError, match="groups are not those of the network"):
        Ranking(graph=traced("Dense"), groups=groups, criterion="test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, r"a ratio of 1 is outside \[0, 1\)"),
        ({"ratio": -0.1}, r"a ratio of -0\.1 is outside"),
        ({"ratio": float("nan")}, "a ratio of nan is outside"),
        ({"ratio": 30}, r"the ratio is the fraction to remove, e\.g\. 0\.3"),
        ({"ratio": 0.3, "of": "flops"}, "of 'flops' is none of units, params, macs"),
        ({"ratio": 0.3, "scope": "layer"}, "scope 'layer' is none of auto, group, global"),
        ({"ratio": 0.3, "min_units": 0}, "min_units 0 is less than 1"),
        ({"ratio": 0.3, "round_to": 0}, "round_to 0 is less than 1"),
    ],
)
def test_options_that_are_not_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        select(ranking_of("Residual"), **options)


def test_a_network_without_units() -> None:
    import torch

    graph = trace(torch.nn.Sequential(torch.nn.Linear(4, 3)), (torch.randn(2, 4),))
    ranking = Ranking(graph=graph, groups=(), criterion="test")
    with pytest.raises(BudgetError, match="the network has no prunable unit") as error:
        select(ranking, ratio=0.3)
    assert "inspect" in str(error.value)
