"""The solver: unions, the rectangular closure, pins."""

from __future__ import annotations

import numpy as np

from graphprune.labels.coupler import Coupler, Reports
from graphprune.labels.solve import Solution, solve
from graphprune.labels.value import Value


def table(rows: int, columns: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + rows * columns).reshape(rows, columns)


def solved(reports: Reports, **values: Value) -> Solution[str]:
    return solve(reports, values)


def test_unions_are_transitive() -> None:
    reports = Reports(n_atoms=5)
    coupler = Coupler("op", reports)
    coupler.unite(np.array([0, 3]), np.array([1, 4]))
    coupler.unite(np.array([1]), np.array([2]))
    found = solved(reports, x=Value((5,), (np.arange(5),)))
    assert found.class_of[0] == found.class_of[1] == found.class_of[2]
    assert found.class_of[3] == found.class_of[4] != found.class_of[0]
    assert found.n_classes == 2
    assert not found.pins


def test_closure_keeps_rows_where_these_are_more() -> None:
    found = solved(Reports(n_atoms=12), x=Value((4, 3), (table(4, 3),)))
    assert set(found.axes["x"]) == {0}
    assert np.unique(found.axes["x"][0]).size == 4


def test_closure_keeps_columns_where_these_are_more() -> None:
    found = solved(Reports(n_atoms=12), x=Value((3, 4), (table(3, 4),)))
    assert set(found.axes["x"]) == {1}


def test_closure_does_not_count_pinned_lines() -> None:
    reports = Reports(n_atoms=12)
    Coupler("op", reports).pin(table(4, 3)[:3, 0], "for a test")
    found = solved(reports, x=Value((4, 3), (table(4, 3),)))
    # Three of four rows are stuck, but only one of three columns.
    assert set(found.axes["x"]) == {1}


def test_closure_respects_what_rows_are_already() -> None:
    reports = Reports(n_atoms=12)
    Coupler("op", reports).unite(table(3, 4), table(3, 4)[:, :1])
    found = solved(reports, x=Value((3, 4), (table(3, 4),)))
    assert set(found.axes["x"]) == {0}
    assert np.unique(found.axes["x"][0]).size == 3


def test_one_unit_that_fills_an_axis_is_pinned() -> None:
    reports = Reports(n_atoms=3)
    Coupler("op", reports).unite(np.array([0, 1]), np.array([1, 2]))
    found = solved(reports, x=Value((3,), (np.arange(3),)))
    (pins,) = found.pins.values()
    assert pins[0].reason == "one unit fills the whole axis"


def test_two_factors_along_one_dim_are_reconciled() -> None:
    reports = Reports(n_atoms=6)
    value = Value((3, 2), (np.arange(3).reshape(3, 1), np.arange(3, 6).reshape(3, 1)))
    found = solved(reports, x=value)
    assert np.array_equal(found.class_of[:3], found.class_of[3:])


def test_factors_that_choose_rows_meet_one_that_chose_columns() -> None:
    """Closing one tensor may unite what another has left apart; it goes on until nothing moves."""
    reports = Reports(n_atoms=24)
    coupler = Coupler("op", reports)
    coupler.unite(table(3, 4)[:, 0], table(3, 4, first=12)[:, 0])
    coupler.unite(table(3, 4, first=12), table(3, 4, first=12)[:, :1])
    found = solved(
        reports, x=Value((3, 4), (table(3, 4),)), y=Value((3, 4), (table(3, 4, first=12),))
    )
    for classes, dims in ((found.class_of[table(3, 4)], found.axes["x"]),):
        (dim,) = dims
        assert (classes == classes.take([0], 1 - dim)).all()


def test_pins_keep_their_order() -> None:
    reports = Reports(n_atoms=4)
    for reason in ("first", "second"):
        Coupler("op", reports).pin(np.array([1]), reason)
    found = solved(reports, x=Value((4,), (np.arange(4),)))
    assert [pin.reason for pin in found.pins[int(found.class_of[1])]] == ["first", "second"]


def test_nothing_at_all() -> None:
    found = solved(Reports())
    assert not found.axes
    assert not found.pins


def test_what_is_summed_leaves_whole_rows() -> None:
    """Heads and their columns, summed over the columns: heads go."""
    reports = Reports(n_atoms=8)
    scores = Coupler("op", reports).sum_out(table(2, 4), [1])
    found = solved(reports, x=Value((2, 4), (table(2, 4),)), y=Value((2, 1), (scores,)))
    assert set(found.axes["x"]) == {0}
    assert found.axes["x"][0].tolist() == found.axes["y"][0].tolist()
    assert not found.pins


def test_columns_go_where_rows_cannot() -> None:
    reports = Reports(n_atoms=8, produced=[np.arange(8)])
    coupler = Coupler("op", reports)
    scores = coupler.sum_out(table(2, 4), [1])
    coupler.pin(scores, "for a test")
    found = solved(reports, x=Value((2, 4), (table(2, 4),)), y=Value((2, 1), (scores,)))
    assert set(found.axes["x"]) == {1}
    assert np.unique(found.axes["x"][1]).size == 4
    assert not set(found.axes["x"][1].tolist()) & set(found.pins)
    assert set(found.axes["y"][0].tolist()) <= set(found.pins)


def test_a_table_shared_by_rows_stays_whole_where_rows_go() -> None:
    reports = Reports(n_atoms=12)
    Coupler("op", reports).span(table(1, 3, 9), table(3, 3))
    Coupler("op", reports).unite(table(3, 3)[:, :1], table(3, 3))
    found = solved(reports, x=Value((3, 3), (table(3, 3),)))
    assert set(found.axes["x"]) == {0}
    assert set(found.class_of[9:].tolist()) == set(found.pins)


def test_a_table_shared_by_rows_shrinks_with_columns() -> None:
    reports = Reports(n_atoms=9)
    Coupler("op", reports).span(table(1, 3, 6), table(2, 3))
    found = solved(reports, x=Value((2, 3), (table(2, 3),)))
    assert found.axes["x"][1].tolist() == found.class_of[6:].tolist()
    assert not found.pins
    assert [union.op for union in found.settled] == ["op"]


def test_rows_are_held_together_by_a_table_that_stays() -> None:
    """More rows than columns, but the rows' table is pinned: columns go."""
    reports = Reports(n_atoms=12)
    coupler = Coupler("op", reports)
    coupler.span(table(4, 1, 8), table(4, 2))
    coupler.pin(table(4, 1, 8), "for a test")
    found = solved(reports, x=Value((4, 2), (table(4, 2),)))
    assert set(found.axes["x"]) == {1}
    assert not set(found.axes["x"][1].tolist()) & set(found.pins)


def test_what_meets_rows_and_columns_follows_those_that_are_more() -> None:
    """A matrix that lost both, flattened, and a weight with one factor over it."""
    reports = Reports(n_atoms=11)
    rows, columns, weight = (
        np.repeat(np.arange(2), 3),
        np.tile(np.arange(2, 5), 2),
        np.arange(5, 11),
    )
    Coupler("op", reports).choose([rows, columns], weight)
    found = solved(reports, x=Value((6,), (rows, columns)), w=Value((6,), (weight,)))
    assert found.class_of[weight].tolist() == found.class_of[columns].tolist()
    assert set(found.class_of[:2].tolist()) == set(found.pins)
