"""Refit error: what a unit's readers lose even after they are refitted without it."""

from __future__ import annotations

from graphprune.criteria.base import criterion
from graphprune.criteria.request import RankRequest, Scored
from graphprune.game.evaluation import Evaluator
from graphprune.game.moments import allowed_bytes
from graphprune.game.refit_game import RefitGame


@criterion("obs", needs_data=True)
def obs(request: RankRequest) -> Scored:
    """Least-squares refit error, greedy backward, summed over the layers that read the unit.

    Layer by layer the unit goes whose loss the refitted rest mends best, then the next. Its score
    is half the mean squared error that this adds, largest so far. Output channels count by the root
    mean square of the likelihood's slope in them, so that errors of different layers add up.
    Label-free. It foresees a repair by least squares and is poor without one.

    Units that no layer with a weight of its own reads (queries and keys, say) have nothing to be
    refitted: they score the squared slope in their gate instead, scaled as slopes in output
    channels are.

    References:
        Hassibi and Stork (1992), Second order derivatives for network pruning: optimal brain
        surgeon; He, Zhang and Sun (2017), arXiv 1707.06168 (reconstruction of the next layer).
    """
    evaluator = Evaluator(request.graph, request.images, running=request.running)
    allowed = allowed_bytes(request.running)
    game = RefitGame(evaluator, request.seed, request.progress, allowed)
    return Scored(scores=game.greedy_values(), evaluations=1)
