"""Reference values: very many antithetic orders, kept in a file and continued from there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.contest.metrics import Floats, magnitudes

_SEED = 20_060_1795
_SAVE_EVERY = 20


class Values(Protocol):
    """A game, as far as the reference needs it."""

    n_players: int

    def values(self, coalitions: Tensor) -> Tensor:
        """Return (n_coalitions, n_images) for (n_coalitions, n_players) Bool."""


@dataclass(frozen=True)
class Reference:
    """What estimates are compared with.

    Args:
        values: Shapley values of the mean performance, (n_players,).
        scores: Mean magnitude over images, (n_players,).
        floor: The reference's own expected error, as :func:`contest.metrics.relative_error` counts.
        evaluations: Coalitions it took.
    """

    values: Floats
    scores: Floats
    floor: float
    evaluations: int


def reference(game: Values, evaluations: int, file: Path) -> Reference:
    """Return the reference of a game.

    Args:
        game: The game.
        evaluations: How many coalitions to play, about.
        file: Where what was played is kept; more is played when it is not enough.
    """
    n_players = game.n_players
    n_pairs = max(evaluations // (2 * max(n_players - 1, 1)), 2)
    known = dict(np.load(file)) if file.exists() else {}
    total: Floats = known.get("total", np.zeros(()))
    means = list(known.get("means", ()))
    for number in range(len(means), n_pairs):
        marginals = _pair(game, number)
        total = total + marginals
        means.append(marginals.mean(0))
        if len(means) % _SAVE_EVERY == 0 or len(means) == n_pairs:
            _save(file, total, np.array(means))
    values = np.mean(means, 0)
    squares = np.var(means, 0, ddof=1) / len(means)
    scores = magnitudes(total / len(means))
    played = len(means) * 2 * (n_players - 1)
    return Reference(values, scores, float(squares.mean() / values.var()), played)


def _pair(game: Values, number: int) -> Floats:
    """Return the mean marginals of an order and its reverse, (n_images, n_players)."""
    n_players = game.n_players
    order = np.random.default_rng([_SEED, number]).permutation(n_players)
    place = np.argsort(order)
    # Row k of the first half keeps the first k players, of the second half the last k.
    rows = np.arange(n_players + 1)[:, None]
    kept = np.concatenate([place[None] < rows, n_players - 1 - place[None] < rows])
    worth = game.values(torch.from_numpy(kept)).numpy()
    forward, backward = (
        np.diff(worth[: n_players + 1], axis=0),
        np.diff(worth[n_players + 1 :], axis=0),
    )
    marginals: Floats = (forward[place] + backward[n_players - 1 - place]).T / 2
    return marginals


def _save(file: Path, total: Floats, means: Floats) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.stem}.{os.getpid()}.npz")
    np.savez(unfinished, total=total, means=means)
    unfinished.replace(file)
