"""Games given by a formula, whose Shapley values are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

Formula = Callable[[np.ndarray], np.ndarray]


@dataclass
class TableGame:
    """A game of a formula: (coalitions, players) Bool -> (coalitions, images)."""

    n_players: int
    formula: Formula
    unions: np.ndarray | None = None
    evaluations: int = 0
    asked: list[np.ndarray] = field(default_factory=list)

    def values(self, coalitions: Tensor) -> Tensor:
        kept = coalitions.numpy().astype(bool)
        assert kept.shape[1:] == (self.n_players,)
        self.evaluations += len(kept)
        self.asked.append(kept)
        return torch.from_numpy(np.asarray(self.formula(kept), np.float64))


def additive(weights: np.ndarray) -> TableGame:
    """Worth is the sum of the members' weights, (images, players); they are the values."""
    return TableGame(weights.shape[1], lambda kept: kept @ weights.T)


def unanimity(n_players: int, needed: Sequence[int]) -> TableGame:
    """Worth 1 if all of ``needed`` are in; each of them is worth an equal share."""
    return TableGame(n_players, lambda kept: kept[:, list(needed)].all(1)[:, None])


def airport(costs: np.ndarray) -> TableGame:
    """Worth is the largest cost of a member (the runway that its plane needs)."""
    return TableGame(costs.size, lambda kept: (kept * costs).max(1, initial=0.0)[:, None])


def airport_values(costs: np.ndarray) -> np.ndarray:
    """Every stretch of the runway is paid for equally by those who need it."""
    order = np.argsort(costs)
    steps = np.diff(costs[order], prepend=0.0) / np.arange(costs.size, 0, -1)
    values = np.empty_like(costs)
    values[order] = np.cumsum(steps)
    return values


def pairs(n_players: int, n_images: int, seed: int = 0) -> TableGame:
    """A quadratic game with random weights; its values are ``linear + half the pair weights``."""
    linear, quadratic = pair_weights(n_players, n_images, seed)

    def formula(kept: np.ndarray) -> np.ndarray:
        kept = kept.astype(float)
        return kept @ linear.T + np.einsum("ki,kj,mij->km", kept, kept, quadratic)

    return TableGame(n_players, formula)


def pair_values(n_players: int, n_images: int, seed: int = 0) -> np.ndarray:
    """Values of :func:`pairs`, (images, players)."""
    linear, quadratic = pair_weights(n_players, n_images, seed)
    return linear + quadratic.sum(2)


def pair_weights(n_players: int, n_images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    linear = rng.normal(size=(n_images, n_players))
    quadratic = rng.normal(size=(n_images, n_players, n_players))
    quadratic = (quadratic + quadratic.transpose(0, 2, 1)) / 2
    quadratic[:, np.arange(n_players), np.arange(n_players)] = 0
    return linear, quadratic
