"""Reshapes of labels: every element keeps its atom."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphprune.labels.algebra import concatenate, contract, merge, reduce, select, take
from graphprune.labels.coupler import Coupler, Reports
from graphprune.labels.value import (
    Value,
    insert_dim,
    permute,
    reshape,
    segments,
    squeeze_constant,
    varying,
)


def value(*shape: int, dim: int, first: int = 0) -> Value:
    """A tensor with fresh atoms along one dim."""
    atoms = np.arange(first, first + shape[dim])
    return Value(shape, (atoms.reshape([-1 if k == dim else 1 for k in range(len(shape))]),))


def full(tensor: Value) -> np.ndarray:
    """The first factor, broadcast to the tensor's shape."""
    return np.broadcast_to(tensor.factors[0], tensor.shape)


@pytest.fixture
def coupler() -> Coupler:
    reports = Reports(n_atoms=1000)
    return Coupler("op", reports)


def united(coupler: Coupler) -> set[tuple[int, int]]:
    """All pairs that were united, smaller atom first."""
    pairs: set[tuple[int, int]] = set()
    for union in coupler._reports.unions:
        pairs |= {
            (min(p), max(p)) for p in zip(union.left.tolist(), union.right.tolist(), strict=True)
        }
    return pairs


def pinned(coupler: Coupler) -> set[int]:
    return {int(atom) for pin in coupler._reports.pins for atom in pin.atoms}


# ---- reshapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "runs"),
    [
        ((2, 12), (2, 3, 4), [((0,), (0,)), ((1,), (1, 2))]),
        ((2, 3, 4, 5), (2, 12, 5), [((0,), (0,)), ((1, 2), (1,)), ((3,), (2,))]),
        ((6, 4), (4, 6), [((0, 1), (0, 1))]),
        ((2, 3), (2, 1, 3, 1), [((0,), (0,)), ((1,), (1, 2, 3))]),
        ((1, 1), (1,), [((0, 1), (0,))]),
    ],
)
def test_segments(old, new, runs) -> None:
    assert [(tuple(run.old), tuple(run.new)) for run in segments(old, new)] == runs


def test_splitting_an_axis_gives_one_factor_of_two_dims() -> None:
    split = reshape(value(2, 12, dim=1), (2, 3, 4))
    assert split.factors[0].shape == (1, 3, 4)
    assert split.factors[0].reshape(-1).tolist() == list(range(12))


def test_flattening_repeats_atoms_over_positions() -> None:
    flat = reshape(value(2, 3, 2, 2, dim=1), (2, 12))
    assert flat.factors[0].tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]]


@st.composite
def reshapes(draw):
    sizes = st.integers(1, 4)
    shape = tuple(draw(st.lists(sizes, min_size=1, max_size=4)))
    total = math.prod(shape)
    new, rest = [], total
    while rest > 1:
        divisor = draw(st.sampled_from([d for d in range(1, rest + 1) if rest % d == 0]))
        new.append(divisor)
        rest //= divisor
        if divisor == 1 and len(new) > 4:
            new.append(rest)
            break
    return shape, tuple(new) or (1,), draw(st.integers(0, len(shape) - 1))


@given(reshapes())
def test_reshape_moves_every_atom_with_its_element(case) -> None:
    shape, new, dim = case
    before = value(*shape, dim=dim)
    after = reshape(before, new)
    assert np.array_equal(full(before).reshape(new), full(after))
    assert np.array_equal(full(reshape(after, shape)), full(before))


def test_permute_and_insert() -> None:
    moved = insert_dim(permute(value(2, 3, 4, dim=1), (2, 0, 1)), 1)
    assert moved.shape == (4, 1, 2, 3)
    assert varying(moved.factors[0]) == (3,)


def test_squeeze_constant() -> None:
    factor = np.array([[1, 1], [2, 2]])
    assert squeeze_constant(factor).tolist() == [[1], [2]]


# ---- algebra ------------------------------------------------------------------------------------


def test_merge_unites_with_broadcasting(coupler: Coupler) -> None:
    merged = merge(coupler, [value(2, 3, 4, dim=1), value(3, 1, dim=0, first=10)], (2, 3, 4))
    assert united(coupler) == {(0, 10), (1, 11), (2, 12)}
    assert not pinned(coupler)
    assert varying(merged.factors[0]) == (1,)


def test_merge_pins_against_a_fixed_axis(coupler: Coupler) -> None:
    merge(coupler, [value(2, 3, dim=1), Value((2, 3))], (2, 3))
    assert pinned(coupler) == {0, 1, 2}


def test_merge_with_a_scalar_pins_nothing(coupler: Coupler) -> None:
    merge(coupler, [value(2, 3, dim=1), Value(()), Value((2, 1))], (2, 3))
    assert not pinned(coupler)


def test_merge_keeps_factors_of_other_dims_apart(coupler: Coupler) -> None:
    merged = merge(coupler, [value(3, 1, dim=0), value(1, 4, dim=1, first=10)], (3, 4))
    assert len(merged.factors) == 2
    assert not united(coupler)
    assert not pinned(coupler)


def test_merge_of_rows_and_a_table_makes_rows_one(coupler: Coupler) -> None:
    table = Value((2, 3), (np.arange(10, 16).reshape(2, 3),))
    merge(coupler, [value(2, 3, dim=0), table], (2, 3))
    assert united(coupler) == {(0, 10), (0, 11), (0, 12), (1, 13), (1, 14), (1, 15)}


def test_reduce_uses_up_a_factor_or_leaves_open_which_dim_shrinks(coupler: Coupler) -> None:
    gone = reduce(coupler, value(2, 3, dim=1), (1,), keepdim=False, shape=(2,))
    assert gone.factors == ()
    table = Value((2, 3), (np.arange(6).reshape(2, 3),))
    kept = reduce(coupler, table, (1,), keepdim=True, shape=(2, 1))
    (span,) = coupler._reports.spans
    assert span.summed
    assert span.narrow is kept.factors[0]
    assert span.narrow.shape == (2, 1)
    assert span.wide is table.factors[0]
    alike = Value((2, 3), (np.array([[0, 1, 2], [0, 1, 2]]),))
    kept = reduce(coupler, alike, (1,), keepdim=True, shape=(2, 1))
    assert np.unique(kept.factors[0]).size == 1
    assert not united(coupler)


def test_merge_leaves_open_how_a_table_shrinks_under_what_is_broadcast_over_it(
    coupler: Coupler,
) -> None:
    table = Value((2, 3), (np.arange(10, 16).reshape(2, 3),))
    merged = merge(coupler, [value(1, 3, dim=1), table], (2, 3))
    (span,) = coupler._reports.spans
    assert not span.summed
    assert (span.narrow.tolist(), span.wide.shape) == ([[0, 1, 2]], (2, 3))
    assert merged.factors[0].tolist() == table.factors[0].tolist()
    assert not united(coupler)


def test_contract_unites_the_summed_dim(coupler: Coupler) -> None:
    left = value(2, 3, dim=1)
    right = Value((3, 4), (np.arange(10, 13).reshape(3, 1), np.arange(20, 24).reshape(1, 4)))
    product = contract(coupler, left, right, (2, 4))
    assert united(coupler) == {(0, 10), (1, 11), (2, 12)}
    assert [f.reshape(-1).tolist() for f in product.factors] == [[20, 21, 22, 23]]


def test_a_slice_of_one_unit_is_pinned(coupler: Coupler) -> None:
    tensor = value(2, 4, dim=1)
    assert take(coupler, tensor, 1, slice(1, 3), (2, 2)).factors[0].tolist() == [[1, 2]]
    assert not pinned(coupler)
    assert take(coupler, tensor, 1, [3], (2, 1)).factors == ()
    assert pinned(coupler) == {3}
    assert select(coupler, tensor, 1, -2).shape == (2,)
    assert pinned(coupler) == {2, 3}


def test_concatenate_joins_atoms_and_pins_what_nobody_makes(coupler: Coupler) -> None:
    joined = concatenate(coupler, [value(2, 3, dim=1), Value((2, 2))], 1, (2, 5))
    assert joined.factors[0].tolist() == [[0, 1, 2, 1000, 1001]]
    assert pinned(coupler) == {1000, 1001}


def test_concatenate_unites_the_other_dims(coupler: Coupler) -> None:
    parts = [value(3, 2, dim=0), value(3, 5, dim=0, first=10)]
    concatenate(coupler, parts, 1, (3, 7))
    assert united(coupler) == {(0, 10), (1, 11), (2, 12)}
