"""Refits: closed forms against least squares solved anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from graphprune.game.moments import with_one
from graphprune.game.readers import Block, readers_of
from graphprune.game.refits import refit, removals
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


@pytest.mark.parametrize("absent", [set(), {0}, {1, 3}, {0, 1, 2, 3}])
def test_refitted_weights_are_those_of_least_squares(
    absent: set[int], rows: Tensor, weight: Tensor
) -> None:
    kept = kept_without(absent)
    found, constant = refit(weight, gram_of(rows), kept).whole()
    assert (found[:, ~kept] == 0).all()
    made = rows @ found.mT + constant
    torch.testing.assert_close(made, solved_anew(rows, weight, kept), rtol=1e-8, atol=1e-8)


def test_nothing_is_left_but_the_mean_where_all_columns_are_absent(
    rows: Tensor, weight: Tensor
) -> None:
    nothing = torch.zeros(COLUMNS, dtype=torch.bool)
    found, constant = refit(weight, gram_of(rows), nothing).whole()
    assert not found.any()
    torch.testing.assert_close(constant, (rows @ weight.mT).mean(0))


@pytest.mark.parametrize("absent", [set(), {0}, {1, 3}])
def test_a_removal_changes_the_output_as_a_refit_does(
    absent: set[int], rows: Tensor, weight: Tensor
) -> None:
    kept = kept_without(absent)
    refitted = refit(weight, gram_of(rows), kept)
    before, seen = solved_anew(rows, weight, kept), set()
    for block in BLOCKS:
        found = removals(refitted, block)
        if found is None:
            continue
        read = with_one(rows[:, kept])
        for unit, change in zip(found.units.tolist(), found.changes(), strict=True):
            after = solved_anew(rows, weight, kept_without({*absent, unit}))
            torch.testing.assert_close(read @ change.mT, before - after, rtol=1e-7, atol=1e-7)
            seen.add(unit)
    assert seen == {0, 1, 2, 3} - absent


@pytest.mark.parametrize("places", [1, 50])
def test_effects_are_inner_products_with_the_changes(
    places: int, rows: Tensor, weight: Tensor
) -> None:
    """In both orders of multiplication, which one is cheaper depending on the places."""
    kept = kept_without({1})
    refitted = refit(weight, gram_of(rows), kept)
    generator = torch.Generator().manual_seed(2)
    read = with_one(rows[torch.randint(0, ROWS, (3, places), generator=generator)][..., kept])
    slopes = torch.randn(2, 3, places, OUTPUTS, generator=generator, dtype=torch.float64)
    found = removals(refitted, BLOCKS[0])
    assert found is not None
    assert (places * 2 > OUTPUTS) == (places == 50)
    lost = torch.einsum("ipm,nom->inpo", read, found.changes())
    expected = torch.einsum("kipo,inpo->kin", slopes, lost)
    torch.testing.assert_close(found.effects(read, slopes), expected)


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
