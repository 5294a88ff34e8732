"""Semivalues: what counts, and who estimates them."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.errors import OptionError
from graphprune.estimators import SEMIVALUES, Semivalue, create, semivalue_named
from tests.estimators.contract import PROMISES
from tests.estimators.table import (
    TableGame,
    additive,
    cubic,
    enumerated,
    over_orders,
    saturating,
    size_weight,
)

NAMES = ["shapley", "banzhaf", "leave-one-out", "upper-shapley", "upper-shapley:0.7"]
OTHERS = NAMES[1:]
ORDERS = ("permutation", "antithetic", "orthogonal")


def test_the_references_agree() -> None:
    game = cubic(6, 2)
    np.testing.assert_allclose(enumerated(game), over_orders(game), atol=1e-12)
    grand = np.ones((1, 6), bool)
    without = game.formula(~np.eye(6, dtype=bool))
    found = enumerated(game, semivalue_named("leave-one-out"))
    np.testing.assert_allclose(found, (game.formula(grand) - without).T, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_players", [1, 2, 5, 9])
def test_exact_values_are_the_weighted_sums_of_all_marginals(name: str, n_players: int) -> None:
    game, semivalue = saturating(n_players, 3), semivalue_named(name)
    found = create("exact", budget=None, seed=0, semivalue=semivalue).estimate(game)
    np.testing.assert_allclose(found.per_image, enumerated(game, semivalue), atol=1e-12)
    one_out = name == "leave-one-out"
    assert found.evaluations == game.evaluations == (n_players + 1 if one_out else 2**n_players)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("estimator", [key for key in PROMISES if PROMISES[key].semivalues])
def test_estimates_converge_to_exact_values(estimator: str, name: str) -> None:
    semivalue, game = semivalue_named(name), saturating(10, 2, seed=1)
    truth = enumerated(game, semivalue).mean(0)
    if name == "leave-one-out" and estimator in ORDERS:
        return
    budget = None if estimator == "exact" else 2500 if estimator in ORDERS else 400
    made = create(estimator, budget=budget, seed=0, semivalue=semivalue)
    found = made.estimate(game)
    assert (np.abs(found.values - truth) <= 5 * found.stderr + 0.02 * truth.std()).all()
    error = np.linalg.norm(found.values - truth)
    assert error < 0.1 * np.linalg.norm(truth - truth.mean())
    # The game tells semivalues apart by more than what is left of error.
    assert error < 0.7 * np.linalg.norm(enumerated(game).mean(0) - truth)


@pytest.mark.parametrize("estimator", [key for key in PROMISES if not PROMISES[key].semivalues])
@pytest.mark.parametrize("name", OTHERS)
def test_the_others_refuse(estimator: str, name: str) -> None:
    game = saturating(8, 1)
    with pytest.raises(
        OptionError, match=f"{estimator!r} estimates Shapley values only, not {name}"
    ) as error:
        create(estimator, budget=None, seed=0, semivalue=semivalue_named(name)).estimate(game)
    assert error.value.hint == "use --estimator gaussian-process, which takes any semivalue"
    assert game.evaluations == 0


@pytest.mark.parametrize("estimator", ORDERS)
def test_orders_tell_little_about_one_place(estimator: str) -> None:
    game = saturating(8, 1)
    with pytest.raises(OptionError, match="an order tells about one player only") as error:
        create(estimator, budget=None, seed=0, semivalue=semivalue_named("leave-one-out")).estimate(
            game
        )
    assert error.value.hint == "use --estimator exact, which takes one coalition per player"
    assert game.evaluations == 0


@pytest.mark.parametrize("name", OTHERS)
def test_orders_are_evaluated_where_it_counts(name: str) -> None:
    """Coalitions of sizes without a share are not asked for."""
    semivalue = semivalue_named(name)
    if semivalue.low == 1:
        return
    game = additive(np.ones((1, 400)))
    found = create("permutation", budget=None, seed=0, semivalue=semivalue).estimate(game)
    asked = {int(size) for kept in game.asked for size in kept.sum(1)} - {0, 400}
    counted = np.flatnonzero(semivalue.size_shares(400) > 1e-12)
    assert asked == set(range(counted[0], counted[-1] + 2)) - {0, 400}
    assert len(asked) < 300
    np.testing.assert_allclose(found.values.mean(), 1, rtol=1e-9)


@pytest.mark.parametrize("n_players", [1, 2, 7, 40, 333])
@pytest.mark.parametrize("name", NAMES)
def test_shares_of_sizes_add_up(name: str, n_players: int) -> None:
    shares = semivalue_named(name).size_shares(n_players)
    assert shares.shape == (n_players,)
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(), 1, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_shares_of_sizes_are_those_of_the_definition(name: str) -> None:
    semivalue = semivalue_named(name)
    expected = [size_weight(semivalue, 30, size) * _choose(29, size) for size in range(30)]
    np.testing.assert_allclose(semivalue.size_shares(30), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("n_players", [2, 9, 100])
@pytest.mark.parametrize("name", NAMES)
def test_points_integrate_exactly(name: str, n_players: int) -> None:
    """All powers of q up to that of the other players."""
    semivalue = semivalue_named(name)
    points, weights = semivalue.points(n_players)
    powers = np.arange(n_players)
    found = weights @ points[:, None] ** powers
    low, high = semivalue.low, semivalue.high
    expected = (
        low**powers * 1.0
        if low == high
        else (high ** (powers + 1) - low ** (powers + 1)) / ((powers + 1) * (high - low))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_only_shapley_values_add_up() -> None:
    assert [name for name in NAMES if semivalue_named(name).efficient] == ["shapley"]
    # A start of 0 is Shapley's value by another name.
    assert semivalue_named("upper-shapley:0").efficient


def test_names() -> None:
    assert list(SEMIVALUES) == NAMES[:4]
    for name in NAMES:
        assert semivalue_named(name).name == name
    assert semivalue_named("upper-shapley:0.7") == Semivalue("upper-shapley:0.7", 0.7, 1.0)


@pytest.mark.parametrize("name", ["shapely", "", "banzhaf:0.3", "shapley:", "Shapley"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match=rf"semivalue {name!r} is none of shapley, banzhaf, leav"):
        semivalue_named(name)


@pytest.mark.parametrize("start", ["1", "-0.1", "half", "", "nan", "inf", "0.5:0.7"])
def test_impossible_starts_are_refused(start: str) -> None:
    with pytest.raises(OptionError, match=f"upper-shapley cannot begin at {start!r}") as error:
        semivalue_named(f"upper-shapley:{start}")
    assert "upper-shapley:0.7" in str(error.value.hint)


def test_players_who_add_the_same_everywhere_are_worth_that_in_every_semivalue() -> None:
    weights = np.random.default_rng(0).normal(size=(2, 9))
    for name in NAMES:
        game = TableGame(9, lambda kept: kept @ weights.T)
        found = create("exact", budget=None, seed=0, semivalue=semivalue_named(name)).estimate(game)
        np.testing.assert_allclose(found.per_image, weights, rtol=1e-9)


def _choose(n: int, k: int) -> float:
    return float(np.prod(np.arange(n - k + 1, n + 1) / np.arange(1, k + 1)))
