"""Correspondence: which units of a cut network are which of the network that it was cut from.

Parameters keep their names, and their entries their order, so the entries of every parameter tell.
A unit of the one is a unit of the other, unless cutting has changed what is coupled (whole heads
became the better choice than columns of heads, say): then scores are shared out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphprune.coalition import stays
from graphprune.graph import DependencyGraph, Kept
from graphprune.ranking import Scores

Pairs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Correspondence:
    """Units of two networks that are the same or overlap.

    Args:
        pairs: (n_pairs, 2): a unit of the smaller network, a unit of the original.
        n_original: Units of the original.
    """

    pairs: Pairs
    n_original: int

    @property
    def known(self) -> Kept:
        """Units of the original that are units of the smaller network, too, (n_original,)."""
        found = np.zeros(self.n_original, bool)
        found[self.pairs[:, 1]] = True
        return found

    def carried_back(self, scores: Scores) -> Scores:
        """Return scores of the smaller network's units as scores of the original's.

        A unit's score is shared out evenly where it is several of the original, and shares add up.
        Units that the smaller network does not have score zero.
        """
        smaller, original = self.pairs.T
        shares = scores[smaller] / np.bincount(smaller, minlength=scores.size)[smaller]
        found: Scores = np.zeros(self.n_original)
        np.add.at(found, original, shares)
        return found


def correspondence(graph: DependencyGraph, kept: Kept, smaller: DependencyGraph) -> Correspondence:
    """Match the units of a network with those of a cut one.

    Args:
        graph: The original.
        kept: What was kept of it, (n_units,) Bool.
        smaller: The cut network, traced.
    """
    found = [np.zeros((0, 2), np.int64)]
    for name, by_dim in smaller.parameter_units.items():
        along = graph.parameter_units.get(name, {})
        for dim, own in by_dim.items():
            left = along[dim][stays(along[dim], kept)] if dim in along else own[:0]
            if left.size == own.size:
                both = (own >= 0) & (left >= 0)
                found.append(np.stack([own[both], left[both]], 1))
    return Correspondence(np.unique(np.concatenate(found), axis=0), graph.n_units)
