"""Looking ahead to a repair: what a unit is worth counts by what a refit cannot make up for.

Two games know half of it each. The masked game runs the whole network, so it sees how errors go on
from layer to layer, but nothing is ever repaired in it. The refit game knows what each layer can
make up for, but not what becomes of the rest. Where least squares will follow, the score is the
geometric mean of a unit's values in both; where nothing follows, it is the value in the masked
game. A ranking made for neither in particular keeps both games' values
(:meth:`graphprune.ranking.Ranking.ahead_of`).

Values in the refit game are of two kinds. Averages near the coalitions that pruning will visit rank
best on residual networks when much goes. But units that can stand in for each other are all cheap
on average, which costs a small plain network up to three points; as they go greedily, the last one
is dear.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from graphprune.criteria.request import RankRequest, Scored
from graphprune.estimators.removal import removal_orders
from graphprune.game.games import NetworkGame
from graphprune.game.moments import allowed_bytes, refit_bytes
from graphprune.game.refit_game import RefitGame
from graphprune.ranking import RefitScores, Scores, geometric_means

CHAINS = 4
"""Orders of removal along which marginals of the refit game are taken."""

LENGTH = 6
"""Coalitions along each of them."""

MEASURED = ("kl", "cross-entropy")
"""Values for which scores that look ahead have been measured."""


def looking_ahead(request: RankRequest, scored: Scored, game: NetworkGame) -> Scored:
    """Return values of the masked game together with those of the refit game, or made one.

    Args:
        request: What was asked: for which repair.
        scored: Values in the masked game; orders of removal follow them.
        game: That game.
    """
    if request.for_repair == "none":
        return replace(scored, for_repair="none")
    refits = RefitGame(
        game.evaluator, request.seed, request.progress, allowed_bytes(request.running)
    )
    if request.for_repair == "least-squares":
        stderr = np.zeros_like(scored.scores) if scored.stderr is None else scored.stderr
        scores, stderr = geometric_means(scored.scores, refits.greedy_values(), stderr)
        return replace(scored, scores=scores, stderr=stderr, for_repair="least-squares")
    if request.value not in MEASURED:
        return replace(scored, for_repair="none")
    needed = max((refit_bytes([reader]) for reader in refits.readers), default=0)
    allowed = allowed_bytes(request.running)
    if needed > allowed:
        notes = (*scored.notes, _too_large(needed, allowed))
        return replace(scored, for_repair="none", notes=notes)
    chains = _chains(request, scored.scores, game)
    return replace(scored, refit=RefitScores(*refits.values_along(chains)))


def _too_large(needed: int, allowed: int) -> str:
    return (
        f"scores look ahead to no repair: to refit the widest layer takes "
        f"{needed / 2**30:.1f} GiB, and half of --max-memory is {allowed / 2**30:.1f}; "
        "--for-repair least-squares takes them all the same"
    )


def _chains(request: RankRequest, scores: Scores, game: NetworkGame) -> list[Tensor]:
    """Return coalitions that pruning will come by, (LENGTH, n_units) Bool each.

    Args:
        request: What was asked.
        scores: By what units go early or late, (n_units,).
        game: The masked game; knows the costs and the band.
    """
    orders = removal_orders(scores, game)
    generator = torch.Generator().manual_seed(request.seed)
    return [orders.draw_chain(LENGTH, game.band, generator) for _ in range(CHAINS)]
