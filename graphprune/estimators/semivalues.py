"""Semivalues: which coalitions count for a player's value, and how much.

A semivalue averages a player's marginals, first over the coalitions of each size and then over
sizes. Those that make sense for any number of players are mixtures of *binomial* ones: the others
are in, each with probability q, and q is drawn from some distribution. Here that is uniform between
two bounds:

=================  ============  ====================================================
name               q             what counts
=================  ============  ====================================================
``shapley``        0 to 1        every size of coalition alike
``banzhaf``        1/2           every coalition alike
``leave-one-out``  1             the grand coalition without the player
``upper-shapley``  1/2 to 1      coalitions that keep half of the players or more, about
=================  ============  ====================================================

``upper-shapley:0.7`` begins at 0.7: the value near the networks that pruning 30 % leaves.

References:
    Dubey, Neyman and Weber (1981), Value theory without efficiency, doi:10.1287/moor.6.1.122.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from graphprune.errors import OptionError

Floats = npt.NDArray[np.float64]

_FEWEST_POINTS = 40


@dataclass(frozen=True)
class Semivalue:
    """A mixture of binomial semivalues.

    Args:
        name: What the option takes.
        low: Least probability with which another player is in, in [0, 1].
        high: Largest.
    """

    name: str
    low: float
    high: float

    @property
    def efficient(self) -> bool:
        """Whether values add up to what the grand coalition adds to the empty one."""
        return (self.low, self.high) == (0.0, 1.0)

    def points(self, n_players: int) -> tuple[Floats, Floats]:
        """Return probabilities q and their weights, exact for all functions of a coalition's size.

        A mean over q is a polynomial of degree ``n_players - 1``, which Gauss-Legendre points
        integrate exactly.
        """
        if self.low == self.high:
            return np.array([self.low]), np.ones(1)
        places, weights = np.polynomial.legendre.leggauss(max(_FEWEST_POINTS, n_players // 2 + 1))
        return self.low + (places + 1) / 2 * (self.high - self.low), weights / 2

    def size_shares(self, n_players: int) -> Floats:
        """Return how much marginals at coalitions of each size count, (n_players,); their sum is 1.

        Entry s is that of coalitions of s other players.
        """
        if self.efficient:
            return np.full(n_players, 1 / n_players)
        points, weights = self.points(n_players)
        sizes = np.arange(n_players)[:, None]
        shares: Floats = binom.pmf(sizes, n_players - 1, points[None]) @ weights
        return shares


SHAPLEY = Semivalue("shapley", 0.0, 1.0)

SEMIVALUES = {
    semivalue.name: semivalue
    for semivalue in (
        SHAPLEY,
        Semivalue("banzhaf", 0.5, 0.5),
        Semivalue("leave-one-out", 1.0, 1.0),
        Semivalue("upper-shapley", 0.5, 1.0),
    )
}
"""Semivalues by name."""


def semivalue_named(name: str) -> Semivalue:
    """Return a semivalue by name; ``upper-shapley:0.7`` begins at 0.7.

    Raises:
        OptionError: There is none of that name, or it cannot begin there.
    """
    known, colon, start = name.partition(":")
    if known not in SEMIVALUES or (colon and known != "upper-shapley"):
        allowed = ", ".join(SEMIVALUES)
        raise OptionError(f"semivalue {name!r} is none of {allowed}, upper-shapley:START")
    return Semivalue(name, _start(start), 1.0) if colon else SEMIVALUES[known]


def _start(text: str) -> float:
    try:
        start = float(text)
    except ValueError:
        start = -1.0
    if not 0 <= start < 1:
        raise OptionError(
            f"upper-shapley cannot begin at {text!r}",
            hint="give the least share of kept units, e.g. upper-shapley:0.7",
        )
    return start
