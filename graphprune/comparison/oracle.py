"""Oracle rank: how good the removed set is among all sets of its size in one group.

In a small group every set of k units can be masked, and the loss of each measured: the oracle. The
place of the set that a criterion removes among them says how much room is left, which a comparison
of criteria with each other cannot. Where there are too many sets, a random sample stands for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from graphprune.comparison.measuring import GroupMeasure
from graphprune.comparison.robustness import lowest_removed
from graphprune.criteria.images import fitting_images
from graphprune.data import CalibrationBatches
from graphprune.errors import OptionError
from graphprune.game.evaluation import DEFAULT, Running
from graphprune.graph import DependencyGraph, Kept
from graphprune.groups import PruningGroup
from graphprune.progress import Progress, silent
from graphprune.ranking import Scores
from graphprune.steering import groups_made_by

SETS = 1000
"""Sets of one size that are measured at most; where there are more, so many are drawn."""

IMAGES = 128
"""Images that they are measured on at most."""

AUTO = "auto"
"""Stands for the two smallest groups of four units or more."""

_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class SetsOfUnits:
    """What the network loses without each set of so many units of one group.

    Args:
        group: The group.
        units: How many units it has.
        removed: Units in a set.
        complete: All sets of that size were measured; else as many were drawn.
        losses: Their losses, ascending.
    """

    group: str
    units: int
    removed: int
    complete: bool
    losses: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class OracleRank:
    """Where the set that a ranking removes stands among them.

    Args:
        sets: The sets.
        loss: What the network loses without the ranking's lowest units.
    """

    sets: SetsOfUnits
    loss: float

    @property
    def better(self) -> int:
        """How many of the sets measured lose less."""
        return int(np.searchsorted(self.sets.losses, self.loss * (1 - _SAME), "left"))

    @property
    def share_better(self) -> float:
        """Share of the sets measured that lose less; 0 is best, a random set has 0.5."""
        return self.better / len(self.sets.losses)

    @property
    def gap(self) -> float:
        """Loss above the best set's, as a share of the mean set's above it; 0 best, 1 random."""
        losses = self.sets.losses
        best, mean = min(losses[0], self.loss), float(np.mean(losses))
        return (self.loss - best) / (mean - best) if mean > best else 0.0


_SAME = 1e-6
"""Losses that differ by less than this share are equal: passes of other sizes round differently."""


def oracle_groups(graph: DependencyGraph, patterns: Sequence[str]) -> tuple[PruningGroup, ...]:
    """Return the groups that patterns name; see :data:`AUTO`.

    Raises:
        OptionError: A pattern matches nothing, or a group has fewer than two units.
    """
    names: set[str] = set()
    for pattern in patterns:
        found = _smallest(graph) if pattern == AUTO else groups_made_by(graph, pattern)
        names.update(found)
    chosen = tuple(group for group in graph.groups if group.name in names)
    for group in chosen:
        if len(group) < 2:
            raise OptionError(f"group {group.name} has one unit, so there is nothing to choose")
    return chosen


def _smallest(graph: DependencyGraph) -> tuple[str, ...]:
    large = [group for group in graph.groups if len(group) >= 4]
    usable = large or [group for group in graph.groups if len(group) > 1]
    if not usable:
        raise OptionError("no group has two units, so there is nothing to choose")
    return tuple(group.name for group in sorted(usable, key=len)[:2])


def removal_sizes(group: PruningGroup, ratios: Sequence[float]) -> tuple[int, ...]:
    """Return how many units go at each ratio, at least one and not all."""
    most = group.n_units - 1
    return tuple(sorted({int(np.clip(round(r * group.n_units), 1, most)) for r in ratios}))


class Oracle:
    """Measures all sets of some size in one group, and the sets that rankings remove.

    Args:
        graph: The network.
        group: The group.
        data: Images to judge on; the first :data:`IMAGES` are used.
        sets: Sets of one size that are measured at most.
        seed: Draws sets where there are more.
        running: How and where the network is run.
    """

    def __init__(
        self,
        graph: DependencyGraph,
        group: PruningGroup,
        data: CalibrationBatches,
        *,
        sets: int = SETS,
        seed: int = 0,
        running: Running = DEFAULT,
    ) -> None:
        images = fitting_images(graph, data.head(IMAGES), 0, needed=True)
        assert images is not None
        self.group = group
        self._measure = GroupMeasure(graph, group, images, running)
        self._most, self._seed = sets, seed

    def sets_of(self, removed: int, progress: Progress = silent) -> SetsOfUnits:
        """Measure the sets of one size."""
        units = self.group.n_units
        complete = comb(units, removed) <= self._most
        rows = list(_all_sets(units, removed) if complete else self._drawn(units, removed))
        losses: list[float] = []
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            losses += self._measure.measure(chunk).loss.tolist()
            progress(f"{self.group.name}: sets of {removed}", len(losses), len(rows))
        return SetsOfUnits(
            group=self.group.name,
            units=units,
            removed=removed,
            complete=complete,
            losses=tuple(sorted(losses)),
        )

    def rank(self, scores: Sequence[Scores], sets: SetsOfUnits) -> tuple[OracleRank, ...]:
        """Place the sets that rankings remove.

        Args:
            scores: One (n_units,) of the whole network for each ranking, higher = keep.
            sets: What they are placed among.
        """
        count = np.array([sets.removed])
        rows = [lowest_removed(each[self.group.span], count)[0] for each in scores]
        losses = self._measure.measure(rows).loss.tolist()
        return tuple(OracleRank(sets=sets, loss=loss) for loss in losses)

    def _drawn(self, units: int, removed: int) -> Iterator[Kept]:
        generator = np.random.default_rng([self._seed, removed])
        for _ in range(self._most):
            kept = np.ones(units, bool)
            kept[generator.choice(units, removed, replace=False)] = False
            yield kept


def _all_sets(units: int, removed: int) -> Iterator[Kept]:
    for gone in combinations(range(units), removed):
        kept = np.ones(units, bool)
        kept[list(gone)] = False
        yield kept
