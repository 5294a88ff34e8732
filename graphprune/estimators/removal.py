"""Orders of removal: units of little worth for what they cost go early, but not always.

Plackett-Luce orders are those of a Kalai-Samet weighted Shapley value; cut off where a share of the
multiply-accumulates is gone, they visit the coalitions that pruning will.

References:
    Kalai and Samet (1987), On weighted Shapley values, doi:10.1007/BF01756292.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from graphprune.estimators.base import Floats
from graphprune.game.games import NetworkGame
from graphprune.groups import UnitIds

TEMPERATURE = 0.5
"""Of the Plackett-Luce model; 0 would always remove in order of score per cost."""

_POINTS = 33


@dataclass(frozen=True)
class RemovalOrders:
    """A Plackett-Luce model of orders of removal.

    Args:
        keys: log(score / cost) of every unit; the smallest go first.
        macs: Every unit's share of the sum of what units save when removed alone.
        needed: Sets of units of which one must stay.
        removed: Shares of multiply-accumulates removed, ascending, ...
        summed: ... and the sums of ``macs`` that remove them. They differ because a layer's cost
            is a product: two units that read each other save less than the sum of both.
    """

    keys: torch.Tensor
    macs: torch.Tensor
    needed: Sequence[UnitIds]
    removed: Floats
    summed: Floats

    def draw(self, size: int, band: float, generator: torch.Generator) -> torch.Tensor:
        """Draw coalitions that lack up to ``band`` and empty no axis, (size, n_units) Bool."""
        shares = band * torch.rand(size, generator=generator)
        return self._kept(self._order(size, generator), shares)

    def draw_chain(self, size: int, band: float, generator: torch.Generator) -> torch.Tensor:
        """Draw one order and coalitions along it that lack more and more, (size, n_units) Bool.

        Of ``size`` equal parts of the band every coalition lies in one of its own.
        """
        shares = band * (torch.arange(size) + torch.rand(size, generator=generator)) / size
        return self._kept(self._order(1, generator).expand(size, -1), shares)

    def _order(self, size: int, generator: torch.Generator) -> torch.Tensor:
        noise = torch.rand(size, self.keys.numel(), generator=generator)
        gumbel = -torch.log(-torch.log(noise.clamp(1e-9, 1 - 1e-7)))
        # With Gumbel noise the order by keys is a Plackett-Luce order.
        return (self.keys / TEMPERATURE - gumbel).argsort(1)

    def _kept(self, order: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """Remove units in an order until shares of the multiply-accumulates are gone."""
        size = len(order)
        share = torch.from_numpy(np.interp(shares.numpy(), self.removed, self.summed)).float()
        gone = self.macs[order].cumsum(1) <= share[:, None]
        kept = torch.ones(size, self.keys.numel(), dtype=torch.bool).scatter_(1, order, ~gone)
        for needed in self.needed:
            empty = ~kept[:, needed].any(1)
            kept[empty, int(needed[int(self.keys[needed].argmax())])] = True
        return kept


def removal_orders(scores: Floats, game: NetworkGame) -> RemovalOrders:
    """Return the model in which units of little score for what they cost go early.

    Args:
        scores: (n_units,) higher = stays longer.
        game: Knows the costs, and what must not be emptied.
    """
    keys = _sampling_keys(scores, game.macs)
    macs = game.macs / max(game.macs.sum(), 1e-300)
    order = np.argsort(keys.numpy(), kind="stable")
    removed, summed = [], []
    for count in np.linspace(0, order.size, _POINTS).astype(int):
        kept = np.ones(order.size, bool)
        kept[order[:count]] = False
        removed.append(game.removed_macs(kept))
        summed.append(float(macs[order[:count]].sum()))
    return RemovalOrders(
        keys, torch.from_numpy(macs).float(), game.needed, np.array(removed), np.array(summed)
    )


def _sampling_keys(scores: Floats, macs: Floats) -> torch.Tensor:
    """Return log(score / cost); low scores are raised to half the 5 % quantile."""
    if not scores.size:
        return torch.zeros(0)
    floor = max(0.5 * float(np.quantile(scores, 0.05)), 1e-30)
    cost = np.maximum(macs / max(macs.mean(), 1e-300), 1e-6)
    return torch.from_numpy(np.log(np.maximum(scores, floor) / cost)).float()
