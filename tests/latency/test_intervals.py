"""Intervals of medians cover the true median as often as they say, whatever the distribution."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.latency import median_interval


@pytest.mark.parametrize("n", [6, 11, 40])
def test_intervals_cover(n: int) -> None:
    generator = np.random.default_rng(0)
    # Skewed and with outliers, as times are; the median of an exponential is log 2.
    found = [median_interval(generator.exponential(size=n)) for _ in range(2000)]
    covered = np.mean([interval.low <= np.log(2) <= interval.high for interval in found])
    # At least 95 %, in the steps that order statistics allow.
    assert 0.95 - 3 * np.sqrt(0.05 * 0.95 / 2000) <= covered <= 0.995


def test_few_samples_give_their_range() -> None:
    found = median_interval([3.0, 1.0, 2.0])
    assert (found.median, found.low, found.high, found.n) == (2.0, 1.0, 3.0, 3)


def test_no_samples() -> None:
    with pytest.raises(ValueError, match="no samples"):
        median_interval([])
