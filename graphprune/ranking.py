"""Rankings: every unit of a network with its score, higher = keep."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from graphprune.errors import OptionError
from graphprune.graph import DependencyGraph

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Effort:
    """What scores took, where a game was played.

    Args:
        estimator: What estimated them.
        evaluations: Coalitions evaluated, each on all images.
        stability: Rank correlation that another run would have with this one, if it was asked.
        stopped: What ended the work: ``budget``, ``seconds`` or ``stable``.
    """

    estimator: str
    evaluations: int
    stability: float | None = None
    stopped: str = "budget"


@dataclass(frozen=True)
class GroupScores:
    """Scores of one group's units.

    Args:
        name: The group.
        scores: (n_units,), higher = keep, in the order of ``PruningGroup.units``.
        stderr: (n_units,) standard errors of the scores over the calibration images; zeros for
            criteria that look at no images.
        effort: What they took; None where no game was played. Groups that play one game together
            share one.
    """

    name: str
    scores: Scores
    stderr: Scores
    effort: Effort | None = None

    @property
    def units(self) -> int:
        """Number of units."""
        return int(self.scores.size)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Every unit's score, and how it was found.

    Args:
        graph: The network that was ranked.
        groups: Scores, group by group in the graph's order.
        criterion: Name of the criterion.
        game: ``network``, ``group`` or ``hierarchical`` for criteria that play one, else None.
        estimator: Name of the Shapley estimator, for criteria that use one.
        value: What a coalition is worth (``kl``, ``cross-entropy``, ``accuracy``), if it was asked.
        aggregate: How per-image values became scores, where they did.
        evaluations: Coalitions evaluated, each on all calibration images.
        n_images: Calibration images.
        seed: Seed of everything random.
        protected: Groups of which no unit may go.
        semivalue: The semivalue estimated, where one was.
        notes: What the user should know of how the scores came about.
        for_ratio: The largest share of multiply-accumulates that the scores were made for; None
            where they were made for none in particular.
        for_repair: The repair that the scores were made for, ``none`` or ``least-squares``; None
            where they were made for none in particular.
    """

    graph: DependencyGraph = field(repr=False, compare=False)
    groups: tuple[GroupScores, ...]
    criterion: str
    game: str | None = None
    estimator: str | None = None
    value: str | None = None
    aggregate: str | None = None
    evaluations: int = 0
    n_images: int = 0
    seed: int = 0
    protected: tuple[str, ...] = ()
    semivalue: str | None = None
    notes: tuple[str, ...] = ()
    for_ratio: float | None = None
    for_repair: str | None = None

    def __post_init__(self) -> None:
        expected = [(group.name, group.n_units) for group in self.graph.groups]
        if [(group.name, group.units) for group in self.groups] != expected:
            raise OptionError(
                "the ranking's groups are not those of the network",
                hint="rank the network that you prune, with the same version of graphprune",
            )

    @property
    def scores(self) -> Scores:
        """Scores of all units of the network, (n_units,)."""
        return np.concatenate([group.scores for group in self.groups] or [np.zeros(0)])


def split_by_group(
    graph: DependencyGraph,
    scores: Scores,
    stderr: Scores | None = None,
    efforts: tuple[Effort, ...] = (),
) -> tuple[GroupScores, ...]:
    """Cut scores of all units (n_units,) into groups."""
    errors = np.zeros_like(scores) if stderr is None else stderr
    return tuple(
        GroupScores(group.name, scores[group.span].astype(np.float64), errors[group.span], effort)
        for group, effort in zip_longest(graph.groups, efforts)
    )
