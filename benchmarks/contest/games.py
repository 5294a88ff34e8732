"""Games that remember, so that estimators share what is played with every budget and seed."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from benchmarks.contest.metrics import Floats
from graphprune.data import CalibrationBatches
from graphprune.game.games import GroupGame
from graphprune.graph import DependencyGraph
from graphprune.groups import PruningGroup

VALUE = "kl"


class RememberedGame(GroupGame):
    """A group's game that evaluates no coalition twice, whoever asks.

    It says what a run would have cost without the others: every coalition that the run asked for
    counts once.
    """

    def __init__(
        self, graph: DependencyGraph, group: PruningGroup, data: CalibrationBatches
    ) -> None:
        super().__init__(graph, group, data, VALUE)
        self._memory: dict[bytes, Floats] = {}
        self._asked_for: set[bytes] = set()
        self._waiting = 0.0
        self._evaluating = 0.0

    def begin(self) -> None:
        """Begin a run."""
        self._asked_for, self._waiting = set(), 0.0

    @property
    def asked(self) -> int:
        """Different coalitions asked for in this run."""
        return len(self._asked_for)

    @property
    def waited(self) -> float:
        """Seconds for which this run has waited for values."""
        return self._waiting

    @property
    def seconds_each(self) -> float:
        """Seconds that the evaluation of one coalition has taken, on average."""
        return self._evaluating / max(len(self._memory), 1)

    def values(self, coalitions: Tensor) -> Tensor:
        """Return (n_coalitions, n_images) float64 for (n_coalitions, n_players) Bool."""
        begun = time.perf_counter()
        kept = np.asarray(coalitions, bool)
        keys = [row.tobytes() for row in np.packbits(kept, axis=1)]
        new = {key: place for place, key in enumerate(keys) if key not in self._memory}
        if new:
            places = list(new.values())
            started = time.perf_counter()
            worth = super().values(torch.from_numpy(kept[places])).numpy()
            self._evaluating += time.perf_counter() - started
            self._memory.update(zip(new, worth, strict=True))
        self._asked_for.update(keys)
        rows = [self._memory[key] for key in keys]
        found = (
            torch.from_numpy(np.stack(rows))
            if rows
            else torch.zeros(0, self.n_images, dtype=torch.float64)
        )
        self._waiting += time.perf_counter() - begun
        return found
