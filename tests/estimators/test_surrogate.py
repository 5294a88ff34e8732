"""The Gaussian process's closed forms, against enumeration of all coalitions."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.estimators import create, semivalue_named, surrogate
from graphprune.estimators.semivalues import Semivalue
from graphprune.estimators.surrogate import Kernel, posterior, standardised
from tests.estimators.table import TableGame, all_coalitions, enumerated, saturating

KERNELS = [
    Kernel(size=1.3, linear=0.7, interaction=0.9, rho=0.6, noise=1e-3),
    Kernel(size=0.2, linear=0.0, interaction=2.0, rho=0.95, noise=1e-2),
    Kernel(size=0.0, linear=1.5, interaction=0.3, rho=0.1, noise=1e-2),
]
SEMIVALUES = ["shapley", "banzhaf", "leave-one-out", "upper-shapley", "upper-shapley:0.7"]
kernels = pytest.mark.parametrize("kernel", KERNELS)
semivalues = pytest.mark.parametrize("name", SEMIVALUES)
sizes = pytest.mark.parametrize("n_players", [1, 2, 5, 6, 7])


def game_of(table: np.ndarray) -> TableGame:
    """The game in which coalitions, in the order of `all_coalitions`, are worth these rows."""
    n_players = len(table).bit_length() - 1
    return TableGame(n_players, lambda kept: table[kept @ (1 << np.arange(n_players)[::-1])])


def functional(n_players: int, semivalue: Semivalue) -> np.ndarray:
    """Values as a linear map of all coalitions' worth, (players, coalitions)."""
    game = game_of(np.eye(1 << n_players))
    return enumerated(game, semivalue).T


def centred(rows: np.ndarray, semivalue: Semivalue) -> np.ndarray:
    """Values that add up to something known vary by how they differ from their mean."""
    return rows - rows.mean(0) if semivalue.efficient else rows


@kernels
@semivalues
@sizes
def test_covariances_of_worth_with_values(kernel: Kernel, name: str, n_players: int) -> None:
    semivalue, kept = semivalue_named(name), all_coalitions(n_players)
    weights = centred(functional(n_players, semivalue), semivalue)
    expected = kernel.between(kept, kept) @ weights.T
    np.testing.assert_allclose(kernel.with_values(kept, semivalue), expected, atol=1e-12)


@kernels
@semivalues
@sizes
def test_covariances_of_values(kernel: Kernel, name: str, n_players: int) -> None:
    semivalue, kept = semivalue_named(name), all_coalitions(n_players)
    weights = centred(functional(n_players, semivalue), semivalue)
    expected = weights @ kernel.between(kept, kept) @ weights.T
    np.testing.assert_allclose(kernel.of_values(n_players, semivalue), expected, atol=1e-12)


@kernels
@semivalues
def test_the_posterior_is_that_of_the_textbook(kernel: Kernel, name: str) -> None:
    """Rasmussen and Williams, equations 2.23 and 2.24, for all coalitions' worth."""
    semivalue, whole = semivalue_named(name), all_coalitions(6)
    kept = whole[np.random.default_rng(0).permutation(64)[:25]]
    weights = centred(functional(6, semivalue), semivalue)
    between = kernel.between(whole, kept)
    inverse = np.linalg.inv(kernel.between(kept, kept) + kernel.noise * np.eye(25))
    found = posterior(kernel, kept, semivalue)
    np.testing.assert_allclose(found.weights, inverse @ between.T @ weights.T, atol=1e-8)
    remaining = kernel.between(whole, whole) - between @ inverse @ between.T
    np.testing.assert_allclose(
        found.covariance, weights @ remaining @ weights.T, atol=1e-8 * remaining.max()
    )


@kernels
def test_kernels_are_covariances(kernel: Kernel) -> None:
    whole = all_coalitions(7)
    covariance = kernel.between(whole, whole)
    np.testing.assert_allclose(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9
    # Only distances, sizes and common members count: players are all alike.
    order = np.random.default_rng(0).permutation(7)
    np.testing.assert_allclose(kernel.between(whole[:, order], whole[:, order]), covariance)


@semivalues
def test_conjugate_gradients_solve_as_well_as_the_direct_way(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = np.random.default_rng(0).random((600, 30)) < np.linspace(0.1, 0.9, 600)[:, None]
    kernel = Kernel(size=1.0, linear=1.0, interaction=0.3, rho=0.9, noise=1e-2)
    direct = posterior(kernel, kept, semivalue_named(name))
    monkeypatch.setattr(surrogate, "MOST_DIRECT", 100)
    monkeypatch.setattr(surrogate, "_BLOCK", 128)
    iterated = posterior(kernel, kept, semivalue_named(name))
    largest = np.abs(direct.weights).max()
    np.testing.assert_allclose(iterated.weights, direct.weights, atol=1e-3 * largest)
    np.testing.assert_allclose(
        iterated.covariance, direct.covariance, atol=1e-4 * np.abs(direct.covariance).max()
    )
    assert (iterated.weights != direct.weights).any()


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("n_images", [1, 3])
def test_large_tables_are_solved_block_by_block(
    n_images: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole estimator, on either side of the limit."""
    game = saturating(12, n_images)
    direct = create("gaussian-process", budget=150, seed=0).estimate(game)
    monkeypatch.setattr(surrogate, "MOST_DIRECT", 20 * rows)
    iterated = create("gaussian-process", budget=150, seed=0).estimate(game)
    spread = direct.per_image.std()
    np.testing.assert_allclose(iterated.per_image, direct.per_image, atol=1e-2 * spread)
    truth = enumerated(game)
    one, other = (np.linalg.norm(found.per_image - truth) for found in (iterated, direct))
    assert one < 1.1 * other


def test_outputs_are_standardised() -> None:
    worth = np.random.default_rng(0).normal(5, [[1e-3, 1.0, 1e3]], size=(50, 3))
    worth = np.append(worth, np.full((50, 1), 7.0), axis=1)
    targets, spread = standardised(worth)
    np.testing.assert_allclose(targets.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(targets.std(0), [1, 1, 1, 0], rtol=1e-9)
    np.testing.assert_allclose(spread, [*worth.std(0)[:3], 0], rtol=1e-9)


def test_draws_from_the_prior_are_covered_as_claimed() -> None:
    """Games drawn from a kernel that is on offer: errors are of the size that is claimed."""
    whole = all_coalitions(9)
    drawn = Kernel(1.0, 1.0, 1.0, float(np.exp(-2 / (1.5 * 9))), 0.0)
    values, vectors = np.linalg.eigh(drawn.between(whole, whole))
    root = vectors * np.sqrt(np.maximum(values, 0))
    rng, scatter, claimed = np.random.default_rng(0), [], []
    for _ in range(20):
        table = root @ rng.normal(size=len(whole))
        game = TableGame(
            9, lambda kept, table=table: table[kept @ (1 << np.arange(9)[::-1])][:, None]
        )
        found = create("gaussian-process", budget=100, seed=0).estimate(game)
        scatter.append(np.square(found.values - enumerated(game)[0]).mean())
        claimed.append(np.square(found.stderr).mean())
    assert 0.8 < np.sqrt(np.mean(scatter) / np.mean(claimed)) < 1.25
