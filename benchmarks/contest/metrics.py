"""How far an estimate is from the reference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]

LOWEST = 0.3
"""Share of the units that pruning would remove."""


def relative_error(found: Floats, reference: Floats) -> float:
    """Return the mean squared error in units of the reference's variance over the players."""
    return float(np.square(found - reference).mean() / reference.var())


def spearman(found: Floats, reference: Floats) -> float:
    """Return the rank correlation; 0 where all players are found alike."""
    ranks = np.stack([rankdata(found), rankdata(reference)])
    if (ranks.std(1) == 0).any():
        return 0.0
    return float(np.corrcoef(ranks)[0, 1])


def overlap(found: Floats, reference: Floats) -> float:
    """Return which share of the lowest 30 % is found among the lowest 30 %."""
    count = max(round(LOWEST * reference.size), 1)
    lowest = [set(np.argsort(x, kind="stable")[:count].tolist()) for x in (found, reference)]
    return len(lowest[0] & lowest[1]) / count


def magnitudes(per_image: Floats) -> Floats:
    """Return the mean absolute value over images, (n_players,)."""
    scores: Floats = np.abs(per_image).mean(0)
    return scores
