"""What ``auto`` takes: an estimator for a game, by its size, its kind and the budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphprune.estimators.semivalues import Semivalue

SMALL = 8
"""Games of up to this many players are enumerated where the budget pays for it."""

WIDE = 16
"""From this many players on gradients help coalitions, where they do not mislead."""

FEW_READERS = 4
"""Gate gradients mislead where more layers than this read the players, one after the other."""

ONLY_GRADIENTS = 4
"""Evaluations per player below which coalitions tell less than the gradients they would replace."""

MOSTLY_GRADIENTS = 8
"""Evaluations per player below which coalitions tell less than gradients, even misleading ones."""


@dataclass(frozen=True, kw_only=True)
class GameKind:
    """What is known of a game before it is played.

    Args:
        n_players: Number of players.
        readers: Layers that read the players: one in an interior, many on a residual stream.
        sloped: The worth has gate gradients.
        unions: Players form unions.
    """

    n_players: int
    readers: int
    sloped: bool
    unions: bool = False


def chosen_estimator(kind: GameKind, budget: int | None, semivalue: Semivalue) -> str:
    """Return the name of the estimator with the least error for its cost, as measured.

    ``benchmarks/shapley.py`` makes the measurements.

    Args:
        kind: The game.
        budget: Coalitions allowed; None for a default.
        semivalue: What is estimated.
    """
    if kind.unions:
        return "antithetic"
    coalitions = kind.n_players + 1 if semivalue.low == 1 else 1 << kind.n_players
    if semivalue.low == 1 or (kind.n_players <= SMALL and (budget is None or coalitions <= budget)):
        return "exact"
    if not kind.sloped:
        return "gaussian-process"
    share = math.inf if budget is None else budget / kind.n_players
    if share < ONLY_GRADIENTS:
        return "owen"
    helped = kind.readers <= FEW_READERS or share < MOSTLY_GRADIENTS
    return "gaussian-process-gradients" if helped and kind.n_players >= WIDE else "gaussian-process"
