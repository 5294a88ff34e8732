"""Interrupted at any step and taken up again, an estimate is what it would have been."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from graphprune.checkpoint import Arrays, StateStore
from graphprune.data import as_batches
from graphprune.estimators import NEVER, ShapleyEstimate, Stopping, create
from graphprune.game import evaluation
from graphprune.game.games import NetworkGame
from graphprune.graph import DependencyGraph
from tests.estimators.contract import PROMISES
from tests.estimators.table import TableGame, saturating
from tests.helpers import batch_of
from tests.traced import traced


class Killed(BaseException):
    """Not an Exception, as a KeyboardInterrupt is not."""


Make = Callable[[], TableGame | NetworkGame]
BUDGETS = {"exact": None, "gradients": 6}
STABLE = Stopping(stability=0.9)


@cache
def network() -> DependencyGraph:
    return traced("Residual")


def network_game() -> NetworkGame:
    return NetworkGame(network(), as_batches(batch_of(network().example_inputs, 5, 0)), "kl")


GAMES: dict[str, Make] = {
    **{name: lambda: saturating(9, n_images=3) for name in PROMISES},
    "exact": lambda: saturating(11, n_images=3),
    "gradients": network_game,
}


def estimate_of(name: str, game: TableGame | NetworkGame, stopping: Stopping) -> ShapleyEstimate:
    return create(name, budget=budget_of(name, stopping), seed=1).estimate(game, stopping=stopping)


def budget_of(name: str, stopping: Stopping) -> int | None:
    return 16 if name == "gradients" and stopping.asked else BUDGETS.get(name, 110)


def interrupted(
    path: Path, name: str, game: Make, steps: int, stopping: Stopping = NEVER
) -> ShapleyEstimate:
    """Kill an estimate after every so many steps, until it ends."""
    while True:
        left = steps

        def kill(stage: str, done: int, total: int) -> None:
            nonlocal left
            left -= 1
            if not left and done < total:
                raise Killed

        torch.manual_seed(len(str(path)))
        store = StateStore(path=path, model="m", resume=True, every=0)
        part = store.open(data="d", settings={}).part("all")
        try:
            made = create(name, budget=budget_of(name, stopping), seed=1)
            return made.estimate(game(), kill, part, stopping)
        except Killed:
            assert path.exists()


def assert_same(found: ShapleyEstimate, expected: ShapleyEstimate) -> None:
    np.testing.assert_array_equal(found.per_image, expected.per_image)
    np.testing.assert_array_equal(found.stderr, expected.stderr)
    assert found.evaluations == expected.evaluations
    assert found.stability == expected.stability
    assert found.stopped == expected.stopped


@pytest.mark.parametrize("stopping", [NEVER, STABLE], ids=["budget", "stability"])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("name", GAMES)
def test_the_same_to_the_last_bit(
    name: str, steps: int, stopping: Stopping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "MAX_BATCH", 2)
    make = GAMES[name]
    expected = estimate_of(name, make(), stopping)
    found = interrupted(tmp_path / "state.npz", name, make, steps, stopping)
    assert_same(found, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


@pytest.mark.parametrize("name", [name for name in PROMISES if name != "exact"])
def test_nothing_is_done_twice(name: str, tmp_path: Path) -> None:
    games: list[TableGame] = []

    def make() -> TableGame:
        games.append(saturating(9, n_images=1))
        return games[-1]

    found = interrupted(tmp_path / "state.npz", name, make, steps=2)
    assert len(games) >= 3
    # Every start of what is not all slopes asks for the two ends again.
    again = 0 if name == "owen" else 2 * (len(games) - 1)
    assert sum(game.evaluations for game in games) == found.evaluations + again


@dataclass
class Kept:
    """A state in memory."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    loads: int = 0

    def load(self, like: Arrays) -> Arrays | None:
        self.loads += 1
        return self.arrays or None

    def save(self, arrays: Arrays) -> None:
        self.arrays = {name: array.copy() for name, array in arrays.items()}


@pytest.mark.parametrize("name", GAMES)
def test_a_run_that_was_done_is_not_done_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the last step and the result."""
    state = Kept()
    made = create(name, budget=budget_of(name, NEVER), seed=1)
    expected = made.estimate(GAMES[name](), state=state)
    seen: list[int] = []
    found = made.estimate(GAMES[name](), lambda stage, done, total: seen.append(done), state=state)
    assert_same(found, expected)
    assert not seen
    assert state.loads == 2


@dataclass
class Slow(TableGame):
    """Every request takes ten seconds."""

    seconds: float = 0.0

    def values(self, coalitions: torch.Tensor) -> torch.Tensor:
        self.seconds += 10
        return super().values(coalitions)

    def slopes(self, gates: torch.Tensor) -> torch.Tensor:
        self.seconds += 10
        return super().slopes(gates)


@pytest.mark.parametrize("name", [name for name in PROMISES if name != "exact"])
def test_the_time_that_was_spent_counts(name: str) -> None:
    """A run that had its time is taken up only to say so."""
    state = Kept()
    slow = Slow(9, saturating(9, n_images=2).formula)
    made = create(name, budget=None, seed=1)
    stopping = Stopping(seconds=25.0, clock=lambda: slow.seconds)
    expected = made.estimate(slow, state=state, stopping=stopping)
    assert expected.stopped == "seconds"
    # Another process's clock starts anywhere.
    slow = Slow(9, slow.formula, seconds=1e6)
    found = made.estimate(slow, state=state, stopping=stopping)
    assert_same(found, expected)
