"""Budget-band gradients: truncated Shapley values of the whole-network game from gate gradients.

Full-range Shapley values rank badly: once a fifth of a network is gone at random it is dead, and
what units add to a dead network is noise. What matters is the marginal near the coalitions that
pruning will visit. So orders of removal are drawn from a Plackett-Luce model in which cheap, strong
units go last (a weighted Shapley value after Kalai and Samet), and are cut where the removed share
of multiply-accumulates reaches a random point of the band. Every image gets coalitions of its own.
The marginal of a present unit is its gate's first- and second-order Taylor term,

    d_i = dv/dg_i + 1/2 (d log p_S(y) / dg_i)^2,   y drawn from the unpruned network,

the second derivative of the divergence being replaced by its Fisher information. Two rounds are
played, or more where time or stability ends the work; each draws its orders by the scores found
before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from graphprune.checkpoint import NO_STATE, Arrays, State
from graphprune.errors import BudgetError, DataError
from graphprune.estimators.base import (
    Floats,
    ShapleyEstimate,
    register,
    require_no_unions,
    require_shapley,
    stability_of_halves,
)
from graphprune.estimators.removal import RemovalOrders, removal_orders
from graphprune.estimators.semivalues import SHAPLEY, Semivalue
from graphprune.estimators.stopping import NEVER, Stopping
from graphprune.game.games import NetworkGame
from graphprune.progress import Progress, silent
from graphprune.seeds import seed_of

MOST_COALITIONS = 16
"""Coalitions per image by default, both rounds together; more change rankings little."""

ENOUGH_PASSES = 4096
"""Coalitions of all images together that the default pays for; two per image at least."""

ENOUGH_MACS = 2 * 10**12
"""Multiply-accumulates of their forward passes together: a minute or two on two cores."""

_STAGE = "gate gradients"

_ROUND = 4
"""Coalitions per image of a round where time or stability ends the work."""

_LONGEST = 128


@register("gradients")
@dataclass(frozen=True, kw_only=True, slots=True)
class GradientEstimator:
    """One forward and two backward passes per coalition, for all units of the network at once.

    Biased (marginals are second-order expansions), with little variance.

    Args:
        budget: Coalitions per image, at least 2. None for 16, or for fewer but at least 2 where
            that would make over 4096 coalitions of all images together, or over 2 * 10^12
            multiply-accumulates: the cost of a ranking stays bounded. Where time or stability ends
            the work, None for up to 128.
        seed: Equal seeds give equal estimates.
        semivalue: Shapley's; which coalitions count is said by the band.

    References:
        Kalai and Samet (1987), doi:10.1007/BF01756292 (weighted orders); Owen (1972),
        doi:10.1287/mnsc.18.5.64 (gates as a multilinear extension).
    """

    budget: int | None = None
    seed: int = 0
    semivalue: Semivalue = SHAPLEY

    def estimate(
        self,
        game: NetworkGame,
        progress: Progress = silent,
        state: State = NO_STATE,
        stopping: Stopping = NEVER,
    ) -> ShapleyEstimate:
        """Estimate every unit's value.

        The estimate's ``stderr`` is that of the coalitions drawn: an image's even and odd rounds
        differ by nothing else. (Rounds draw from different orders, so it errs on the large side.)

        Raises:
            BudgetError: The budget is less than one coalition for each of two rounds.
            DataError: A gradient is not finite.
            OptionError: The game's performance changes in steps only, or it has unions.
        """
        require_shapley(self.semivalue, "gradients")
        require_no_unions(game, "gradients")
        run = _Run(game, self.seed, self._lengths(game, stopping), stopping)
        stopped = run.play(progress, state)
        first, second = run.halves
        pooled = _pooled(run.halves)
        half_differences = (first.per_image() - second.per_image()) / 2
        stderr = np.sqrt(np.square(half_differences).sum(0)) / game.n_images
        return ShapleyEstimate(
            pooled.per_image(),
            stderr,
            1 + run.coalitions,
            own_coalitions=True,
            stability=run.stability() if stopping.asked else None,
            stopped=stopped,
        )

    def _lengths(self, game: NetworkGame, stopping: Stopping) -> tuple[int, ...]:
        """Return the coalitions per image of every round."""
        if stopping.asked:
            most = _LONGEST if self.budget is None else self.budget
            lengths = (_ROUND,) * (most // _ROUND)
        else:
            most = self.n_coalitions(game.n_images, game.total_macs)
            lengths = (most // 2, most - most // 2)
        if len(lengths) < 2 or not lengths[0]:
            raise BudgetError(
                f"{most} coalitions per image do not pay for two rounds",
                hint=f"allow at least {2 * _ROUND if stopping.asked else 2} "
                f"(--budget {2 * _ROUND if stopping.asked else 2})",
            )
        return lengths

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


def _pooled(halves: Sequence[_Evidence]) -> _Evidence:
    first, second = halves
    return _Evidence(first.marginals + second.marginals, first.present + second.present)


@dataclass(frozen=True)
class _Step:
    """One pass: its number, a batch, its images' rows, and the round (None: start scores)."""

    number: int
    batch: int
    rows: slice
    round: int | None


class _Run:
    """All passes of an estimate, one after the other; what they add up to is all there is to save.

    Args:
        game: The game.
        seed: Of all draws.
        lengths: Coalitions per image of each round.
        stopping: What ends the work before the last round.
    """

    def __init__(
        self,
        game: NetworkGame,
        seed: int,
        lengths: tuple[int, ...],
        stopping: Stopping,
    ) -> None:
        self._game = game
        self._seed = seed
        self._stopping = stopping
        self._steps = list(_steps(game.batch_sizes, lengths))
        self._lengths = lengths
        self._start = np.zeros(game.n_players)
        self._scores = np.zeros(game.n_players)
        self._seconds = 0.0
        # The stability at the look before this one, see evidence.py.
        self._before = 0.0
        self._done = 0
        self.halves = tuple(
            _Evidence(np.zeros((game.n_images, game.n_players)), np.zeros(game.n_players))
            for _ in range(2)
        )

    @property
    def coalitions(self) -> int:
        """Coalitions that every image has played."""
        rounds = {step.round for step in self._steps[: self._done] if step.round is not None}
        return sum(self._lengths[number] for number in rounds)

    def play(self, progress: Progress, state: State) -> str:
        """Run all passes that have not been run; return what ended the work."""
        self._restore(state)
        start = self._stopping.clock() - self._seconds
        for round_, steps in _by_round(self._steps[self._done :]):
            if round_ is not None and self._begins(steps[0]):
                if round_ >= 2 and (ended := self._ended()):
                    return ended
                self._scores = _pooled(self.halves).scores() if round_ else self._start
            orders = None if round_ is None else self._orders()
            for wave in _waves(steps, self._game.ranks.size):
                self._add(wave, orders)
                self._done = wave[-1].number + 1
                self._seconds = self._stopping.clock() - start
                state.save(self._arrays())
                progress(_STAGE, self._done, len(self._steps))
        return "stable" if self._stable() else "budget"

    def stability(self) -> float:
        """Return the stability; where it may end the work, the lower one of two looks."""
        now = self._now()
        return now if self._stopping.stability is None else min(now, self._before)

    def _now(self) -> float:
        """Return the stability of the scores, from the even and the odd rounds."""
        how = self._stopping.aggregate
        one, other = (half.per_image() for half in self.halves)
        return stability_of_halves(one, other, how)

    def _begins(self, step: _Step) -> bool:
        """Whether a step is the first of its round."""
        return step.number == 0 or self._steps[step.number - 1].round != step.round

    def _ended(self) -> str | None:
        if self._stopping.expired(self._seconds):
            return "seconds"
        if self._stable():
            return "stable"
        self._before = self._now()
        return None

    def _stable(self) -> bool:
        return self._stopping.stability is not None and self._stopping.stable(self.stability())

    def _orders(self) -> RemovalOrders:
        """Return what a round draws its orders by: the scores that were found before it."""
        if not np.isfinite(self._scores).all():
            raise DataError(
                "gate gradients on the calibration data are not finite",
                hint="rank in double precision, or with another criterion (--criterion l2)",
            )
        return removal_orders(self._scores, self._game)

    def _add(self, wave: Sequence[_Step], orders: RemovalOrders | None) -> None:
        """Run passes, one on each rank, and add up what they found in order."""
        most = max(self._game.batch_sizes)

        def compute(places: range) -> torch.Tensor:
            found = [self._found(wave[place], orders, most) for place in places]
            return torch.stack(found)

        for step, found in zip(wave, self._game.ranks.gather(len(wave), compute), strict=True):
            marginals, present = found[:, : step.rows.stop - step.rows.start].numpy()
            if step.round is None:
                self._start += marginals.sum(0) / self._game.n_images
                continue
            evidence = self.halves[step.round % 2]
            evidence.marginals[step.rows] += marginals
            evidence.present[:] += present.sum(0)

    def _found(self, step: _Step, orders: RemovalOrders | None, most: int) -> torch.Tensor:
        """Return marginals and who was present, (2, most, n_units); spare rows are zero.

        Start scores are squared gate gradients at the grand coalition (a Fisher score).
        """
        generator = torch.Generator().manual_seed(seed_of(self._seed, step.number))
        size, game = step.rows.stop - step.rows.start, self._game
        rows = torch.zeros(2, most, game.n_players, dtype=torch.float64)
        if orders is None:
            kept = torch.ones(size, game.n_players, dtype=torch.bool)
            found = game.gradients(step.batch, kept, generator, n_draws=2)
            rows[0, :size] = found.squares
        else:
            kept = orders.draw(size, game.band, generator)
            found = game.gradients(step.batch, kept, generator, n_draws=1 if game.fisher else 0)
            rows[0, :size] = found.marginals(kept) * kept
        rows[1, :size] = kept
        return rows

    # ---- what is saved ------------------------------------------------------------------------

    def _arrays(self) -> Arrays:
        arrays = {
            "done": np.array(self._done, np.int64),
            "seconds": np.array(self._seconds),
            "start": self._start,
            "scores": self._scores,
            "before": np.array(self._before),
        }
        for number, evidence in enumerate(self.halves):
            arrays[f"marginals {number}"] = evidence.marginals
            arrays[f"present {number}"] = evidence.present
        return arrays

    def _restore(self, state: State) -> None:
        """Go back to where an interrupted run was."""
        known = state.load(self._arrays())
        if known is None:
            return
        self._done = int(known["done"])
        self._seconds = float(known["seconds"])
        self._before = float(known["before"])
        self._start[:] = known["start"]
        self._scores = known["scores"].astype(np.float64)
        for number, evidence in enumerate(self.halves):
            evidence.marginals[:] = known[f"marginals {number}"]
            evidence.present[:] = known[f"present {number}"]


def _steps(batch_sizes: tuple[int, ...], lengths: tuple[int, ...]) -> Iterator[_Step]:
    """Yield the start scores' passes, then each round's, batch by batch."""
    stops = np.cumsum(batch_sizes).tolist()
    batches = [
        (number, slice(stop - size, stop))
        for number, (size, stop) in enumerate(zip(batch_sizes, stops, strict=True))
    ]
    count = itertools.count()
    yield from (_Step(next(count), number, rows, None) for number, rows in batches)
    for which, length in enumerate(lengths):
        for number, rows in batches:
            yield from (_Step(next(count), number, rows, which) for _ in range(length))


def _by_round(steps: Sequence[_Step]) -> Iterator[tuple[int | None, list[_Step]]]:
    for round_, found in itertools.groupby(steps, key=lambda step: step.round):
        yield round_, list(found)


def _waves(steps: Sequence[_Step], size: int) -> Iterator[Sequence[_Step]]:
    """Yield as many passes as there are ranks."""
    for start in range(0, len(steps), size):
        yield steps[start : start + size]
