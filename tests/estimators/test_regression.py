"""The closest additive game: against enumeration, and where coalitions are few."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.estimators import create
from graphprune.estimators.evidence import Evidence
from graphprune.estimators.pairs import PairDesign
from graphprune.estimators.regression import closest_additive, shapley_kernel
from tests.estimators.table import TableGame, additive, cubic, enumerated, noise, saturating


def evidence_of(game: TableGame, n_blocks: int = 10**6, seed: int = 0) -> Evidence:
    design = PairDesign(game.n_players, n_blocks, seed)
    blocks = [design.block(number) for number in range(design.n_blocks)]
    kept = np.concatenate(blocks)
    empty, full = game.formula(np.array([[False], [True]]).repeat(game.n_players, axis=1))
    return Evidence(
        kept=kept,
        worth=game.formula(kept),
        blocks=np.repeat(np.arange(len(blocks)), [len(block) for block in blocks]),
        empty=empty,
        full=full,
    )


@pytest.mark.parametrize("n_players", [2, 3, 5, 8])
def test_all_coalitions_give_shapley_values(n_players: int) -> None:
    for game in (noise(n_players, 3), saturating(n_players, 3)):
        evidence = evidence_of(game)
        found = closest_additive(evidence, *shapley_kernel(evidence.kept))
        np.testing.assert_allclose(found, enumerated(game), atol=1e-12)


@pytest.mark.parametrize("n_players", [2, 3, 5, 8])
@pytest.mark.parametrize("name", ["leverageshap", "stratified"])
def test_what_was_all_seen_has_no_error(name: str, n_players: int) -> None:
    game = noise(n_players, 2)
    estimate = create(name, budget=2**n_players, seed=0).estimate(game)
    np.testing.assert_allclose(estimate.per_image, enumerated(game), atol=1e-12)
    np.testing.assert_array_equal(estimate.stderr, 0)


def test_the_kernel_is_shapleys() -> None:
    """Weights of single coalitions, by the formula of Charnes et al., where all are there."""
    kept = evidence_of(noise(7, 1)).kept
    weights, unseen = shapley_kernel(kept)
    sizes = kept.sum(1)
    choose = np.array([1, 7, 21, 35, 35, 21, 7, 1])[sizes]
    np.testing.assert_allclose(weights, 6 / (choose * sizes * (7 - sizes)))
    assert unseen == 0


def test_what_was_drawn_stands_for_what_was_not() -> None:
    whole = evidence_of(noise(9, 1)).kept
    part = evidence_of(noise(9, 1), 10).kept
    totals = [
        np.bincount(kept.sum(1), shapley_kernel(kept)[0], minlength=9)[1:] for kept in (whole, part)
    ]
    np.testing.assert_allclose(*totals)
    shares = [shapley_kernel(evidence_of(noise(9, 1), blocks).kept)[1] for blocks in (4, 16, 60)]
    assert 1 > shares[0] > shares[1] > shares[2] > 0


def test_many_players() -> None:
    """More coalitions than a float can count."""
    evidence = evidence_of(additive(np.random.default_rng(0).normal(size=(1, 1100))), 20)
    weights, unseen = shapley_kernel(evidence.kept)
    assert np.isfinite(weights).all()
    assert weights.min() > 0
    assert 0.99 < unseen <= 1
    found = closest_additive(evidence, weights, unseen)
    np.testing.assert_allclose(found.sum(), (evidence.full - evidence.empty)[0])


@pytest.mark.parametrize("name", ["leverageshap", "stratified", "kernelshap"])
def test_errors_do_not_explode_where_every_coalition_can_be_fitted(name: str) -> None:
    """As many pairs as unknowns: a fit without any ridge would meet them all, and be far off."""
    for n_players in (9, 13):
        errors = {}
        for n_pairs in (n_players - 1, n_players + 3):
            found = []
            for seed in range(8):
                game = cubic(n_players, 1, seed=seed)
                truth = enumerated(game)[0]
                estimate = create(name, budget=2 + 2 * n_pairs, seed=seed).estimate(game)
                found.append(np.square(estimate.values - truth).mean() / truth.var())
            errors[n_pairs] = np.sqrt(np.mean(found))
        assert errors[n_players - 1] < 1.1
        assert errors[n_players - 1] < 2.2 * errors[n_players + 3]


def test_nothing_but_the_ends_gives_equal_shares() -> None:
    game = cubic(5, 2)
    evidence = evidence_of(game, 1).only(np.zeros(8, bool))
    found = closest_additive(evidence, *shapley_kernel(evidence.kept))
    share = (evidence.full - evidence.empty) / 5
    np.testing.assert_allclose(found, np.repeat(share[:, None], 5, axis=1))
