"""The oracle against all networks that lack a set of units."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch.nn.functional as F

from graphprune.comparison import Oracle, OracleRank, SetsOfUnits, oracle_groups
from graphprune.comparison.oracle import removal_sizes
from graphprune.errors import OptionError
from graphprune.surgery import cut
from tests.comparison.subjects import X, Y, data, graph_of


def test_all_sets_are_measured_and_a_ranking_is_placed_among_them() -> None:
    graph = graph_of()
    group = graph.groups[0]
    oracle = Oracle(graph, group, data())
    sets = oracle.sets_of(2)
    losses = {}
    for gone in combinations(range(group.n_units), 2):
        kept = graph.all_kept()
        kept[group.first + np.array(gone)] = False
        losses[gone] = F.cross_entropy(cut(graph, kept)(X), Y).item()
    assert sets.complete
    assert (sets.group, sets.units, sets.removed) == (group.name, group.n_units, 2)
    np.testing.assert_allclose(sets.losses, sorted(losses.values()), rtol=1e-5)
    order = sorted(losses, key=losses.__getitem__)
    for place in (0, 4, len(order) - 1):
        scores = np.ones(graph.n_units)
        scores[group.first + np.array(order[place])] = 0
        (found,) = oracle.rank([scores], sets)
        assert found.loss == pytest.approx(losses[order[place]], rel=1e-5)
        assert found.better == place
        assert found.share_better == pytest.approx(place / len(order))


def test_the_gap_is_zero_for_the_best_and_one_for_the_mean() -> None:
    sets = SetsOfUnits(group="g", units=4, removed=2, complete=True, losses=(1.0, 2.0, 3.0, 6.0))
    assert OracleRank(sets=sets, loss=1.0).gap == 0
    assert OracleRank(sets=sets, loss=3.0).gap == pytest.approx(1)
    assert OracleRank(sets=sets, loss=0.5).gap == 0
    equal = SetsOfUnits(group="g", units=4, removed=2, complete=True, losses=(1.0, 1.0))
    assert OracleRank(sets=equal, loss=1.0).gap == 0


def test_where_there_are_too_many_sets_some_are_drawn() -> None:
    graph = graph_of()
    oracle = Oracle(graph, graph.groups[1], data(), sets=9, seed=3)
    found, again = oracle.sets_of(4), oracle.sets_of(4)
    assert not found.complete
    assert len(found.losses) == 9
    assert found == again
    other = Oracle(graph, graph.groups[1], data(), sets=9, seed=4).sets_of(4)
    assert other.losses != found.losses


def test_groups_by_pattern() -> None:
    graph = graph_of()
    names = [group.name for group in graph.groups]
    assert [g.name for g in oracle_groups(graph, ["auto"])] == names[:2]
    assert [g.name for g in oracle_groups(graph, [names[1]])] == names[1:2]
    assert oracle_groups(graph, []) == ()
    with pytest.raises(OptionError, match="matches no group"):
        oracle_groups(graph, ["layer9"])


def test_sizes() -> None:
    group = graph_of().groups[1]
    assert len(group) == 8
    assert removal_sizes(group, [0.01, 0.1, 0.5, 0.99]) == (1, 4, 7)
