"""Rankings: every unit of a network with its score, higher = keep."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
class MaskedScores:
    """A group's values in the masked game alone, where its scores are others.

    Args:
        scores: (n_units,), higher = keep.
        stderr: (n_units,) standard errors.
    """

    scores: Scores
    stderr: Scores


@dataclass(frozen=True)
class RefitScores:
    """Values in the refit game: the higher, the less of what a unit does can be made up for.

    Args:
        average: (n_units,) mean marginals near the coalitions that pruning will visit.
        greedy: (n_units,) marginals as units go layer by layer, the cheapest first; None where they
            are not known.
    """

    average: Scores
    greedy: Scores | None = None

    def along(self, *, greedy: bool) -> Scores | None:
        """Return the ones or the others."""
        return self.greedy if greedy else self.average

    def of(self, span: slice) -> RefitScores:
        """Return those of some units."""
        return RefitScores(self.average[span], None if self.greedy is None else self.greedy[span])


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
        refit: Values in the refit game; None where it was not played.
        masked: What the scores were before they looked ahead to a repair; None if they do not.
    """

    name: str
    scores: Scores
    stderr: Scores
    effort: Effort | None = None
    refit: RefitScores | None = None
    masked: MaskedScores | None = None

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
            where they were made for none in particular. A ranking that knows values in the refit
            game, too, is made one for any repair by :meth:`ahead_of`.
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

    def ahead_of(self, repair: str) -> Ranking:
        """Return the ranking that looks ahead to a repair.

        Args:
            repair: Name of a repair method, ``auto`` among them. Where it refits layers,
                scores count by what no refit can make up for, if the ranking knows that; by the
                greedy values, which were never far from the best.
        """
        if not self.knows_refits:
            return self
        share = AHEAD if repair in REFITTING else 0.0
        return self.weighed(share, greedy=self.knows_greedy_refits)

    @property
    def knows_refits(self) -> bool:
        """Whether there are values in the refit game, too."""
        return self._refit(greedy=False) is not None

    @property
    def knows_greedy_refits(self) -> bool:
        """Whether there are greedy ones among them."""
        return self._refit(greedy=True) is not None

    def _refit(self, *, greedy: bool) -> Scores | None:
        """Return values of all units in the refit game, (n_units,), if they are known."""
        refits = [None if g.refit is None else g.refit.along(greedy=greedy) for g in self.groups]
        known = [each for each in refits if each is not None]
        return np.concatenate(known) if known and len(known) == len(refits) else None

    def weighed(self, share: float, *, greedy: bool = False) -> Ranking:
        """Return the ranking by both games together.

        Args:
            share: Of the refit game in the geometric mean, from 0 (the masked game alone) to 1.
            greedy: Whether its values are the greedy ones.

        Raises:
            OptionError: The ranking does not know the refit game, or not these values.
        """
        refit = self._refit(greedy=greedy and share > 0)
        if refit is None:
            raise OptionError(
                "the ranking knows no values in the refit game",
                hint="rank by shapley with images, for_repair 'auto' and value 'kl'",
            )
        if share == 0 and all(group.masked is None for group in self.groups):
            return self
        alone = [group.masked or MaskedScores(group.scores, group.stderr) for group in self.groups]
        scores = np.concatenate([each.scores for each in alone])
        stderr = np.concatenate([each.stderr for each in alone])
        if share:
            scores, stderr = geometric_means(scores, refit, stderr, share)
        groups = tuple(
            replace(
                scored,
                scores=scores[group.span],
                stderr=stderr[group.span],
                masked=masked if share else None,
            )
            for group, scored, masked in zip(self.graph.groups, self.groups, alone, strict=True)
        )
        return replace(self, groups=groups, for_repair="least-squares" if share else None)


REFITTING = ("auto", "least-squares", "distill")
"""Repairs that refit layers to what is left. New statistics of batch norms are no substitute: what
is cheap for a refit can be dear without one."""

AHEAD = 0.5
"""Share of the refit game in scores that look ahead to a refit."""

_LEAST = 1e-9
"""Values below this share of the largest count as that much: some are negative."""


def geometric_means(
    scores: Scores, refit: Scores, stderr: Scores, share: float = AHEAD
) -> tuple[Scores, Scores]:
    """Return the geometric means of two values of every unit, and their standard errors.

    Two games measure in units of their own; a geometric mean is the mean whose ranking does not
    depend on them.

    Args:
        scores: (n_units,), with ...
        refit: (n_units,) of no error.
        stderr: ... these standard errors.
        share: Weight of ``refit``, from 0 to 1.
    """
    one, other = (np.maximum(v, _LEAST * max(v.max(initial=0.0), 1e-300)) for v in (scores, refit))
    means: Scores = one ** (1 - share) * other**share
    return means, (1 - share) * means * stderr / one


def split_by_group(
    graph: DependencyGraph,
    scores: Scores,
    stderr: Scores | None = None,
    efforts: tuple[Effort | None, ...] = (),
    refit: RefitScores | None = None,
) -> tuple[GroupScores, ...]:
    """Cut scores of all units (n_units,) into groups."""
    errors = np.zeros_like(scores) if stderr is None else stderr
    return tuple(
        GroupScores(
            group.name,
            scores[group.span].astype(np.float64),
            errors[group.span],
            effort,
            None if refit is None else refit.of(group.span),
        )
        for group, effort in zip_longest(graph.groups, efforts)
    )
