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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from graphprune.checkpoint import NO_STATE, Arrays, State
from graphprune.errors import BudgetError, DataError
from graphprune.estimators.base import Floats, ShapleyEstimate, register
from graphprune.game.games import NetworkGame
from graphprune.groups import UnitIds
from graphprune.progress import Progress, silent

TEMPERATURE = 0.5
"""Of the Plackett-Luce model; 0 would always remove in order of score per cost."""

DEFAULT_BAND = 0.5
"""Largest share of multiply-accumulates that coalitions lack."""

MOST_COALITIONS = 16
"""Coalitions per image by default, both rounds together; more change rankings little."""

ENOUGH_PASSES = 4096
"""Coalitions of all images together that the default pays for; two per image at least."""

ENOUGH_MACS = 2 * 10**12
"""Multiply-accumulates of their forward passes together: a minute or two on two cores."""

_STAGE = "gate gradients"


@register("gradients")
@dataclass(frozen=True, kw_only=True, slots=True)
class GradientEstimator:
    """One forward and two backward passes per coalition, for all units of the network at once.

    Biased (marginals are second-order expansions), with little variance.

    Args:
        budget: Coalitions per image, at least 2. None for 16, or for fewer but at least 2 where
            that would make over 4096 coalitions of all images together, or over 2 * 10^12
            multiply-accumulates: the cost of a ranking stays bounded.
        seed: Equal seeds give equal estimates.
        band: Largest share of multiply-accumulates that a coalition lacks, in (0, 1).

    References:
        Kalai and Samet (1987), doi:10.1007/BF01756292 (weighted orders); Owen (1972),
        doi:10.1287/mnsc.18.5.64 (gates as a multilinear extension).
    """

    budget: int | None = None
    seed: int = 0
    band: float = DEFAULT_BAND

    def estimate(
        self, game: NetworkGame, progress: Progress = silent, state: State = NO_STATE
    ) -> ShapleyEstimate:
        """Estimate every unit's value.

        The estimate's ``stderr`` is that of the coalitions drawn: each image's two rounds differ by
        nothing else. (The rounds draw from different orders, so it errs on the large side.)

        Raises:
            BudgetError: The budget is less than one coalition for each of the two rounds.
            DataError: A gradient is not finite.
            OptionError: The game's performance changes in steps only.
        """
        budget = self.n_coalitions(game.n_images, game.total_macs)
        if budget < 2:
            raise BudgetError(
                f"{budget} coalitions per image do not pay for two rounds",
                hint="allow at least 2 (--budget 2)",
            )
        run = _Run(game, self.seed, self.band, (budget // 2, budget - budget // 2))
        run.play(progress, state)
        first, second = run.rounds
        pooled = _Evidence(first.marginals + second.marginals, first.present + second.present)
        half_differences = (first.per_image() - second.per_image()) / 2
        stderr = np.sqrt(np.square(half_differences).sum(0)) / game.n_images
        return ShapleyEstimate(pooled.per_image(), stderr, 1 + budget, own_coalitions=True)

    def n_coalitions(self, n_images: int, macs: int) -> int:
        """Return how many coalitions each of ``n_images`` is given.

        Args:
            n_images: Calibration images.
            macs: Multiply-accumulates of the network on one image.
        """
        if self.budget is not None:
            return self.budget
        affordable = min(ENOUGH_PASSES, ENOUGH_MACS // max(macs, 1))
        return min(max(affordable // n_images, 2), MOST_COALITIONS)


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


@dataclass(frozen=True)
class _Step:
    """One pass: a batch, its images' rows, and the round it counts for (None: start scores)."""

    batch: int
    rows: slice
    round: int | None


class _Run:
    """All passes of an estimate, one after the other; what they add up to is all there is to save.

    Args:
        game: The game.
        seed: Of all draws.
        band: Largest share of multiply-accumulates that a coalition lacks.
        lengths: Coalitions per image of each round.
    """

    def __init__(self, game: NetworkGame, seed: int, band: float, lengths: tuple[int, int]) -> None:
        self._game = game
        self._band = band
        self._generator = torch.Generator().manual_seed(seed)
        self._steps = list(_steps(game.batch_sizes, lengths))
        self._start = np.zeros(game.n_players)
        self.rounds = tuple(
            _Evidence(np.zeros((game.n_images, game.n_players)), np.zeros(game.n_players))
            for _ in lengths
        )

    def play(self, progress: Progress, state: State) -> None:
        """Run all passes that have not been run."""
        first = self._restore(state)
        orders: dict[int, _Orders] = {}
        for done, step in enumerate(self._steps[first:], first + 1):
            if step.round is None:
                self._add_start(step)
            else:
                if step.round not in orders:
                    orders[step.round] = self._orders(step.round)
                self._add_marginals(step, self.rounds[step.round], orders[step.round])
            state.save(self._arrays(done))
            progress(_STAGE, done, len(self._steps))

    def _add_start(self, step: _Step) -> None:
        """Add squared gate gradients at the grand coalition (a Fisher score)."""
        size = step.rows.stop - step.rows.start
        everything = torch.ones(size, self._game.n_players, dtype=torch.bool)
        found = self._game.gradients(step.batch, everything, self._generator, n_draws=2)
        self._start += found.squares.sum(0).double().numpy() / self._game.n_images

    def _orders(self, number: int) -> _Orders:
        """Return what a round draws its orders by: the scores that were found before it."""
        scores = self._start if number == 0 else self.rounds[number - 1].scores()
        if not np.isfinite(scores).all():
            raise DataError(
                "gate gradients on the calibration data are not finite",
                hint="rank in double precision, or with another criterion (--criterion l2)",
            )
        return _orders(scores, self._game)

    def _add_marginals(self, step: _Step, evidence: _Evidence, orders: _Orders) -> None:
        size = step.rows.stop - step.rows.start
        kept = orders.draw(size, self._band, self._generator)
        found = self._game.gradients(step.batch, kept, self._generator, n_draws=1)
        # Fisher information is in the units of a divergence; a value of the user's own is in its
        # own, so that its marginals are of first order.
        curvature = 0.5 * found.squares if self._game.fisher else 0.0
        marginals = (found.slope + curvature) * kept
        evidence.marginals[step.rows] += marginals.double().numpy()
        evidence.present[:] += kept.sum(0).double().numpy()

    # ---- what is saved ------------------------------------------------------------------------

    def _arrays(self, done: int) -> Arrays:
        arrays = {
            "done": np.array(done, np.int64),
            "generator": self._generator.get_state().numpy(),
            "start": self._start,
        }
        for number, evidence in enumerate(self.rounds):
            arrays[f"marginals {number}"] = evidence.marginals
            arrays[f"present {number}"] = evidence.present
        return arrays

    def _restore(self, state: State) -> int:
        """Go back to where an interrupted run was; return how many passes it had run."""
        known = state.load(self._arrays(0))
        if known is None:
            return 0
        self._generator.set_state(torch.from_numpy(known["generator"].astype(np.uint8)))
        self._start[:] = known["start"]
        for number, evidence in enumerate(self.rounds):
            evidence.marginals[:] = known[f"marginals {number}"]
            evidence.present[:] = known[f"present {number}"]
        return int(known["done"])


def _steps(batch_sizes: tuple[int, ...], lengths: tuple[int, int]) -> Iterator[_Step]:
    """Yield the start scores' passes, then each round's, batch by batch."""
    stops = np.cumsum(batch_sizes).tolist()
    batches = [
        (number, slice(stop - size, stop))
        for number, (size, stop) in enumerate(zip(batch_sizes, stops, strict=True))
    ]
    yield from (_Step(number, rows, None) for number, rows in batches)
    for which, length in enumerate(lengths):
        for number, rows in batches:
            yield from (_Step(number, rows, which) for _ in range(length))


# ---- orders of removal --------------------------------------------------------------------------

_POINTS = 33


@dataclass(frozen=True)
class _Orders:
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
        uniform = band * torch.rand(size, generator=generator).numpy()
        share = torch.from_numpy(np.interp(uniform, self.removed, self.summed)).float()
        noise = torch.rand(size, self.keys.numel(), generator=generator)
        gumbel = -torch.log(-torch.log(noise.clamp(1e-9, 1 - 1e-7)))
        # With Gumbel noise the order by keys is a Plackett-Luce order.
        order = (self.keys / TEMPERATURE - gumbel).argsort(1)
        gone = self.macs[order].cumsum(1) <= share[:, None]
        kept = torch.ones(size, self.keys.numel(), dtype=torch.bool).scatter_(1, order, ~gone)
        for needed in self.needed:
            empty = ~kept[:, needed].any(1)
            kept[empty, int(needed[int(self.keys[needed].argmax())])] = True
        return kept


def _orders(scores: Floats, game: NetworkGame) -> _Orders:
    keys = _sampling_keys(scores, game.macs)
    macs = game.macs / max(game.macs.sum(), 1e-300)
    order = np.argsort(keys.numpy(), kind="stable")
    removed, summed = [], []
    for count in np.linspace(0, order.size, _POINTS).astype(int):
        kept = np.ones(order.size, bool)
        kept[order[:count]] = False
        removed.append(game.removed_macs(kept))
        summed.append(float(macs[order[:count]].sum()))
    return _Orders(
        keys, torch.from_numpy(macs).float(), game.needed, np.array(removed), np.array(summed)
    )


def _sampling_keys(scores: Floats, macs: Floats) -> torch.Tensor:
    """Return log(score / cost); low scores are raised to half the 5 % quantile."""
    if not scores.size:
        return torch.zeros(0)
    floor = max(0.5 * float(np.quantile(scores, 0.05)), 1e-30)
    cost = np.maximum(macs / max(macs.mean(), 1e-300), 1e-6)
    return torch.from_numpy(np.log(np.maximum(scores, floor) / cost)).float()
