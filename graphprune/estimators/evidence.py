"""Estimates from a table: coalitions are evaluated block by block, all rows make the values.

An estimator of this kind says which coalitions come next (its :class:`Design`) and what follows
from those evaluated so far. Everything else is the same for all and done here: the budget, time and
stability that end the work, progress, and the state to resume from. Which coalitions come never
depends on what the others were worth, so the worth of those evaluated is all there is to save.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from graphprune.checkpoint import NO_STATE, State
from graphprune.estimators.base import ShapleyEstimate, stability_of_halves
from graphprune.estimators.semivalues import SHAPLEY, Semivalue
from graphprune.estimators.stopping import GROWTH, NEVER, Stopping, looks
from graphprune.game.games import Game
from graphprune.progress import Progress, silent

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_CHUNK = 16
"""Coalitions that every rank is given at a time, at least."""


class Design(Protocol):
    """Which coalitions are evaluated."""

    @property
    def n_blocks(self) -> int:
        """Blocks that the budget pays for."""

    @property
    def fewest(self) -> int:
        """Blocks that an estimate takes at least."""

    @property
    def stage(self) -> str:
        """What blocks are made of, for people."""

    def block(self, number: int) -> Bools:
        """Return the coalitions of a block, (size, n_players); blocks are asked for in order."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Coalitions and what they are worth.

    Args:
        kept: (n_coalitions, n_players); without the empty and the grand coalition.
        worth: (n_coalitions, n_images).
        blocks: The block of each coalition, (n_coalitions,).
        empty: Worth of the empty coalition, (n_images,).
        full: Worth of the grand coalition, (n_images,).
        slopes: Mean slopes of two halves of a number of draws, (2, n_images, n_players), where the
            estimator asks for them.
    """

    kept: Bools
    worth: Floats
    blocks: npt.NDArray[np.int64]
    empty: Floats
    full: Floats
    slopes: Floats | None = None

    @property
    def n_players(self) -> int:
        """Number of players."""
        return int(self.kept.shape[1])

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return int(self.blocks[-1]) + 1 if self.blocks.size else 0

    def of_mean(self) -> Evidence:
        """Return the evidence on the game whose worth is the mean over images."""
        return Evidence(
            kept=self.kept,
            worth=self.worth.mean(1, keepdims=True),
            blocks=self.blocks,
            empty=self.empty.mean(keepdims=True),
            full=self.full.mean(keepdims=True),
            slopes=None if self.slopes is None else self.slopes.mean(1, keepdims=True),
        )

    def only(self, rows: Bools, slopes: Floats | None = None) -> Evidence:
        """Return the evidence of some coalitions."""
        return Evidence(
            kept=self.kept[rows],
            worth=self.worth[rows],
            blocks=self.blocks[rows],
            empty=self.empty,
            full=self.full,
            slopes=self.slopes if slopes is None else slopes,
        )

    def halves(self) -> tuple[Evidence, Evidence]:
        """Return the evidence of every other block, and of the rest."""
        even = self.blocks % 2 == 0
        if self.slopes is None:
            return self.only(even), self.only(~even)
        first, second = self.slopes
        return self.only(even, np.stack([first] * 2)), self.only(~even, np.stack([second] * 2))


@dataclass(frozen=True, kw_only=True)
class TableEstimator(ABC):
    """Base of estimators that compute values from a table of coalitions.

    Args:
        budget: Coalitions the game may be asked for; None for a default.
        seed: Equal seeds give equal estimates.
        semivalue: What is estimated.
    """

    budget: int | None = None
    seed: int = 0
    semivalue: Semivalue = SHAPLEY

    @abstractmethod
    def design(self, game: Game, *, longer: bool) -> Design:
        """Return which coalitions to evaluate.

        Args:
            game: The game; it is not asked for any worth.
            longer: No budget is set and something else ends the work: allow for much evidence.

        Raises:
            BudgetError: The budget is too small.
            OptionError: The semivalue or the kind of game is not one it can estimate.
        """

    @abstractmethod
    def per_image(self, evidence: Evidence) -> Floats:
        """Return every player's value on every image, (n_images, n_players)."""

    @abstractmethod
    def stderr(self, evidence: Evidence) -> Floats:
        """Return the standard errors of the values' means over images, (n_players,)."""

    def slopes(self, game: Game) -> Floats | None:
        """Return mean slopes to go with the table, see :class:`Evidence`; none by default."""
        del game
        return None

    def slope_cost(self, n_players: int) -> int:
        """Return how many evaluations the slopes are counted as."""
        del n_players
        return 0

    def estimate(
        self,
        game: Game,
        progress: Progress = silent,
        state: State = NO_STATE,
        stopping: Stopping = NEVER,
    ) -> ShapleyEstimate:
        """Estimate every player's value.

        Raises:
            BudgetError: The budget is too small for this game.
            OptionError: It cannot estimate this semivalue, or play this kind of game.
        """
        design = self.design(game, longer=self.budget is None and stopping.asked)
        run = _Run(self, game, design, state, stopping)
        stopped = run.play(progress)
        evidence = run.evidence()
        return ShapleyEstimate(
            self.per_image(evidence),
            self.stderr(evidence),
            2 + len(evidence.kept) + self.slope_cost(game.n_players),
            stability=run.stability() if stopping.asked else None,
            stopped=stopped,
        )


class _Run:
    """Evaluates the blocks of a design until something ends it."""

    def __init__(
        self,
        estimator: TableEstimator,
        game: Game,
        design: Design,
        state: State,
        stopping: Stopping,
    ) -> None:
        self._estimator = estimator
        self._game = game
        self._design = design
        self._state = state
        self._stopping = stopping
        ends = torch.zeros(2, game.n_players, dtype=torch.bool)
        ends[1] = True
        self._empty, self._full = game.values(ends).numpy()
        self._worth = np.zeros((0, self._empty.size))
        self._kept: list[Bools] = []
        self._slopes: Floats | None = None
        self._seconds = 0.0
        self._stabilities: dict[int, float] = {}

    def play(self, progress: Progress) -> str:
        """Gather evidence; return what ended it."""
        self._restore()
        start = self._stopping.clock() - self._seconds
        if self._slopes is None:
            self._slopes = self._estimator.slopes(self._game)
        # Looks bound what is evaluated at a time, so there are none where nobody looks.
        looked_at = self._stopping.stability is not None
        first = max(self._design.fewest, 2) if looked_at else self._design.n_blocks
        planned = looks(first)
        look = next(planned)
        while len(self._kept) < self._design.n_blocks:
            known = len(self._kept)
            self._seconds = self._stopping.clock() - start
            if known >= self._design.fewest and self._stopping.expired(self._seconds):
                return "seconds"
            if known >= look:
                if known == look and self._is_stable():
                    return "stable"
                look = next(planned)
                continue
            self._evaluate(min(look, self._design.n_blocks))
            self._seconds = self._stopping.clock() - start
            self._state.save(self._arrays())
            progress(self._design.stage, len(self._kept), self._design.n_blocks)
        return "stable" if self._is_stable() else "budget"

    def evidence(self) -> Evidence:
        sizes = [len(block) for block in self._kept]
        return Evidence(
            kept=np.concatenate([np.zeros((0, self._game.n_players), bool), *self._kept]),
            worth=self._worth,
            blocks=np.repeat(np.arange(len(sizes)), sizes),
            empty=self._empty,
            full=self._full,
            slopes=self._slopes,
        )

    def stability(self) -> float:
        """Return the stability of the scores that the evidence gives.

        Where stability may end the work, it is the lower one of two looks: of many looks the first
        high one is often luck, and seldom twice.
        """
        amounts = [len(self._kept)]
        if self._stopping.stability is not None:
            amounts.append(max(int(len(self._kept) / GROWTH), 2))
        return min(map(self._stability_of, amounts))

    def _stability_of(self, n_blocks: int) -> float:
        if n_blocks not in self._stabilities:
            self._stabilities[n_blocks] = self._found_stability(n_blocks)
        return self._stabilities[n_blocks]

    def _found_stability(self, n_blocks: int) -> float:
        evidence, how = self.evidence(), self._stopping.aggregate
        halves = evidence.only(evidence.blocks < n_blocks).halves()
        one, other = map(self._estimator.per_image, halves)
        return stability_of_halves(one, other, how)

    def _is_stable(self) -> bool:
        if self._stopping.stability is None or len(self._kept) < 2:
            return False
        return self._stopping.stable(self.stability())

    def _evaluate(self, stop: int) -> None:
        """Evaluate blocks up to ``stop``, as many as make it worth sharing them."""
        fresh: list[Bools] = []
        least = _CHUNK * self._stopping.ranks.size if self._stopping.ranks.size > 1 else 1
        while len(self._kept) < stop and sum(map(len, fresh)) < least:
            fresh.append(self._design.block(len(self._kept)))
            self._kept.append(fresh[-1])
        found = self._game.values(torch.from_numpy(np.concatenate(fresh))).numpy()
        self._worth = np.concatenate([self._worth, found])

    # ---- what is saved ------------------------------------------------------------------------

    def _arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        none = np.zeros((0, self._empty.size, self._game.n_players))
        return {
            "worth": self._worth,
            "slopes": none if self._slopes is None else self._slopes,
            "seconds": np.array(self._seconds),
        }

    def _restore(self) -> None:
        """Go back to where an interrupted run was."""
        found = self._state.load(self._arrays())
        if found is None:
            return
        self._worth = found["worth"].astype(np.float64)
        self._slopes = found["slopes"].astype(np.float64) if len(found["slopes"]) else None
        self._seconds = float(found["seconds"])
        rows = 0
        while rows < len(self._worth):
            self._kept.append(self._design.block(len(self._kept)))
            rows += len(self._kept[-1])


def jackknife(evidence: Evidence, values: Jackknifed, groups: int = 10) -> Floats:
    """Return standard errors from leaving out a tenth of the blocks at a time, (n_players,).

    Args:
        evidence: The evidence on the mean over images.
        values: Evidence -> (1, n_players).
        groups: Into how many parts the blocks are cut.

    References:
        Quenouille (1956), doi:10.1093/biomet/43.3-4.353.
    """
    count = min(groups, evidence.n_blocks)
    if count < 2:
        # A game so small that one block holds all its coalitions.
        return np.zeros(evidence.n_players)
    left_out = np.stack(
        [values(evidence.only(evidence.blocks % count != part))[0] for part in range(count)]
    )
    stderr: Floats = np.sqrt((count - 1) / count * np.square(left_out - left_out.mean(0)).sum(0))
    return stderr


class Jackknifed(Protocol):
    """Computes values from evidence."""

    def __call__(self, evidence: Evidence) -> Floats:
        """Return (n_images, n_players)."""
