"""The hierarchical game: players of a union join together (the Owen value)."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.errors import OptionError
from graphprune.estimators import create, semivalue_named
from tests.estimators.contract import PROMISES
from tests.estimators.table import (
    TableGame,
    contiguous,
    cubic,
    enumerated,
    over_orders,
    saturating,
)

UNIONS = np.array([0, 1, 0, 2, 1, 0, 1])
PLAYING = [name for name in PROMISES if PROMISES[name].unions]
names = pytest.mark.parametrize("name", PLAYING)


def united(game: TableGame, unions: np.ndarray = UNIONS) -> TableGame:
    return TableGame(game.n_players, game.formula, unions)


def quotient(game: TableGame, unions: np.ndarray = UNIONS) -> TableGame:
    """The game whose players are the unions."""
    return TableGame(int(unions.max()) + 1, lambda kept: game.formula(kept[:, unions]))


def sums(values: np.ndarray) -> np.ndarray:
    """Sums over the members of each union."""
    return values @ np.eye(UNIONS.max() + 1)[UNIONS]


@names
def test_values_are_mean_marginals_over_orders_that_keep_unions_together(name: str) -> None:
    game = united(saturating(7, 3, seed=2))
    truth = over_orders(game, UNIONS.tolist())
    estimate = create(name, budget=3000, seed=0).estimate(game)
    assert (np.abs(estimate.values - truth.mean(0)) <= 5 * estimate.stderr + 1e-9).all()
    error = np.abs(estimate.values - truth.mean(0)).max()
    # They are no Shapley values, by more than the error.
    assert error < 0.5 * np.abs(enumerated(game) - truth).mean(0).max()


@names
def test_members_of_a_union_follow_each_other(name: str) -> None:
    game = united(cubic(7, 1))
    create(name, budget=1000, seed=0).estimate(game)
    found = np.concatenate(game.asked[1:]).reshape(-1, 6, 7)
    turns, within = set(), set()
    for rows in found:
        order = np.argsort(-rows.sum(0), kind="stable")
        assert (np.diff(np.concatenate([rows, np.ones((1, 7), bool)]).sum(1)) == 1).all()
        assert contiguous(UNIONS[order].tolist())
        turns.add(tuple(dict.fromkeys(UNIONS[order].tolist())))
        within.add(tuple(player for player in order.tolist() if UNIONS[player] == 0))
    assert len(turns) == 6
    assert len(within) == 6


@names
def test_a_unions_values_add_up_to_its_value_among_unions(name: str) -> None:
    game = united(cubic(7, 2, seed=4))
    estimate = create(name, budget=2000, seed=0).estimate(game)
    expected = enumerated(quotient(game)).mean(0)
    allowed = 5 * sums(estimate.stderr)
    assert (np.abs(sums(estimate.values) - expected) <= allowed).all()
    assert np.abs(sums(estimate.values) - expected).max() < 0.1 * expected.std()
    np.testing.assert_allclose(sums(over_orders(game, UNIONS.tolist())), enumerated(quotient(game)))


@names
@pytest.mark.parametrize("unions", [np.zeros(7, int), np.arange(7)])
def test_one_union_and_unions_of_one_give_shapley_values(name: str, unions: np.ndarray) -> None:
    game = united(cubic(7, 2), unions)
    estimate = create(name, budget=2000, seed=0).estimate(game)
    truth = enumerated(game).mean(0)
    assert (np.abs(estimate.values - truth) <= 5 * estimate.stderr + 1e-9).all()


@names
def test_standard_errors_are_those_of_repeated_estimates(name: str) -> None:
    game = united(cubic(7, 1))
    truth = over_orders(game, UNIONS.tolist())[0]
    runs = [create(name, budget=150, seed=seed).estimate(game) for seed in range(60)]
    scatter = np.mean([np.square(run.values - truth) for run in runs])
    claimed = np.mean([np.square(run.stderr) for run in runs])
    assert 0.7 < np.sqrt(scatter / claimed) < 1.4


@names
def test_other_semivalues_have_no_unions(name: str) -> None:
    game = united(cubic(7, 1))
    estimator = create(name, budget=None, seed=0, semivalue=semivalue_named("banzhaf"))
    with pytest.raises(OptionError, match=r"Shapley \(Owen\) values only, no banzhaf"):
        estimator.estimate(game)
    assert game.evaluations == 0


@pytest.mark.parametrize("name", [name for name in PROMISES if not PROMISES[name].unions])
def test_the_others_refuse(name: str) -> None:
    game = united(cubic(7, 1))
    message = f"'{name.removesuffix('-gradients')}.*' does not play the hierarchical game"
    with pytest.raises(OptionError, match=message) as error:
        create(name, budget=None, seed=0).estimate(game)
    assert "permutation or antithetic" in str(error.value.hint)
    assert game.evaluations == 0
