"""Random scores: the control that every criterion must beat."""

from __future__ import annotations

import numpy as np

from graphprune.criteria.base import criterion
from graphprune.criteria.request import RankRequest, Scored


@criterion("random", needs_data=False)
def random(request: RankRequest) -> Scored:
    """Uniform random scores in [0, 1)."""
    generator = np.random.default_rng(request.seed)
    return Scored(scores=generator.random(request.graph.n_units))
