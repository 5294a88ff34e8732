"""Coalitions for regression: pairs of a coalition and its complement, all sizes alike.

An additive game sees most in coalitions of extreme size, a game of interactions in those of medium
size; leverage scores say that every *size* deserves the same number of coalitions. A coalition and
its complement go together, since that cancels what is even in membership. None is drawn twice, so
that small sizes run out and what is left goes to the others.

References:
    Musco and Witter (2024), Provably accurate Shapley value estimation via leverage score sampling,
    arXiv 2410.01917.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations, islice
from math import comb

import numpy as np
import numpy.typing as npt

from graphprune.errors import BudgetError

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_FEW = 20_000
"""Coalitions of one size that are listed and shuffled; of more, some are drawn."""

PER_BLOCK = 4
"""Pairs in a block."""


@dataclass
class PairDesign:
    """Blocks of pairs, drawn without replacement.

    Args:
        n_players: Players; at least 2.
        n_blocks: Blocks that the budget pays for; fewer if there are no more coalitions.
        seed: Of all draws.
        fewest: Blocks that an estimate takes at least.
    """

    n_players: int
    n_blocks: int
    seed: int
    fewest: int = 2
    stage: str = "pairs of coalitions"
    _blocks: list[Bools] = field(default_factory=list, init=False)
    _pairs: Iterator[Bools] = field(init=False)

    def __post_init__(self) -> None:
        self._pairs = _pairs(self.n_players, np.random.default_rng(self.seed))
        there_are = -(-((1 << (self.n_players - 1)) - 1) // PER_BLOCK)
        self.n_blocks = min(self.n_blocks, there_are)
        self.fewest = min(self.fewest, self.n_blocks)

    def block(self, number: int) -> Bools:
        """Return the coalitions of a block, (up to 8, n_players)."""
        while len(self._blocks) <= number:
            drawn = list(islice(self._pairs, PER_BLOCK))
            self._blocks.append(np.concatenate(drawn))
        return self._blocks[number]


def pair_design(
    n_players: int, budget: int | None, seed: int, *, longer: bool, per_player: int = 8
) -> PairDesign:
    """Return a design for a budget.

    Args:
        n_players: Players.
        budget: Coalitions that may be asked for, the two ends included; None for a default.
        seed: Of all draws.
        longer: Something else than the budget will end the work.
        per_player: Coalitions per player where no budget is set.

    Raises:
        BudgetError: It does not pay for two blocks, or for all coalitions of a smaller game.
    """
    size = 2 * PER_BLOCK
    if budget is None:
        coalitions = max(n_players * (_LONGEST_PER_PLAYER if longer else per_player), 8 * size)
    else:
        coalitions = budget - 2
    least = min(2 * size, (1 << n_players) - 2) if n_players < 8 else 2 * size
    if coalitions < least:
        raise BudgetError(
            f"{budget} coalitions are too few to tell {n_players} players apart",
            hint=f"allow at least {least + 2}",
        )
    blocks = coalitions // size
    if n_players < 16 and coalitions >= (1 << n_players) - 2:
        blocks = 1 << n_players
    return PairDesign(n_players, blocks, seed)


_LONGEST_PER_PLAYER = 50


def _pairs(n_players: int, generator: np.random.Generator) -> Iterator[Bools]:
    """Yield pairs of a coalition and its complement until there are no more, (2, n_players)."""
    left = {size: _of_size(n_players, size, generator) for size in range(1, n_players // 2 + 1)}
    turn = 0
    while left:
        # Both coalitions of a pair have the middle size, so it takes every other turn.
        sizes = [size for size in left if 2 * size < n_players or turn % 2 or len(left) == 1]
        for size in generator.permutation(sizes).tolist():
            members = next(left[size], None)
            if members is None:
                del left[size]
            else:
                yield np.stack([members, ~members])
        turn += 1


def _of_size(n_players: int, size: int, generator: np.random.Generator) -> Iterator[Bools]:
    """Yield coalitions of one size in random order; of the middle size those with player 0."""
    middle = 2 * size == n_players
    there_are = comb(n_players, size) // (2 if middle else 1)
    if there_are <= _FEW:
        for number in generator.permutation(there_are).tolist():
            yield _members(n_players, _listed(n_players, size)[number])
        return
    seen: set[bytes] = set()
    while len(seen) < there_are:
        members = _members(n_players, generator.permutation(n_players)[:size])
        members = ~members if middle and not members[0] else members
        if members.tobytes() not in seen:
            seen.add(members.tobytes())
            yield members


@lru_cache(maxsize=32)
def _listed(n_players: int, size: int) -> list[tuple[int, ...]]:
    # In lexicographic order, so that those with player 0 come first.
    return list(combinations(range(n_players), size))


def _members(n_players: int, players: tuple[int, ...] | npt.NDArray[np.int64]) -> Bools:
    members = np.zeros(n_players, bool)
    members[list(players)] = True
    return members


def inclusion(kept: Bools) -> Floats:
    """Return the probability with which each coalition of a table was drawn, (n_coalitions,)."""
    n_players = kept.shape[1]
    counts = np.bincount(kept.sum(1), minlength=n_players + 1)
    # A quotient of integers: there may be more coalitions than a float can count.
    shares = [min(int(count) / comb(n_players, size), 1.0) for size, count in enumerate(counts)]
    found: Floats = np.array(shares)[kept.sum(1)]
    return found
