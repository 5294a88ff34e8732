"""What ``auto`` takes."""

from __future__ import annotations

import pytest

from graphprune.estimators import available, semivalue_named
from graphprune.estimators.choice import GameKind, chosen_estimator

BUDGETS = (None, 0, 40, 64, 80, 127, 128, 1000, 1 << 20)


def chosen(
    n_players: int,
    budget: int | None,
    *,
    readers: int = 1,
    sloped: bool = True,
    semivalue: str = "shapley",
    unions: bool = False,
) -> str:
    kind = GameKind(n_players=n_players, readers=readers, sloped=sloped, unions=unions)
    return chosen_estimator(kind, budget, semivalue_named(semivalue))


def test_few_evaluations_are_gradients() -> None:
    for n_players, readers in ((12, 1), (16, 1), (16, 10), (64, 3)):
        assert chosen(n_players, 4 * n_players - 1, readers=readers) == "owen"
        assert chosen(n_players, 4 * n_players, readers=readers) != "owen"
        assert chosen(n_players, None, readers=readers) != "owen"


def test_gradients_lead_where_few_layers_read_or_coalitions_are_few() -> None:
    led, alone = "gaussian-process-gradients", "gaussian-process"
    assert [chosen(16, budget, readers=4) for budget in (64, 127, 128, None)] == [led] * 4
    assert [chosen(16, budget, readers=5) for budget in (64, 127, 128, None)] == [
        led,
        led,
        alone,
        alone,
    ]
    assert chosen(15, 60) == alone


def test_worth_that_changes_in_steps_has_no_gradients() -> None:
    for budget in BUDGETS:
        assert chosen(16, budget, sloped=False) == "gaussian-process"


def test_small_games_are_enumerated_where_the_budget_pays() -> None:
    assert chosen(8, None) == chosen(8, 256) == chosen(3, 8) == "exact"
    assert chosen(8, 255) == "gaussian-process"
    assert chosen(9, None) == "gaussian-process"
    assert chosen(500, 501, semivalue="leave-one-out") == "exact"
    assert chosen(8, 256, sloped=False) == "exact"


def test_unions_follow_orders() -> None:
    for budget in BUDGETS:
        assert chosen(64, budget, unions=True) == "antithetic"


@pytest.mark.parametrize("budget", BUDGETS)
def test_whoever_is_chosen_is_there(budget: int | None) -> None:
    for readers in (1, 10):
        assert chosen(40, budget, readers=readers) in available()
