"""What every estimator of a generic game must do, run over all that are registered."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.errors import BudgetError, OptionError
from graphprune.estimators import available, create, register
from graphprune.estimators.base import Estimator, ShapleyEstimate
from tests.estimators.table import (
    TableGame,
    additive,
    airport,
    airport_values,
    pair_values,
    pairs,
    unanimity,
)

GENERIC = [name for name in available() if name not in ("gradients","owen","gaussian-process-gradients")]
SAMPLING = [name for name in GENERIC if name != "exact"]


def of(name: str, game: TableGame, *, orders: int = 40, seed: int = 0) -> ShapleyEstimate:
    budget = None if name == "exact" else 2 + orders * max(game.n_players - 1, 1)
    estimator: Estimator = create(name, budget=budget, seed=seed)
    return estimator.estimate(game)


@pytest.fixture(params=GENERIC)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def assert_covered(estimate: ShapleyEstimate, truth: np.ndarray) -> None:
    """Within five standard errors, or rounding."""
    assert np.all(np.abs(estimate.values - truth) <= 5 * estimate.stderr + 1e-9)


def test_values_add_up_to_what_the_grand_coalition_adds(name: str) -> None:
    game = pairs(7, n_images=3)
    worth = game.formula(np.array([[False] * 7, [True] * 7]))
    estimate = of(name, game)
    assert estimate.per_image.shape == (3, 7)
    np.testing.assert_allclose(estimate.per_image.sum(1), worth[1] - worth[0])


def test_an_additive_game_is_solved_without_error(name: str) -> None:
    weights = np.random.default_rng(0).normal(size=(4, 6))
    estimate = of(name, additive(weights), orders=2)
    np.testing.assert_allclose(estimate.per_image, weights)
    np.testing.assert_allclose(estimate.values, weights.mean(0))
    np.testing.assert_allclose(estimate.stderr, 0, atol=1e-12)


def test_a_constant_worth_is_nobodys_merit(name: str) -> None:
    weights = np.random.default_rng(0).normal(size=(2, 5))
    game = TableGame(5, lambda kept: 100 + kept @ weights.T)
    np.testing.assert_allclose(of(name, game, orders=2).per_image, weights)


def test_equal_players_have_equal_values(name: str) -> None:
    estimate = of(name, unanimity(6, [1, 4]), orders=200)
    assert_covered(estimate, np.array([0, 0.5, 0, 0, 0.5, 0]))
    np.testing.assert_allclose(estimate.values[[0, 2, 3, 5]], 0, atol=1e-12)


def test_null_players_are_worth_exactly_nothing(name: str) -> None:
    game = pairs(5, n_images=2)
    wider = TableGame(7, lambda kept: game.formula(kept[:, [0, 2, 3, 5, 6]]))
    estimate = of(name, wider)
    np.testing.assert_allclose(estimate.per_image[:, [1, 4]], 0, atol=1e-12)
    assert np.abs(estimate.per_image[:, [0, 2, 3, 5, 6]]).min() > 1e-3


def test_values_are_linear_in_the_game(name: str) -> None:
    one, other = pairs(6, 2, seed=1), pairs(6, 2, seed=2)
    both = TableGame(6, lambda kept: 3 * one.formula(kept) - other.formula(kept))
    combined = 3 * of(name, one).per_image - of(name, other).per_image
    np.testing.assert_allclose(of(name, both).per_image, combined, atol=1e-12)


def test_airport_game(name: str) -> None:
    costs = np.array([3.0, 1.0, 7.0, 7.0, 2.5, 0.5])
    estimate = of(name, airport(costs), orders=300)
    assert_covered(estimate, airport_values(costs))
    assert airport_values(costs).sum() == pytest.approx(7)


def test_pair_game(name: str) -> None:
    estimate = of(name, pairs(6, n_images=3), orders=100)
    assert_covered(estimate, pair_values(6, 3).mean(0))


def test_the_budget_is_never_exceeded_and_counted_right(name: str) -> None:
    for budget in (64, 100, 333):
        game = pairs(6, n_images=1)
        estimate = create(name, budget=budget, seed=0).estimate(game)
        assert game.evaluations == estimate.evaluations <= budget


def test_a_budget_that_is_too_small_is_refused_before_anything_is_spent(name: str) -> None:
    for budget in (0, 1, 5):
        game = pairs(6, n_images=1)
        with pytest.raises(BudgetError) as error:
            create(name, budget=budget, seed=0).estimate(game)
        assert error.value.exit_code == 1
        assert error.value.hint
        assert game.evaluations == 0


def test_equal_seeds_give_equal_estimates(name: str) -> None:
    first, second = (of(name, pairs(6, 2), seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.per_image, second.per_image)
    np.testing.assert_array_equal(first.stderr, second.stderr)


@pytest.mark.parametrize("name", SAMPLING)
def test_other_seeds_draw_other_coalitions(name: str) -> None:
    assert (
        of(name, pairs(6, 2), seed=3).per_image != of(name, pairs(6, 2), seed=4).per_image
    ).any()


@pytest.mark.parametrize("name", SAMPLING)
def test_standard_errors_are_those_of_repeated_estimates(name: str) -> None:
    runs = [of(name, pairs(5, 2), orders=12, seed=seed) for seed in range(60)]
    truth = pair_values(5, 2).mean(0)
    scatter = np.mean([(run.values - truth) ** 2 for run in runs])
    claimed = np.mean([run.stderr**2 for run in runs])
    assert 0.7 < scatter / claimed < 1.4


def test_one_player_is_worth_everything(name: str) -> None:
    game = additive(np.array([[2.0], [4.0]]))
    estimate = create(name, budget=None, seed=0).estimate(game)
    np.testing.assert_allclose(estimate.per_image, [[2.0], [4.0]])
    assert game.evaluations == estimate.evaluations == 2


def test_progress_is_told_to_the_end(name: str) -> None:
    seen: list[tuple[int, int]] = []
    create(name, budget=None, seed=0).estimate(
        pairs(4, 1), lambda stage, done, total: seen.append((done, total))
    )
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(OptionError, match=r"'shapely' is none of auto, exact, gradients, perm"):
        create("shapely", budget=None, seed=0)


def test_a_name_is_given_once() -> None:
    with pytest.raises(OptionError, match="two estimators are called 'exact'"):
        register("exact")(TableGame)
