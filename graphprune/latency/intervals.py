"""Medians with a confidence interval that assumes nothing about how times are distributed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

LEVEL = 0.95
"""Confidence of every interval."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and where the true one lies with 95 % confidence.

    Args:
        median: Of what was measured.
        low: Lower end.
        high: Upper end.
        n: How many measurements there were.
    """

    median: float
    low: float
    high: float
    n: int


def median_interval(samples: npt.ArrayLike) -> Interval:
    """Return the median of samples with the interval between two of their order statistics.

    Of n independent samples the number below the true median is binomial(n, 1/2), whatever their
    distribution: the k-th lowest and the k-th highest enclose it with a known probability. Fewer
    than six samples cannot reach 95 %; the interval is then their whole range.

    Raises:
        ValueError: There are no samples.
    """
    ordered = np.sort(np.asarray(samples, np.float64))
    if not ordered.size:
        raise ValueError("no samples have no median")
    # At most this many samples lie below the lower end.
    below = max(int(binom.ppf((1 - LEVEL) / 2, ordered.size, 0.5)) - 1, 0)
    return Interval(
        median=float(np.median(ordered)),
        low=float(ordered[below]),
        high=float(ordered[ordered.size - 1 - below]),
        n=ordered.size,
    )
