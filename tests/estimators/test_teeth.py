"""The contract has teeth: estimators that are wrong in one place do not pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from graphprune.checkpoint import NO_STATE, State
from graphprune.errors import GraphpruneError
from graphprune.estimators import NEVER, ShapleyEstimate, Stopping, create, evidence, regression
from graphprune.estimators import exact as exact_module
from graphprune.estimators import orders as orders_module
from graphprune.estimators import owen as owen_module
from graphprune.estimators import surrogate as surrogate_module
from graphprune.estimators.semivalues import Semivalue
from graphprune.progress import Progress, silent
from tests.estimators.contract import CHECKS, PROMISES, Make, Subject
from tests.estimators.table import TableGame

Mutate = Callable[[ShapleyEstimate], ShapleyEstimate]


@dataclass(frozen=True)
class Mutant:
    """An estimator whose game or whose result is tampered with."""

    make: Make
    budget: int | None
    seed: int
    game: Callable[[TableGame], Any] = lambda game: game
    result: Mutate = lambda estimate: estimate

    def estimate(
        self,
        game: TableGame,
        progress: Progress = silent,
        state: State = NO_STATE,
        stopping: Stopping = NEVER,
    ) -> ShapleyEstimate:
        made = self.make(self.budget, self.seed)
        return self.result(made.estimate(self.game(game), progress, state, stopping))


@dataclass
class WithoutEmpty:
    """A game whose empty coalition is taken to be worth nothing."""

    inner: TableGame

    def __post_init__(self) -> None:
        self.n_players, self.unions = self.inner.n_players, self.inner.unions
        self.n_images = self.inner.n_images

    def values(self, coalitions: torch.Tensor) -> torch.Tensor:
        return torch.where(coalitions.any(1, keepdim=True), self.inner.values(coalitions), 0.0)

    def slopes(self, gates: torch.Tensor) -> torch.Tensor:
        """What the empty coalition is worth weighs ``-prod(1 - gate)`` in every slope."""
        empty = self.inner.formula(np.zeros((1, self.n_players), bool))[0]
        closed = 1 - gates.double()
        others = closed.prod(2, keepdim=True) / closed.clamp(min=1e-12)
        return self.inner.slopes(gates) + others * torch.from_numpy(empty)[:, None]


@dataclass
class Overdrawn:
    """A game that is asked for more than is counted."""

    inner: TableGame

    def __post_init__(self) -> None:
        self.n_players, self.unions = self.inner.n_players, self.inner.unions
        self.n_images = self.inner.n_images
        self.slopes = self.inner.slopes

    def values(self, coalitions: torch.Tensor) -> torch.Tensor:
        self.inner.values(coalitions[:1])
        return self.inner.values(coalitions)


@dataclass
class OneBlock:
    """A design all of whose blocks are the first one."""

    inner: evidence.Design

    def __post_init__(self) -> None:
        self.n_blocks, self.fewest = self.inner.n_blocks, self.inner.fewest
        self.stage = self.inner.stage

    def block(self, number: int) -> np.ndarray:
        return self.inner.block(0)


def caught(make: Make, name: str, check: str) -> bool:
    """Whether a check notices."""
    try:
        CHECKS[check](Subject(make, PROMISES[name]))
    except (AssertionError, GraphpruneError, pytest.fail.Exception):
        return True
    return False


def made(name: str) -> Make:
    return lambda budget, seed: create(name, budget=budget, seed=seed)


def mutated(name: str, **tampered: Any) -> Make:
    return lambda budget, seed: Mutant(made(name), budget, seed, **tampered)


SAMPLING = [name for name in PROMISES if not PROMISES[name].enumerates]
names = pytest.mark.parametrize("name", PROMISES)


@names
def test_a_tampered_estimator_that_changes_nothing_passes(name: str) -> None:
    """What catches mutants is not the tampering itself."""
    for check in ("efficiency", "constant", "images", "budget", "other_seeds", "additive"):
        assert not caught(mutated(name), name, check), check


@names
@pytest.mark.parametrize("check", ["efficiency", "additive", "closed_forms", "accuracy", "images"])
def test_a_wrong_sign_is_caught(name: str, check: str) -> None:
    flipped = mutated(name, result=lambda found: replace(found, per_image=-found.per_image))
    assert caught(flipped, name, check)


@names
@pytest.mark.parametrize("check", ["efficiency", "constant"])
def test_a_dropped_empty_coalition_is_caught(name: str, check: str) -> None:
    assert caught(mutated(name, game=WithoutEmpty), name, check)


@names
@pytest.mark.parametrize("check", ["images", "additive", "small_games"])
def test_images_out_of_order_are_caught(name: str, check: str) -> None:
    swapped = mutated(name, result=lambda found: replace(found, per_image=found.per_image[::-1]))
    assert caught(swapped, name, check)


@names
@pytest.mark.parametrize("check", ["additive", "closed_forms", "accuracy", "images"])
def test_players_out_of_order_are_caught(name: str, check: str) -> None:
    rolled = mutated(
        name, result=lambda found: replace(found, per_image=np.roll(found.per_image, 1, axis=1))
    )
    assert caught(rolled, name, check)


@pytest.mark.parametrize("name", SAMPLING)
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_wrong_standard_errors_are_caught(name: str, factor: float) -> None:
    scaled = mutated(name, result=lambda found: replace(found, stderr=found.stderr * factor))
    assert caught(scaled, name, "standard_errors")


@pytest.mark.parametrize("name", SAMPLING)
def test_a_seed_that_is_not_used_is_caught(name: str) -> None:
    assert caught(lambda budget, seed: create(name, budget=budget, seed=7), name, "other_seeds")


@pytest.mark.parametrize("name", SAMPLING)
def test_a_seed_that_is_not_all_there_is_is_caught(name: str) -> None:
    runs = iter(range(1000))
    assert caught(
        lambda budget, seed: create(name, budget=budget, seed=next(runs)), name, "equal_seeds"
    )


@pytest.mark.parametrize("name", SAMPLING)
@pytest.mark.parametrize("check", ["other_seeds", "standard_errors"])
def test_a_seed_shared_by_all_blocks_is_caught(
    name: str, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = evidence._Run._evaluate

    def first_again(run: Any, stop: int) -> None:
        if not isinstance(run._design, OneBlock):
            run._design = OneBlock(run._design)
        evaluate(run, stop)

    monkeypatch.setattr(evidence._Run, "_evaluate", first_again)
    gates = owen_module._gates
    monkeypatch.setattr(owen_module, "_gates", lambda *given: gates(*given[:-1], 0))
    assert caught(made(name), name, check)


@names
def test_evaluations_that_are_not_counted_are_caught(name: str) -> None:
    if name != "owen":
        assert caught(mutated(name, game=Overdrawn), name, "budget")
    miscounted = mutated(
        name, result=lambda found: replace(found, evaluations=found.evaluations - 1)
    )
    assert caught(miscounted, name, "budget")


@names
def test_an_overspent_budget_is_caught(name: str) -> None:
    def generous(budget: int | None, seed: int) -> Any:
        return create(name, budget=None if budget is None else budget + 40, seed=seed)

    assert caught(generous, name, "small_budgets")
    assert PROMISES[name].enumerates or caught(generous, name, "budget")


@names
def test_own_coalitions_that_are_not_said_are_caught(name: str) -> None:
    wrong = mutated(
        name, result=lambda found: replace(found, own_coalitions=not found.own_coalitions)
    )
    assert caught(wrong, name, "record")


# ---- weights off by one -------------------------------------------------------------------------


def test_exact_weights_of_the_next_size_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = exact_module._weights

    def shifted(kept: torch.Tensor, semivalue: Semivalue) -> np.ndarray:
        """Every coalition counts as one of the next size does."""
        found, sizes = weights(kept, semivalue), kept.sum(1).numpy()
        each = [
            abs(weights(first(kept.shape[1], size), semivalue)[0, 0])
            for size in range(kept.shape[1])
        ]
        inner = (sizes > 0) & (sizes < kept.shape[1] - 1)
        found[inner] *= (np.roll(each, -1) / each)[sizes[inner]][:, None]
        return found

    monkeypatch.setattr(exact_module, "_weights", shifted)
    assert caught(made("exact"), "exact", "closed_forms")


def first(n_players: int, size: int) -> torch.Tensor:
    return (torch.arange(n_players) < size)[None]


@pytest.mark.parametrize("name", ["permutation", "antithetic", "orthogonal"])
def test_marginals_of_the_next_player_are_caught(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = orders_module._members
    monkeypatch.setattr(
        orders_module, "_members", lambda order, places: members(np.roll(order, 1), places + 1)
    )
    # Every coalition has one member more, so that a step goes to the player after.
    assert caught(made(name), name, "efficiency") or caught(made(name), name, "closed_forms")


@pytest.mark.parametrize("name", ["permutation", "antithetic", "orthogonal"])
def test_a_mean_over_one_order_too_few_is_caught(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weighted = orders_module._weighted
    monkeypatch.setattr(orders_module, "_weighted", lambda *given: 1.1 * weighted(*given))
    assert caught(made(name), name, "efficiency")
    assert caught(made(name), name, "additive")


def test_a_kernel_of_the_next_size_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphprune.estimators import leverageshap

    def shifted(kept: np.ndarray) -> tuple[np.ndarray, float]:
        weights, unseen = regression.shapley_kernel(kept)
        sizes = kept.sum(1)
        return weights * sizes * (kept.shape[1] - sizes), unseen

    monkeypatch.setattr(leverageshap, "shapley_kernel", shifted)
    assert caught(made("leverageshap"), "leverageshap", "closed_forms")


def test_strata_off_by_one_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = Semivalue.size_shares

    def shifted(semivalue: Semivalue, n_players: int) -> np.ndarray:
        return np.append(shares(semivalue, n_players)[1:], 0.0)

    monkeypatch.setattr(Semivalue, "size_shares", shifted)
    assert caught(made("stratified"), "stratified", "closed_forms")
    assert caught(made("exact"), "exact", "closed_forms")
    assert caught(made("permutation"), "permutation", "closed_forms")


def test_openings_that_miss_an_end_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    gates = owen_module._gates
    monkeypatch.setattr(
        owen_module, "_gates", lambda *given: (0.15 + 0.7 * gates(*given)).astype(np.float32)
    )
    assert caught(made("owen"), "owen", "accuracy")


@pytest.mark.parametrize("check", ["closed_forms", "accuracy"])
def test_a_closed_form_off_by_one_is_caught(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = surrogate_module.Kernel._interaction_with_value

    def shifted(
        kernel: surrogate_module.Kernel, n_players: int, semivalue: Semivalue
    ) -> tuple[np.ndarray, np.ndarray]:
        inside, outside = value(kernel, n_players, semivalue)
        return np.roll(inside, -1), np.roll(outside, -1)

    monkeypatch.setattr(surrogate_module.Kernel, "_interaction_with_value", shifted)
    assert caught(made("gaussian-process"), "gaussian-process", check)
