"""Selection for a share of the latency, with models made up for the purpose."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.coalition import check_coalition
from graphprune.cost import CostModel, LatencyModel, LatencyTerm
from graphprune.errors import BudgetError, OptionError
from graphprune.graph import DependencyGraph
from graphprune.operations import operation_axes
from graphprune.ranking import Ranking, split_by_group
from graphprune.selection import select
from tests.traced import traced


def ranking_of(name: str) -> Ranking:
    graph = traced(name)
    scores = np.random.default_rng(0).random(graph.n_units)
    return Ranking(graph=graph, groups=split_by_group(graph, scores), criterion="test")


def model_of(graph: DependencyGraph, *, fixed: float = 0.0, multiple: int = 1) -> LatencyModel:
    """Return a model of 1 ns for every multiply-accumulate, and a part that always stays."""
    rate = 1e-9 / graph.batch_size
    terms = [LatencyTerm(rate, tuple(axes)) for _, axes in operation_axes(graph)]
    return LatencyModel(
        terms=(*terms, LatencyTerm(fixed, ())),
        widths={
            group.name: (*range(multiple, group.n_units, multiple), group.n_units)
            for group in graph.groups
        },
        threads=1,
        batch=1,
    )


@pytest.mark.parametrize("scope", ["group", "global"])
@pytest.mark.parametrize("name", ["Residual", "Concat", "PackedAttention", "Depthwise"])
def test_latency_in_proportion_to_macs_selects_like_macs(name: str, scope: str) -> None:
    ranking = ranking_of(name)
    model = model_of(ranking.graph)
    plan = select(ranking, ratio=0.4, of="latency", scope=scope, latency=model)
    by_macs = select(ranking, ratio=0.4, of="macs", scope=scope)
    assert plan.groups == by_macs.groups
    assert plan.reached == pytest.approx(by_macs.reached, rel=1e-4)
    assert plan.before.latency == pytest.approx(1e-9 * plan.before.macs, rel=1e-4)
    assert plan.after.latency == pytest.approx(1e-9 * plan.after.macs, rel=1e-4)


def test_units_of_slow_layers_go_first() -> None:
    ranking = ranking_of("Residual")
    graph = ranking.graph
    same = Ranking(
        graph=graph, groups=split_by_group(graph, np.ones(graph.n_units)), criterion="test"
    )
    slow = graph.groups[1]
    axes = [
        axis
        for _, found in operation_axes(graph)
        for axis in found
        if axis.units is not None and (axis.units >= slow.first).all()
    ]
    model = LatencyModel(terms=(LatencyTerm(1.0, (axes[0],)),), widths={}, threads=1, batch=1)
    plan = select(same, ratio=0.3, of="latency", scope="global", latency=model)
    removed = {group.name: len(group.removed_units) for group in plan.groups}
    assert removed == {graph.groups[0].name: 0, slow.name: 2}


@pytest.mark.parametrize("scope", ["group", "global"])
def test_widths_are_those_that_run_fast(scope: str) -> None:
    ranking = ranking_of("Residual")  # groups of 8 and 6
    graph = ranking.graph
    model = model_of(graph, multiple=4)
    plan = select(ranking, ratio=0.3, of="latency", scope=scope, latency=model)
    left = [g.units - len(g.removed_units) for g in plan.groups]
    assert all(
        width == g.units or width % 4 == 0 for width, g in zip(left, plan.groups, strict=True)
    )
    check_coalition(graph, plan.kept(graph))
    both = select(ranking, ratio=0.3, of="latency", scope=scope, round_to=2, latency=model)
    assert both.groups == plan.groups
    # Other costs are met to the unit.
    exact = select(ranking, ratio=0.3, of="macs", scope=scope, latency=model)
    assert exact.groups == select(ranking, ratio=0.3, of="macs", scope=scope).groups
    assert exact.after.latency is not None


def test_what_always_stays_cannot_go() -> None:
    ranking = ranking_of("Residual")
    whole = CostModel(ranking.graph, model_of(ranking.graph)).total(ranking.graph.all_kept())
    model = model_of(ranking.graph, fixed=whole.of("latency"))
    with pytest.raises(BudgetError, match=r"removing 60.0% of the latency is not reachable"):
        select(ranking, ratio=0.6, of="latency", latency=model)


def test_a_model_is_needed() -> None:
    with pytest.raises(OptionError, match="needs a measured latency model"):
        select(ranking_of("Residual"), ratio=0.3, of="latency")
