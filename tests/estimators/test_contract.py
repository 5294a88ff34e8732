"""What every estimator must do, run over all that are registered."""

from __future__ import annotations

import pytest

from graphprune.errors import OptionError
from graphprune.estimators import available, create, register
from tests.estimators.contract import CHECKS, PROMISES, Subject, assert_all_have_promised
from tests.estimators.table import TableGame


def subject(name: str) -> Subject:
    return Subject(lambda budget, seed: create(name, budget=budget, seed=seed), PROMISES[name])


@pytest.mark.parametrize("name", PROMISES)
@pytest.mark.parametrize("check", CHECKS)
def test_estimators_keep_their_promises(name: str, check: str) -> None:
    CHECKS[check](subject(name))


def test_every_estimator_is_under_contract() -> None:
    assert_all_have_promised(available())
    with pytest.raises(AssertionError, match=r"newcomer: registered, but not under contract"):
        assert_all_have_promised((*available(), "newcomer"))


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(OptionError, match=r"'shapely' is none of auto, antithetic, exact, gauss"):
        create("shapely", budget=None, seed=0)


def test_a_name_is_given_once() -> None:
    with pytest.raises(OptionError, match="two estimators are called 'exact'"):
        register("exact")(TableGame)
