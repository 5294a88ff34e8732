"""Leave-one-out: what the network loses when a unit alone is absent."""

from __future__ import annotations

import numpy as np
import torch

from graphprune.criteria.base import criterion
from graphprune.criteria.request import RankRequest, Scored
from graphprune.errors import OptionError
from graphprune.estimators.base import Floats, aggregate
from graphprune.game.games import GroupGame

_CHUNK = 16


@criterion("leave-one-out", needs_data=True)
def leave_one_out(request: RankRequest) -> Scored:
    """Worth of the whole network minus its worth without the unit; by default the divergence.

    Mean over images of the magnitude, or the aggregate asked for. The semivalue that looks at the
    grand coalition only, the same in both games.

    Raises:
        OptionError: An estimator or a budget is asked for; nothing is estimated.
    """
    if request.estimator != "auto" or request.budget is not None:
        raise OptionError(
            "criterion 'leave-one-out' evaluates every unit once and takes no estimator or budget",
            hint="leave out --estimator and --budget, or use --criterion shapley",
        )
    value, how = request.value or "kl", request.aggregate or "magnitude"
    scores, stderr = (np.zeros(request.graph.n_units) for _ in range(2))
    evaluations = 0
    for group in request.graph.groups:
        game = GroupGame(
            request.graph, group, request.images, value, request.running, request.ranks
        )
        losses = _losses(game, request, group.first)
        scores[group.span], stderr[group.span] = aggregate(losses, how)
        evaluations += game.evaluations
    return Scored(
        scores=scores,
        stderr=stderr,
        game="network" if request.game is None else request.game,
        value=value,
        aggregate=how,
        evaluations=evaluations,
    )


def _losses(game: GroupGame, request: RankRequest, first: int) -> Floats:
    """Return v(N) - v(N - i) on every image, (n_images, n_players)."""
    n_players = game.n_players
    whole = game.values(torch.ones(1, n_players, dtype=torch.bool)).numpy()
    rows = []
    for start in range(0, n_players, _CHUNK):
        without = ~torch.eye(n_players, dtype=torch.bool)[start : start + _CHUNK]
        rows.append(whole - game.values(without).numpy())
        request.progress("units", first + start + len(without), request.graph.n_units)
    losses: Floats = np.concatenate(rows).T
    return losses
