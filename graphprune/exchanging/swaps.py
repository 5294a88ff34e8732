"""Swaps: single units trade places, by the gradients of their gates where the plan stands.

One forward and two backward passes at what is kept tell of every unit of the network what it adds
there, or would add: first- and second-order terms in its gate, as in
:mod:`graphprune.estimators.gradients`, but at the one coalition that counts. The units that would
add most for what they cost come back, and selection under the same budget makes those pay that add
least. What a unit adds is taken in two ways: its mean over images, which is what the worth changes
by as far as the expansion holds; and its mean magnitude, which also spares units that help on some
images and hurt on others. Either fails on networks that the other one serves well, so they take
turns.

Expansions hold near where they were made. So few units come back at a time: half as many after
every plan that is worth less, more again after one that is worth more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from graphprune.cost import CostModel
from graphprune.exchanging.held import Held
from graphprune.game.games import NetworkGame
from graphprune.graph import Kept
from graphprune.ranking import Scores
from graphprune.seeds import seed_of

PASSES_OF_A_LOOK = 3
"""One forward pass that autograd follows, and two backward ones."""

_FIRST = 1 / 200
"""Share of the units that come back at first."""

_MOST = 1 / 8
"""Share of the units that come back at most."""

_GROWTH = 1.5
"""How many more come back after a plan that is worth more."""

_APART = 1e3
"""How far apart lie the scores of units that are absent, present, and to come back.

Costs change while units are selected, by less than that.
"""

Worths = tuple[Scores, Scores]
"""What units add to a coalition, (n_units,) each: mean over images, and mean magnitude."""


def swap_units(held: Held, seed: int = 0) -> None:
    """Let units trade places while that is worth more and there are passes left.

    Args:
        held: A plan; afterwards a better one, if any is found.
        seed: Draws predictions for the second-order terms.
    """
    costs, look = CostModel(held.ranking.graph), 0
    stride = _Stride(held.ranking.graph.n_units)
    while stride.some and held.passes.left:
        worths = worths_at(held.game, held.kept, seed_of(seed, look))
        held.passes.take(PASSES_OF_A_LOOK)
        look += 1
        if not all(np.isfinite(worth).all() for worth in worths):
            return
        place = _Place(worths, costs.price(held.budget.of, held.kept), held.kept)
        while stride.some and held.passes.left:
            if held.beaten_by(place.scores(stride.way, stride.count)):
                stride.lengthen()
                break
            stride.shorten()


def worths_at(game: NetworkGame, kept: Kept, seed: int = 0) -> Worths:
    """Return what units add to a coalition, or would add, by second-order expansion.

    Args:
        game: Says what coalitions are worth.
        kept: The coalition, (n_units,) Bool.
        seed: Draws predictions of the unpruned network.
    """
    present = torch.from_numpy(kept)

    def sums(batches: range) -> torch.Tensor:
        found = []
        for number in batches:
            coalitions = present.expand(game.batch_sizes[number], -1)
            generator = torch.Generator().manual_seed(seed_of(seed, number))
            seen = game.gradients(number, coalitions, generator, n_draws=1 if game.fisher else 0)
            added = seen.marginals(present).double()
            magnitude = torch.where(present, added.abs(), added)
            found.append(torch.stack([added.sum(0), magnitude.sum(0)]))
        return torch.stack(found)

    mean, magnitude = game.ranks.gather(len(game.batch_sizes), sums).sum(0).numpy() / game.n_images
    return mean, magnitude


class _Stride:
    """How many units come back at a time, by either way to take what they add.

    Args:
        n_units: Of the network.
    """

    def __init__(self, n_units: int) -> None:
        self._most = max(round(_MOST * n_units), 1)
        self._counts = [max(round(_FIRST * n_units), 1)] * 2
        self.way = 0
        """Place of the worths whose turn it is."""

    @property
    def count(self) -> int:
        """How many units come back by them."""
        return self._counts[self.way]

    @property
    def some(self) -> bool:
        """Whether there is anything left to try."""
        return any(self._counts)

    def lengthen(self) -> None:
        """Go on the same way with more; the other one may be tried again after it."""
        self._counts[self.way] = min(math.ceil(_GROWTH * self.count), self._most)
        self._counts[1 - self.way] = max(self._counts[1 - self.way], 1)

    def shorten(self) -> None:
        """Go on the other way, if anything is left of it."""
        self._counts[self.way] //= 2
        if self._counts[1 - self.way]:
            self.way = 1 - self.way


@dataclass(frozen=True)
class _Place:
    """Where the plan stands.

    Args:
        worths: What units add there.
        cost: (n_units,) What they cost.
        kept: (n_units,) Bool, who is present.
    """

    worths: Worths
    cost: Scores
    kept: Kept

    def scores(self, way: int, count: int) -> Scores:
        """Return scores by which so many absent units come back and the least present ones pay.

        By score per cost those to come back are above all others, and the absent below all.
        """
        worth = self.worths[way]
        per_cost = worth / self.cost
        absent = np.flatnonzero(~self.kept & (worth > 0))
        level = self.kept.astype(np.float64)
        level[absent[np.argsort(-per_cost[absent], kind="stable")[:count]]] = 2
        order = np.empty(per_cost.size)
        order[np.argsort(per_cost, kind="stable")] = np.arange(per_cost.size) / per_cost.size
        scores: Scores = self.cost * (1 + order) * _APART**level
        return scores
