"""Candidates: the plans of several criteria, of which the most faithful network's is kept.

No criterion ranks best on every network, at every ratio, with and without repair. What counts can
be measured: each criterion's plan is cut and repaired with three quarters of the calibration
images, and judged by the others, without labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from graphprune import criteria
from graphprune.data import CalibrationBatches
from graphprune.errors import DataError, OptionError
from graphprune.fidelity import Fidelity, Judge
from graphprune.graph import DependencyGraph, Kept
from graphprune.progress import Progress, silent
from graphprune.ranking import Ranking
from graphprune.selection import PruningPlan
from graphprune.steps import Stepped

CANDIDATES = ("shapley", "taylor", "fisher", "obs", "group-magnitude")
"""Criteria that compete, in the order in which ties are settled; those that exist."""

HELD_OUT = 16
"""Images that judge, at least."""

Planner = Callable[[str, CalibrationBatches], Stepped]
"""Ranks with a criterion on data and selects."""

Builder = Callable[[Kept, CalibrationBatches], nn.Module]
"""Returns the network with the units kept, repaired on data if it is to be."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One criterion's plan, and what it is worth.

    Args:
        criterion: The criterion.
        stepped: Its ranking and plan.
        fidelity: Of the cut and repaired network, on images held out.
    """

    criterion: str
    stepped: Stepped
    fidelity: Fidelity

    @property
    def divergence(self) -> float:
        """What is compared, lower is better; infinite where predictions are not finite."""
        return self.fidelity.kl if math.isfinite(self.fidelity.kl) else math.inf


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Several candidates, the best first.

    Args:
        candidates: By divergence, the lowest first.
        n_images: Images that they were judged by.
    """

    candidates: tuple[Candidate, ...]
    n_images: int

    @property
    def best(self) -> Candidate:
        """The candidate that diverges least."""
        return self.candidates[0]

    @property
    def ranking(self) -> Ranking:
        """The best candidate's ranking."""
        return self.best.stepped.ranking

    @property
    def plan(self) -> PruningPlan:
        """The best candidate's plan."""
        return self.best.stepped.plan


def candidates() -> tuple[str, ...]:
    """Return the criteria that compete by default."""
    return tuple(name for name in CANDIDATES if name in criteria.available())


def n_held_out(data: CalibrationBatches) -> int:
    """Return how many images judge: a quarter, and no fewer than 16.

    Raises:
        DataError: There are not twice as many.
    """
    if data.n_images < 2 * HELD_OUT:
        raise DataError(
            f"{data.n_images} images are too few to choose a criterion by",
            hint=f"give at least {2 * HELD_OUT}, which need no labels, or name one criterion",
        )
    return max(HELD_OUT, data.n_images // 4)


def choose_among(
    graph: DependencyGraph,
    data: CalibrationBatches | None,
    *,
    plan: Planner,
    build: Builder,
    names: Sequence[str] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Choice:
    """Plan with several criteria and order them by how faithful the networks are.

    Args:
        graph: The network.
        data: Calibration images; a quarter of them, 16 at least, only judges.
        plan: Ranks and selects.
        build: Cuts and repairs.
        names: The criteria; :func:`candidates` by default.
        seed: Chooses the images that judge.
        progress: Told about every step.

    Raises:
        DataError: There are no images, or too few.
        OptionError: There are no criteria to choose among.
    """
    names = candidates() if names is None else tuple(dict.fromkeys(names))
    if not names:
        raise OptionError("there are no criteria to choose among", hint="name two or more")
    if data is None:
        raise DataError(
            "choosing a criterion needs calibration images to judge by",
            hint="give some with --data, or name one criterion",
        )
    rest, aside = data.split(n_held_out(data), seed=seed)
    judge = Judge(graph, aside)
    found = []
    for place, name in enumerate(names):
        progress(f"trying {name}", place, len(names))
        stepped = plan(name, rest)
        kept = stepped.plan.kept(graph)
        fidelity = judge.judge(build(kept, rest), kept)
        found.append(Candidate(criterion=name, stepped=stepped, fidelity=fidelity))
        progress(f"trying {name}", place + 1, len(names))
    ordered = sorted(found, key=lambda candidate: candidate.divergence)
    return Choice(candidates=tuple(ordered), n_images=aside.n_images)
