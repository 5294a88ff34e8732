"""Budget-band gradients: truncated Shapley values of the whole-network game from gate gradients.

Full-range Shapley values rank badly: once a fifth of a network is gone at random it is dead, and
what units add to a dead network is noise. What matters is the marginal near the coalitions that
pruning will visit. So orders of removal are drawn from a Plackett-Luce model in which cheap, strong
units go last (a weighted Shapley value after Kalai and Samet), and are cut where the removed share
of multiply-accumulates reaches a random point of the band. Every image gets coalitions of its own.
The marginal of a present unit is its gate's first- and second-order Taylor term,

    d_i = dv/dg_i + 1/2 (d log p_S(y) / dg_i)^2,   y drawn from the unpruned network,

the second derivative of the divergence being replaced by its Fisher information. Two rounds are
played; the second draws its orders by the scores of the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from graphprune.errors import BudgetError
from graphprune.estimators.base import Floats, ShapleyEstimate, register
from graphprune.game.games import NetworkGame
from graphprune.progress import Progress, silent

TEMPERATURE = 0.5
"""Of the Plackett-Luce model; 0 would always remove in order of score per cost."""

DEFAULT_BAND = 0.5
"""Largest share of multiply-accumulates that coalitions lack."""

DEFAULT_COALITIONS = 16
"""Coalitions per image, both rounds together."""

_STAGE = "gate gradients"


@register("gradients")
@dataclass(frozen=True, kw_only=True, slots=True)
class GradientEstimator:
    """One forward and two backward passes per coalition, for all units of the network at once.

    Biased (marginals are second-order expansions), with little variance.

    Args:
        budget: Coalitions per image, at least 2; None for 16.
        seed: Equal seeds give equal estimates.
        band: Largest share of multiply-accumulates that a coalition lacks, in (0, 1).

    References:
        Kalai and Samet (1987), doi:10.1007/BF01756292 (weighted orders); Owen (1972),
        doi:10.1287/mnsc.18.5.64 (gates as a multilinear extension).
    """

    budget: int | None = None
    seed: int = 0
    band: float = DEFAULT_BAND

    def estimate(self, game: NetworkGame, progress: Progress = silent) -> ShapleyEstimate:
        """Estimate every unit's value; the estimate's ``stderr`` compares the two rounds.

        Raises:
            BudgetError: The budget is less than one coalition for each of the two rounds.
        """
        budget = DEFAULT_COALITIONS if self.budget is None else self.budget
        if budget < 2:
            raise BudgetError(
                f"{budget} coalitions per image do not pay for two rounds",
                hint="allow at least 2 (--budget 2)",
            )
        run = _Run(game, self.seed, self.band, progress, total=1 + budget)
        scores = run.start_scores()
        first = run.play(budget // 2, scores)
        second = run.play(budget - budget // 2, first.scores())
        pooled = _Evidence(first.marginals + second.marginals, first.present + second.present)
        halves = first.per_image().mean(0) - second.per_image().mean(0)
        return ShapleyEstimate(pooled.per_image(), np.abs(halves) / 2, 1 + budget)


@dataclass(frozen=True)
class _Evidence:
    """Sums over coalitions: marginals (n_images, n_units), and how often units were present."""

    marginals: Floats
    present: Floats

    def per_image(self) -> Floats:
        """Mean marginal per image, taking a unit to be present equally often on all images."""
        often = np.maximum(self.present, 1.0) / len(self.marginals)
        return self.marginals / often

    def scores(self) -> Floats:
        """Mean absolute value per image."""
        scores: Floats = np.abs(self.per_image()).mean(0)
        return scores


class _Run:
    def __init__(
        self, game: NetworkGame, seed: int, band: float, progress: Progress, *, total: int
    ) -> None:
        self._game = game
        self._band = band
        self._progress = progress
        self._generator = torch.Generator().manual_seed(seed)
        self._total = total * len(game.batch_sizes)
        self._done = 0

    def start_scores(self) -> Floats:
        """Mean squared gate gradient at the grand coalition (a Fisher score)."""
        total = np.zeros(self._game.n_players)
        for batch, size in enumerate(self._game.batch_sizes):
            everything = torch.ones(size, self._game.n_players, dtype=torch.bool)
            gradients = self._game.gradients(batch, everything, self._generator, n_draws=2)
            total += gradients.squares.sum(0).double().numpy()
            self._step()
        return total / self._game.n_images

    def play(self, n_coalitions: int, scores: Floats) -> _Evidence:
        """Play one round with orders drawn by ``scores`` per cost."""
        keys = _sampling_keys(scores, self._game.macs)
        marginals = np.zeros((self._game.n_images, self._game.n_players))
        present = np.zeros(self._game.n_players)
        first = 0
        for batch, size in enumerate(self._game.batch_sizes):
            rows = slice(first, first + size)
            for _ in range(n_coalitions):
                kept = self._draw(size, keys)
                found = self._game.gradients(batch, kept, self._generator, n_draws=1)
                marginal = (found.slope + 0.5 * found.squares) * kept
                marginals[rows] += marginal.double().numpy()
                present += kept.sum(0).double().numpy()
                self._step()
            first += size
        return _Evidence(marginals, present)

    def _draw(self, size: int, keys: torch.Tensor) -> torch.Tensor:
        """Draw a coalition per image, (size, n_units) Bool, that empties no axis."""
        share = self._band * torch.rand(size, 1, generator=self._generator)
        uniform = torch.rand(size, keys.numel(), generator=self._generator)
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))
        # Units with the smallest key go first; Gumbel noise makes the order Plackett-Luce.
        order = (keys / TEMPERATURE - gumbel).argsort(1)
        macs = torch.from_numpy(self._game.macs / max(self._game.macs.sum(), 1e-300)).float()
        gone = macs[order].cumsum(1) <= share
        kept = torch.ones(size, keys.numel(), dtype=torch.bool).scatter_(1, order, ~gone)
        for needed in self._game.needed:
            empty = ~kept[:, needed].any(1)
            kept[empty, int(needed[int(keys[needed].argmax())])] = True
        return kept

    def _step(self) -> None:
        self._done += 1
        self._progress(_STAGE, self._done, self._total)


def _sampling_keys(scores: Floats, macs: Floats) -> torch.Tensor:
    """Return log(score / cost); low scores are raised to half the 5 % quantile."""
    floor = max(0.5 * float(np.quantile(scores, 0.05)), 1e-30)
    cost = np.maximum(macs / max(macs.mean(), 1e-300), 1e-6)
    return torch.from_numpy(np.log(np.maximum(scores, floor) / cost)).float()
