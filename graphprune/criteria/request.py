"""What a criterion is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

from graphprune.checkpoint import Checkpoint
from graphprune.data import CalibrationBatches
from graphprune.distributed import ALONE, Ranks
from graphprune.estimators.semivalues import SHAPLEY, Semivalue
from graphprune.game.evaluation import DEFAULT, Running
from graphprune.game.games import DEFAULT_BAND
from graphprune.game.value import Value
from graphprune.graph import DependencyGraph
from graphprune.progress import Progress, silent
from graphprune.ranking import Effort, RefitScores, Scores


@dataclass(frozen=True, kw_only=True)
class RankRequest:
    """What a criterion is asked.

    Args:
        graph: The network.
        data: Calibration images; None for criteria that look at none.
        game: ``network``, ``group``, ``hierarchical`` or None for the criterion's own choice.
        estimator: Name of a Shapley estimator, or ``auto``.
        semivalue: Which coalitions count for a unit's value.
        value: A performance by name, the user's own, or None for the criterion's own choice.
        aggregate: How per-image values become scores, or None for the criterion's own choice.
        budget: Coalitions per player (network game: per image), None for the estimator's default.
        seconds: Time that estimates may take.
        stability: Stability that ends an estimate, see :mod:`graphprune.estimators.stopping`.
        for_ratio: Largest share of multiply-accumulates that pruning will take, in (0, 1).
        for_repair: The repair that games in a band look ahead to: ``least-squares``, ``none``, or
            ``auto`` for both.
        seed: Seed of everything random.
        running: How and where the network is run.
        progress: Told about every step.
        checkpoint: Where long work keeps what it has found.
        ranks: The processes that work together.
    """

    graph: DependencyGraph
    data: CalibrationBatches | None
    game: str | None = None
    estimator: str = "auto"
    value: Value | None = None
    aggregate: str | None = None
    semivalue: Semivalue = SHAPLEY
    budget: int | None = None
    seconds: float | None = None
    stability: float | None = None
    for_ratio: float = DEFAULT_BAND
    for_repair: str = "none"
    seed: int = 0
    running: Running = DEFAULT
    progress: Progress = field(default=silent)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    ranks: Ranks = ALONE

    @property
    def images(self) -> CalibrationBatches:
        """Calibration images, for criteria that are registered as looking at some."""
        assert self.data is not None
        return self.data

    @property
    def device(self) -> str:
        """Where networks are run, e.g. ``cpu`` or ``cuda``."""
        return self.running.device

    @property
    def worth(self) -> Value:
        """The performance, ``kl`` unless another was chosen."""
        return "kl" if self.value is None else self.value


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A criterion's answer.

    Args:
        scores: (n_units,) over the whole network, higher = keep.
        stderr: (n_units,) standard errors over the calibration images; None if there are none.
        game: The game that was played, if any.
        estimator: The estimator used, if any.
        value: The performance used, if any.
        aggregate: How per-image values became scores, if they did.
        semivalue: The semivalue estimated, if any.
        evaluations: Coalitions evaluated, each on all images.
        left_alone: Groups that the criterion has no score for; they are not pruned.
        efforts: What the scores of each group took, in order, where a game was played.
        notes: What the user should know of how the scores came about.
        for_ratio: The largest share of multiply-accumulates that the scores were made for; None
            where they were made for none in particular.
        for_repair: The repair that the scores were made for, if for any in particular.
        refit: Values in the refit game, which make of the scores others that look ahead to least
            squares; None if it was not played.
    """

    scores: Scores
    stderr: Scores | None = None
    game: str | None = None
    estimator: str | None = None
    value: Value | None = None
    aggregate: str | None = None
    evaluations: int = 0
    semivalue: str | None = None
    left_alone: tuple[str, ...] = ()
    efforts: tuple[Effort, ...] = ()
    notes: tuple[str, ...] = ()
    for_ratio: float | None = None
    for_repair: str | None = None
    refit: RefitScores | None = None


Criterion = Callable[[RankRequest], Scored]

UserCriterion = Callable[[RankRequest], Scored | Tensor | npt.NDArray[np.generic]]
"""A criterion of the user's own may also return the scores alone, (n_units,)."""

ValueFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A value of the user's own: outputs, the unpruned network's, labels -> (images,)."""
