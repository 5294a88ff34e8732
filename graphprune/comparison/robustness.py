"""Layerwise robustness: what the network loses as the units of one group go, lowest score first.

The experiment that criteria are compared by in Ancona, Öztireli and Gross (2020), arXiv 2006.01795:
in one group at a time units are masked in ascending order of score while all other groups stay
whole. A criterion that knows what matters keeps the loss low for long. Nothing is repaired and no
costs enter, so it is the order alone that counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from graphprune.comparison.measuring import GroupMeasure
from graphprune.criteria.images import fitting_images
from graphprune.data import CalibrationBatches
from graphprune.errors import OptionError
from graphprune.game.evaluation import DEFAULT, Running
from graphprune.graph import DependencyGraph, Kept
from graphprune.groups import PruningGroup
from graphprune.progress import Progress, silent
from graphprune.ranking import Scores

POINTS = 16
"""Numbers of removed units at which a curve is measured, at most."""

IMAGES = 256
"""Images that comparisons draw curves on, at most."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What the masked network loses as the units of one group go.

    Args:
        group: The group.
        units: How many units it has.
        removed: Numbers of units masked, ascending from 0 to all but one.
        loss: Mean loss for each: cross-entropy with labels, else the divergence from the unpruned
            network.
        right: Share of images whose most likely class is the label, without labels the unpruned
            network's; None for networks of one output.
    """

    group: str
    units: int
    removed: tuple[int, ...]
    loss: tuple[float, ...]
    right: tuple[float, ...] | None

    @property
    def fractions(self) -> tuple[float, ...]:
        """The share of the group's units that is masked, for each point."""
        return tuple(count / self.units for count in self.removed)

    @cached_property
    def increase(self) -> Scores:
        """How much the loss has risen at each point."""
        return np.array(self.loss) - self.loss[0]

    @property
    def area(self) -> float:
        """Mean height of the curve: area under the loss increase over the fraction's range."""
        return float(np.trapezoid(self.increase, self.removed)) / self.removed[-1]

    @property
    def per_unit(self) -> float:
        """Loss increase divided by the number of units masked, averaged over the points."""
        return float(np.mean(self.increase[1:] / np.array(self.removed[1:])))


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """The curves of one ranking.

    Args:
        curves: One for each group of two units at least, in the graph's order.
    """

    curves: tuple[Curve, ...]

    @property
    def area(self) -> float:
        """Mean over the groups of :attr:`Curve.area`; lower is better."""
        return float(np.mean([curve.area for curve in self.curves]))

    @property
    def per_unit(self) -> float:
        """Mean over the groups of :attr:`Curve.per_unit`; lower is better."""
        return float(np.mean([curve.per_unit for curve in self.curves]))


def layerwise_robustness(
    graph: DependencyGraph,
    data: CalibrationBatches,
    scores: Sequence[Scores],
    *,
    groups: Sequence[str] | None = None,
    points: int = POINTS,
    running: Running = DEFAULT,
    progress: Progress = silent,
) -> tuple[Robustness, ...]:
    """Mask the units of one group at a time in ascending order of score.

    Args:
        graph: The network.
        data: Images to judge on; they should have ranked nothing.
        scores: One (n_units,) for each ranking, higher = keep, e.g. ``ranking.scores``.
        groups: Names of the groups to look at; all by default.
        points: Numbers of removed units at which curves are measured, at most.
        running: How and where the network is run.
        progress: Told about every group.

    Returns:
        One for each ranking, in order.

    Raises:
        OptionError: No group has two units, or there are too few points.
    """
    if points < 1:
        raise OptionError(f"{points} points make no curve", hint="give 1 or more")
    chosen = [g for g in graph.groups if len(g) > 1 and (groups is None or g.name in groups)]
    if not chosen:
        raise OptionError("no group has two units, so none can lose any")
    images = fitting_images(graph, data, 0, needed=True)
    assert images is not None
    found = []
    for place, group in enumerate(chosen):
        measure = GroupMeasure(graph, group, images, running)
        found.append(_curves(measure, group, [each[group.span] for each in scores], points))
        progress("layerwise robustness", place + 1, len(chosen))
    return tuple(Robustness(curves=curves) for curves in zip(*found, strict=True))


def _curves(
    measure: GroupMeasure, group: PruningGroup, scores: Sequence[Scores], points: int
) -> list[Curve]:
    counts = removal_counts(group.n_units, points)
    rows = [kept for each in scores for kept in lowest_removed(each, counts)]
    measured = measure.measure(rows)
    shape = len(scores), len(counts)
    loss = measured.loss.reshape(shape).tolist()
    shares = None if measured.right is None else measured.right.reshape(shape).tolist()
    return [
        Curve(
            group=group.name,
            units=group.n_units,
            removed=tuple(counts.tolist()),
            loss=tuple(loss[place]),
            right=None if shares is None else tuple(shares[place]),
        )
        for place in range(len(scores))
    ]


def removal_counts(n_units: int, points: int) -> npt.NDArray[np.int64]:
    """Return evenly spaced whole numbers from 0 to all units but one."""
    most = n_units - 1
    return np.unique(np.linspace(0, most, min(points, most) + 1).round().astype(np.int64))


def lowest_removed(scores: Scores, counts: npt.NDArray[np.int64]) -> list[Kept]:
    """Return, for each count, which units are kept when so many of the lowest scores go."""
    place = np.empty(scores.size, np.int64)
    place[np.argsort(scores, kind="stable")] = np.arange(scores.size)
    return [place >= count for count in counts.tolist()]
