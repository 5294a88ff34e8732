"""Which coalitions regression asks for."""

from __future__ import annotations

from itertools import pairwise
from math import comb

import numpy as np
import pytest

from graphprune.errors import BudgetError
from graphprune.estimators import pairs
from graphprune.estimators.kernelshap import KernelDesign
from graphprune.estimators.pairs import PER_BLOCK, PairDesign, inclusion, pair_design

WIDTHS = [2, 3, 5, 6, 9, 30, 300]


def drawn(n_players: int, n_blocks: int, seed: int = 0) -> np.ndarray:
    design = PairDesign(n_players, n_blocks, seed)
    return np.concatenate([design.block(number) for number in range(design.n_blocks)])


@pytest.mark.parametrize("n_players", WIDTHS)
def test_coalitions_come_with_their_complements_and_none_comes_twice(n_players: int) -> None:
    kept = drawn(n_players, 100)
    np.testing.assert_array_equal(kept[::2], ~kept[1::2])
    assert len(np.unique(kept, axis=0)) == len(kept)
    assert kept.any(1).all()
    assert not kept.all(1).any()


@pytest.mark.parametrize("n_players", [2, 3, 4, 5, 6, 9, 10])
def test_all_coalitions_come_in_the_end(n_players: int) -> None:
    kept = drawn(n_players, 10**6)
    assert len(np.unique(kept, axis=0)) == len(kept) == 2**n_players - 2


@pytest.mark.parametrize("n_players", [6, 7, 8])
def test_sizes_that_are_not_listed_end_too(n_players: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_FEW", 3)
    kept = drawn(n_players, 10**6)
    assert len(np.unique(kept, axis=0)) == len(kept) == 2**n_players - 2


@pytest.mark.parametrize("n_players", [9, 12, 30, 301])
def test_sizes_come_equally_often_as_long_as_there_are_any(n_players: int) -> None:
    kept = drawn(n_players, 10 * n_players // PER_BLOCK)
    counts = np.bincount(kept.sum(1), minlength=n_players + 1)
    there_are = [comb(n_players, size) for size in range(n_players + 1)]
    plenty = [size for size in range(1, n_players) if counts[size] < 0.5 * there_are[size]]
    assert np.ptp(counts[plenty]) <= 2
    for size in set(range(1, n_players)) - set(plenty):
        assert counts[size] >= 0.5 * min(there_are[size], counts[plenty].min(initial=10**9))


def test_players_come_equally_often() -> None:
    kept = drawn(20, 500)
    assert np.abs(kept.mean(0) - 0.5).max() < 1e-12
    # Half a pair is one coalition: players are in as often as chance has it.
    shares = kept[::2].mean(0)
    assert np.abs(shares - shares.mean()).max() < 5 * 0.5 / np.sqrt(len(kept) / 2)


@pytest.mark.parametrize("n_players", [6, 30])
def test_blocks_do_not_depend_on_how_many_follow(n_players: int) -> None:
    few, many = drawn(n_players, 4), drawn(n_players, 7)
    np.testing.assert_array_equal(few, many[: len(few)])
    design = PairDesign(n_players, 7, 0)
    np.testing.assert_array_equal(design.block(6), PairDesign(n_players, 7, 0).block(6))
    np.testing.assert_array_equal(design.block(2), many[2 * 8 : 3 * 8])


def test_seeds() -> None:
    np.testing.assert_array_equal(drawn(12, 9, seed=5), drawn(12, 9, seed=5))
    assert (drawn(12, 9, seed=5) != drawn(12, 9, seed=6)).any()


@pytest.mark.parametrize("n_players", range(1, 12))
def test_a_design_never_costs_more_than_the_budget(n_players: int) -> None:
    refused = []
    for budget in range(80):
        try:
            design = pair_design(n_players, budget, 0, longer=False)
        except BudgetError as error:
            refused.append(budget)
            least = int(str(error.hint).rsplit(maxsplit=1)[-1])
            continue
        asked = sum(len(design.block(number)) for number in range(design.n_blocks))
        assert 2 + asked <= budget
        assert 2 + asked == 2**n_players or 2 + asked > budget - 2 * PER_BLOCK
        assert design.fewest <= max(design.n_blocks, 0)
    assert refused == list(range(least))


def test_without_a_budget_there_are_some_for_every_player() -> None:
    sizes = [
        PER_BLOCK * 2 * pair_design(n_players, None, 0, longer=False).n_blocks
        for n_players in (20, 40, 80)
    ]
    assert all(2 * one == other for one, other in pairwise(sizes))
    assert pair_design(40, None, 0, longer=True).n_blocks > 5 * sizes[1] / (2 * PER_BLOCK)


def test_inclusion() -> None:
    kept = drawn(6, 10**6)
    np.testing.assert_array_equal(inclusion(kept), 1.0)
    part = kept[kept.sum(1) != 3]
    part = np.concatenate([part, kept[kept.sum(1) == 3][:8]])
    np.testing.assert_allclose(inclusion(part), np.where(part.sum(1) == 3, 8 / comb(6, 3), 1.0))
    # Drawn with replacement, there may be more than there are.
    assert inclusion(np.repeat(kept, 3, axis=0)).max() == 1.0


def test_inclusion_of_more_coalitions_than_a_float_can_count() -> None:
    kept = drawn(2000, 30)
    found = inclusion(kept)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert found.max() <= 1


@pytest.mark.parametrize("n_players", [2, 3, 10])
def test_sizes_of_kernel_draws_follow_the_kernel(n_players: int) -> None:
    design = KernelDesign(n_players, 600, 0)
    kept = np.concatenate([design.block(number) for number in range(600)])
    np.testing.assert_array_equal(kept[::2], ~kept[1::2])
    sizes = np.arange(1, n_players)
    shares = 1 / (sizes * (n_players - sizes))
    shares /= shares.sum()
    found = np.bincount(kept.sum(1), minlength=n_players)[1:] / len(kept)
    assert (np.abs(found - shares) <= 5 * np.sqrt(shares / (len(kept) / 2)) + 1e-12).all()
    assert np.abs(kept[::2].mean(0) - 0.5).max() < 5 * 0.5 / np.sqrt(len(kept) / 2)
