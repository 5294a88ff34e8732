"""When an estimate is good enough, or has taken long enough."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from graphprune.distributed import ALONE, Ranks

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """What ends an estimate before its budget is spent.

    Args:
        seconds: Time that it may take; the least evidence that makes an estimate is gathered even
            if it takes longer.
        stability: Stability to be reached, see :func:`stability_of`.
        aggregate: How per-image values become the scores whose stability counts.
        ranks: The processes that share the work; the leading one's clock counts.
        clock: Tells the time in seconds.
    """

    seconds: float | None = None
    stability: float | None = None
    aggregate: str = "mean"
    ranks: Ranks = ALONE
    clock: Callable[[], float] = time.monotonic

    @property
    def asked(self) -> bool:
        """Whether anything but the budget may end the work."""
        return self.seconds is not None or self.stability is not None

    def expired(self, elapsed: float) -> bool:
        """Whether the time is up; the same answer on every rank."""
        return self.seconds is not None and self.ranks.agree(elapsed >= self.seconds)

    def stable(self, stability: float) -> bool:
        """Whether a ranking is as stable as asked for; the same answer on every rank."""
        return self.stability is not None and self.ranks.agree(stability >= self.stability)


NEVER = Stopping()

GROWTH = 1.25
"""Between two looks at the stability the evidence grows by this factor."""


def looks(fewest: int) -> Iterator[int]:
    """Yield the amounts of evidence at which the stability is looked at, from ``fewest`` on."""
    amount = fewest
    while True:
        yield amount
        amount = max(amount + 1, math.ceil(amount * GROWTH))


def stability_of(one: Floats, other: Floats) -> float:
    """Return how stable scores are, from those that each half of the evidence gives.

    The rank correlation r of the two halves is that of runs of half the length. Spearman and
    Brown's formula ``2 r / (1 + r)`` takes it to the full length: it is the rank correlation that
    another run like this one, with another seed, would have with this one. The correlation with the
    scores that unlimited evidence gives is higher, about its square root.

    Args:
        one: Scores of one half, (n_players,).
        other: Scores of the other half.

    References:
        Spearman (1910), doi:10.1111/j.2044-8295.1910.tb00206.x; Brown (1910),
        doi:10.1111/j.2044-8295.1910.tb00207.x.
    """
    ranks = np.stack([rankdata(one), rankdata(other)])
    centred = ranks - ranks.mean(1, keepdims=True)
    norms = np.sqrt(np.square(centred).sum(1))
    if not norms.all():
        # All scores of a half are equal: the ranking says nothing, and always the same.
        return 1.0 if not norms.any() else 0.0
    correlation = min(float(centred[0] @ centred[1] / norms.prod()), 1.0)
    return 2 * correlation / (1 + correlation) if correlation > 0 else correlation
