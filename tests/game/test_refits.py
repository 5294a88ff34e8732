"""Refits: closed forms against least squares solved anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from graphprune.game import refits
from graphprune.game.moments import with_one
from graphprune.game.readers import Block, readers_of
from graphprune.game.refits import Refits, inverse_moments
from tests.networks import NETWORKS
from tests.traced import traced

COLUMNS, OUTPUTS, ROWS = 9, 4, 60
BLOCKS = (
    Block(np.array([0, 3]), np.array([[0, 4], [1, 5]])),
    Block(np.array([1, 2]), np.array([[2], [6]])),
)
"""Units 0 and 3 have two columns each, units 1 and 2 one; 3, 7 and 8 are always there."""


def columns_of(unit: int) -> list[int]:
    return next(
        block.columns[place].tolist()
        for block in BLOCKS
        for place, number in enumerate(block.units)
        if number == unit
    )


def kept_without(units: set[int]) -> Tensor:
    kept = torch.ones(COLUMNS, dtype=torch.bool)
    for unit in units:
        kept[columns_of(unit)] = False
    return kept


@pytest.fixture
def rows() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64)
    return mixed @ torch.randn(COLUMNS, COLUMNS, generator=generator, dtype=torch.float64) + 1


@pytest.fixture
def weight() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(OUTPUTS, COLUMNS, generator=generator, dtype=torch.float64)


def gram_of(rows: Tensor) -> Tensor:
    with_constant = with_one(rows)
    return with_constant.mT @ with_constant / len(rows)


def solved_anew(rows: Tensor, weight: Tensor, kept: Tensor) -> Tensor:
    """Return what the layer makes after least squares on the columns kept, (rows, outputs)."""
    read = with_one(rows[:, kept])
    return read @ torch.linalg.lstsq(read, rows @ weight.mT).solution


def squared_errors(rows: Tensor, weight: Tensor, kept: Tensor) -> Tensor:
    """Return the mean squared error of every output, (outputs,)."""
    return (solved_anew(rows, weight, kept) - rows @ weight.mT).square().mean(0)


def refits_of(rows: Tensor, weight: Tensor) -> Refits:
    return Refits(weight, inverse_moments(gram_of(rows)))


@pytest.mark.parametrize("steps", [[{0}], [{1, 3}], [{2}, {0}, {1}], [{0, 1, 2}, {3}]])
def test_errors_are_those_of_least_squares_solved_anew(
    steps: list[set[int]], rows: Tensor, weight: Tensor
) -> None:
    refits, gone = refits_of(rows, weight), set()
    assert not refits.errors.any()
    for units in steps:
        refits.remove(torch.tensor([c for unit in units for c in columns_of(unit)]))
        gone |= units
        expected = squared_errors(rows, weight, kept_without(gone))
        torch.testing.assert_close(refits.errors, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("absent", [set(), {0}, {1, 3}])
def test_what_errors_would_rise_by(absent: set[int], rows: Tensor, weight: Tensor) -> None:
    refits, before = refits_of(rows, weight), squared_errors(rows, weight, kept_without(absent))
    refits.remove(torch.tensor([c for unit in absent for c in columns_of(unit)], dtype=torch.int64))
    for block in BLOCKS:
        here = block.where(~np.isin(block.units, list(absent)))
        found = refits.rises(torch.from_numpy(here.columns))
        for unit, rise in zip(here.units.tolist(), found, strict=True):
            after = squared_errors(rows, weight, kept_without({*absent, unit}))
            torch.testing.assert_close(rise, after - before, rtol=1e-7, atol=1e-9)


def test_rises_are_the_same_unit_by_unit(
    rows: Tensor, weight: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = torch.arange(COLUMNS - 1).reshape(-1, 2)
    together = refits_of(rows, weight).rises(units)
    monkeypatch.setattr(refits, "_NUMBERS", 1)
    torch.testing.assert_close(refits_of(rows, weight).rises(units), together)
    assert refits_of(rows, weight).rises(units[:0]).shape == (0, OUTPUTS)


def test_looking_changes_nothing(rows: Tensor, weight: Tensor) -> None:
    inverse = inverse_moments(gram_of(rows))
    given = weight.clone(), inverse.clone()
    refits = Refits(weight, inverse)
    refits.remove(torch.tensor([2]))
    one = refits.rises(torch.tensor([[0, 4], [1, 5]]))
    torch.testing.assert_close(refits.rises(torch.tensor([[0, 4], [1, 5]])), one)
    assert torch.equal(weight, given[0])
    assert torch.equal(inverse, given[1])


# ---- which layers -------------------------------------------------------------------------------


def readers_by_weight(name: str) -> dict[str, np.ndarray]:
    return {reader.layer.weight: reader.units for reader in readers_of(traced(name))}


def test_readers_and_the_units_of_their_columns() -> None:
    graph = traced("FlattenLinear")
    found = readers_by_weight("FlattenLinear")
    first, second = graph.groups
    assert list(found) == ["1.0.weight", "4.weight"]
    per_tap = np.repeat(np.arange(first.n_units) + first.first, 9)
    np.testing.assert_array_equal(found["1.0.weight"], per_tap[None])
    per_place = np.repeat(np.arange(second.n_units) + second.first, 16)
    np.testing.assert_array_equal(found["4.weight"], per_place[None])


@pytest.mark.parametrize("name", NETWORKS)
def test_columns_of_readers_are_those_that_their_weights_have(name: str) -> None:
    graph = traced(name)
    for reader in readers_of(graph):
        weight = graph.program.module.get_parameter(reader.layer.weight)
        assert reader.units.shape == reader.layer.layout.matrix(weight).shape[::2]
        listed = [block for blocks in reader.blocks for block in blocks]
        for group, blocks in enumerate(reader.blocks):
            for block in blocks:
                expected = np.broadcast_to(block.units[:, None], block.columns.shape)
                np.testing.assert_array_equal(reader.units[group][block.columns], expected)
        counted = sum(block.columns.size for block in listed)
        assert counted == np.count_nonzero(reader.units >= 0) > 0
