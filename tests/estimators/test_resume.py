"""Interrupted at any step and taken up again, an estimate is what it would have been."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from graphprune.checkpoint import StateStore
from graphprune.data import as_batches
from graphprune.estimators import ShapleyEstimate, create
from graphprune.game import evaluation
from graphprune.game.games import NetworkGame
from graphprune.graph import DependencyGraph
from tests.estimators.table import TableGame, pairs
from tests.helpers import batch_of
from tests.traced import traced


class Killed(BaseException):
    """Not an Exception, as a KeyboardInterrupt is not."""


@cache
def network() -> DependencyGraph:
    return traced("Residual")


def network_game() -> NetworkGame:
    return NetworkGame(network(), as_batches(batch_of(network().example_inputs, 5, 0)), "kl")


def interrupted(
    path: Path, name: str, game: Callable[[], TableGame | NetworkGame], steps: int
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
            return create(name, budget=None, seed=1).estimate(game(), kill, part)
        except Killed:
            assert path.exists()


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("exact", lambda: pairs(11, n_images=3)),
        ("permutation", lambda: pairs(6, n_images=3)),
        ("gradients", network_game),
    ],
)
def test_the_same_to_the_last_bit(
    name: str,
    make: Callable[[], TableGame | NetworkGame],
    steps: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "MAX_BATCH", 2)
    expected = create(name, budget=None, seed=1).estimate(make())
    found = interrupted(tmp_path / "state.npz", name, make, steps)
    np.testing.assert_array_equal(found.per_image, expected.per_image)
    np.testing.assert_array_equal(found.stderr, expected.stderr)
    assert found.evaluations == expected.evaluations
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


def test_nothing_is_done_twice(tmp_path: Path) -> None:
    games: list[TableGame] = []

    def make() -> TableGame:
        games.append(pairs(6, n_images=1))
        return games[-1]

    interrupted(tmp_path / "state.npz", "permutation", make, steps=1)
    # Five orders of five inner coalitions; every start asks for the two ends again.
    assert sum(game.evaluations for game in games) == 5 * 5 + 2 * len(games)
