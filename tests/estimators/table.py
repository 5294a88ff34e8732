"""Games given by a formula, whose values are known in closed form or by enumeration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, groupby, permutations

import numpy as np
import torch
from scipy.special import beta, betainc
from torch import Tensor

from graphprune.estimators.owen import SLOPE_COST
from graphprune.estimators.semivalues import SHAPLEY, Semivalue

Formula = Callable[[np.ndarray], np.ndarray]


@dataclass
class TableGame:
    """A game of a formula: (coalitions, players) Bool -> (coalitions, images)."""

    n_players: int
    formula: Formula
    unions: np.ndarray | None = None
    evaluations: int = 0
    asked: list[np.ndarray] = field(default_factory=list)

    @cached_property
    def n_images(self) -> int:
        return self.formula(np.zeros((1, self.n_players), bool)).shape[1]

    def values(self, coalitions: Tensor) -> Tensor:
        kept = coalitions.numpy().astype(bool)
        assert kept.shape[1:] == (self.n_players,)
        self.evaluations += len(kept)
        self.asked.append(kept)
        return torch.from_numpy(np.asarray(self.formula(kept), np.float64))

    def slopes(self, gates: Tensor) -> Tensor:
        """Slopes of the multilinear extension: a player's mean marginal where others are drawn."""
        opened = gates.double().numpy()
        assert opened.shape[1:] == (self.n_images, self.n_players)
        assert opened.min() >= 0
        assert opened.max() <= 1
        self.evaluations += SLOPE_COST * len(opened)
        self.asked.append(opened.reshape(-1, self.n_players))
        shares = [opened[:, :, player, None] for player in range(self.n_players)]
        worth = [self.table.reshape(-1, self.n_images).T[None]]
        for share in shares:
            without, with_it = _halves(worth[-1])
            worth.append(without * (1 - share) + with_it * share)
        # Backwards: how likely the coalitions of those players are that were folded before.
        slopes, likely = np.empty_like(opened), np.ones((1, 1, 1))
        for player in reversed(range(self.n_players)):
            without, with_it = _halves(worth[player])
            slopes[:, :, player] = ((with_it - without) * likely).sum(2)
            share = shares[player]
            likely = np.concatenate([likely * (1 - share), likely * share], axis=2)
        return torch.from_numpy(slopes)

    def image(self, number: int) -> TableGame:
        """The game of one image alone."""
        return TableGame(self.n_players, lambda kept: self.formula(kept)[:, [number]], self.unions)

    @cached_property
    def table(self) -> np.ndarray:
        """Worth of all coalitions, (2,) * players + (images,); not counted."""
        assert self.n_players <= 14
        worth = self.formula(all_coalitions(self.n_players)).astype(np.float64)
        return worth.reshape((2,) * self.n_players + (-1,))


def _halves(worth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Worth of coalitions without and with the first of the players that are left."""
    half = worth.shape[2] // 2
    return worth[:, :, :half], worth[:, :, half:]


def all_coalitions(n_players: int) -> np.ndarray:
    """All coalitions; player 0 changes last."""
    return np.indices((2,) * n_players).reshape(n_players, 1 << n_players).T.astype(bool)


# ---- references that know nothing of the estimators ---------------------------------------------


def size_weight(semivalue: Semivalue, n_players: int, size: int) -> float:
    """How much each marginal at a coalition of ``size`` others counts: an incomplete beta."""
    low, high, others = semivalue.low, semivalue.high, n_players - 1 - size
    if low == high:
        return low**size * (1 - low) ** others
    shares = betainc(size + 1, others + 1, [low, high])
    return float(np.diff(shares)[0] * beta(size + 1, others + 1) / (high - low))


def enumerated(game: TableGame, semivalue: Semivalue = SHAPLEY) -> np.ndarray:
    """Values by definition, (images, players): the sum of weighted marginals."""
    n_players = game.n_players
    sizes = all_coalitions(n_players - 1).sum(1)
    each = [size_weight(semivalue, n_players, size) for size in range(n_players)]
    weights = np.array(each)[sizes]
    found = [
        weights @ np.diff(game.table, axis=player).reshape(len(sizes), -1)
        for player in range(n_players)
    ]
    return np.stack(found, axis=1)


def over_orders(game: TableGame, unions: Sequence[int] | None = None) -> np.ndarray:
    """Mean marginals over all orders, (images, players); those that keep unions together."""
    n_players = game.n_players
    total, count = np.zeros((game.n_images, n_players)), 0
    for order in permutations(range(n_players)):
        if unions is not None and not contiguous([unions[player] for player in order]):
            continue
        kept = np.zeros((n_players + 1, n_players), bool)
        for place, player in enumerate(order):
            kept[place + 1 :, player] = True
        total[:, order] += np.diff(game.formula(kept), axis=0).T
        count += 1
    return total / count


def contiguous(labels: Sequence[int]) -> bool:
    """Whether equal labels follow each other."""
    return len([label for label, _ in groupby(labels)]) == len(set(labels))


# ---- games --------------------------------------------------------------------------------------


def additive(weights: np.ndarray) -> TableGame:
    """Worth is the sum of the members' weights, (images, players); they are the values."""
    return TableGame(weights.shape[1], lambda kept: kept @ weights.T)


def unanimity(n_players: int, needed: Sequence[int]) -> TableGame:
    """Worth 1 if all of ``needed`` are in; each of them is worth an equal share."""
    return TableGame(n_players, lambda kept: kept[:, list(needed)].all(1)[:, None])


def unanimity_values(n_players: int, needed: Sequence[int]) -> np.ndarray:
    """Equal shares."""
    values = np.zeros(n_players)
    values[list(needed)] = 1 / len(needed)
    return values


def glove(n_players: int) -> TableGame:
    """Player 0 has the only left glove, all others have right ones; a pair is worth 1."""
    return TableGame(n_players, lambda kept: (kept[:, 0] & kept[:, 1:].any(1))[:, None])


def glove_values(n_players: int) -> np.ndarray:
    """The left one needs any other before it; what remains is shared."""
    values = np.full(n_players, 1 / (n_players * (n_players - 1)))
    values[0] = (n_players - 1) / n_players
    return values


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
        return kept @ linear.T + np.einsum("ki,kj,mij->km", kept, kept, quadratic, optimize=True)

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


def cubic(n_players: int, n_images: int, seed: int = 0) -> TableGame:
    """Weights for players and for triples; reversed orders do not cancel what triples add."""
    linear, triples, weights = cubic_weights(n_players, n_images, seed)
    return TableGame(n_players, lambda kept: kept @ linear.T + kept[:, triples].all(2) @ weights.T)


def cubic_values(n_players: int, n_images: int, seed: int = 0) -> np.ndarray:
    """Members of a triple share its weight, (images, players)."""
    linear, triples, weights = cubic_weights(n_players, n_images, seed)
    values = linear.copy()
    for triple, weight in zip(triples, weights.T, strict=True):
        values[:, triple] += weight[:, None] / 3
    return values


def cubic_weights(
    n_players: int, n_images: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    triples = np.array(list(combinations(range(n_players), 3)))
    triples = triples[rng.permutation(len(triples))[: 2 * n_players]]
    return (
        rng.normal(size=(n_images, n_players)),
        triples,
        rng.normal(size=(n_images, len(triples))),
    )


def saturating(n_players: int, n_images: int, seed: int = 0) -> TableGame:
    """Like minus a network's loss: players help less the more are in, and work together."""
    rng = np.random.default_rng(seed)
    strength = rng.gamma(1.0, size=(n_images, n_players))
    strength *= 3 / strength.sum(1, keepdims=True)
    mixed = rng.normal(size=(n_images, n_players, 4)) / np.sqrt(n_players)

    def formula(kept: np.ndarray) -> np.ndarray:
        together = np.tanh(np.einsum("ki,mij->kmj", kept.astype(float), mixed)).sum(2)
        return 0.2 * together - np.exp(-(kept @ strength.T))

    return TableGame(n_players, formula)


def noise(n_players: int, n_images: int, seed: int = 0) -> TableGame:
    """A random worth for every coalition: all values are nearly alike, nothing can be ranked."""
    table = np.random.default_rng(seed).normal(size=(1 << n_players, n_images))
    return TableGame(n_players, lambda kept: table[kept @ (1 << np.arange(n_players))])
