"""graphprune's criteria as contenders: ranked once, or a step at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import Tensor

import graphprune as gp
from benchmarks.lowdata.subjects import Images, Subject
from graphprune.graph import DependencyGraph
from graphprune.surgery import PrunedModel, cut

T = TypeVar("T")

SHAPLEY = "shapley"
OURS = "graphprune"

ONE_SHOT = (
    "taylor",
    "fisher",
    "leave-one-out",
    "obs",
    "group-magnitude",
    "l2",
    "bn-scale",
    "torch-pruning:GroupMagnitude",
    "torch-pruning:GroupTaylor",
    "torch-pruning:GroupHessian",
    "torch-pruning:LAMP",
    "random",
)
"""Criteria without a game, by the names that ``--criterion`` takes."""

INSIDE = ("taylor", "fisher", "group-magnitude", "l2", "bn-scale")
"""Those of them that are also tried on interiors alone, where the network has streams."""

ITERATED = ("taylor", "fisher")
STEPS = (2, 4, 8)

REPAIRS = ("none", "batchnorm", "least-squares")


@dataclass(frozen=True)
class Stage:
    """A network and the calibration images of one seed.

    Args:
        subject: The network.
        graph: The network, traced.
        images: Calibration images.
        seed: Which drew the images, and draws everything random.
    """

    subject: Subject
    graph: DependencyGraph
    images: Images
    seed: int
    _known: dict[tuple[Hashable, ...], Timed[Any]] = field(default_factory=dict, repr=False)

    def once(self, make: Callable[[], T], *key: Hashable) -> Timed[T]:
        """Return what was made under this key before, or make it."""
        if key not in self._known:
            begun = time.perf_counter()
            made = make()
            self._known[key] = Timed(made, time.perf_counter() - begun)
        return self._known[key]


@dataclass(frozen=True)
class Timed(Generic[T]):
    """Something and the seconds that making it took."""

    made: T
    seconds: float


@dataclass(frozen=True)
class Contender:
    """Someone who makes networks smaller.

    Args:
        name: For the table.
        prune: Takes a stage, the share of multiply-accumulates that goes and the name of the
            repair that will follow; returns the network, not yet repaired, which
            :func:`graphprune.repair` takes, and the seconds that choosing took. Raises
            :class:`graphprune.errors.BudgetError` where so much cannot go.
        party: Whose it is.
        repairs: What may follow.
    """

    name: str
    prune: Callable[[Stage, float, str], Timed[PrunedModel]]
    party: str = OURS
    repairs: tuple[str, ...] = REPAIRS


def ours(streams: bool) -> list[Contender]:
    """Return graphprune's criteria, one-shot and iterated.

    Args:
        streams: Whether the network has residual streams that some cheap criteria, which do not
            compare well between streams and interiors, had better leave alone.
    """
    games = [game(ahead=True), game(ahead=False)]
    once = [one_shot(criterion) for criterion in ONE_SHOT]
    inside = [one_shot(criterion, streams=False) for criterion in INSIDE] if streams else []
    again = [iterated(criterion, steps) for criterion in ITERATED for steps in STEPS]
    again.append(iterated(SHAPLEY, STEPS[1]))
    return [*games, *once, *inside, *again]


def game(*, ahead: bool) -> Contender:
    """Rank by the default criterion for the ratio that will be removed, as ``prune`` does.

    Where no repair follows, units trade places, which takes part of the seconds.

    Args:
        ahead: Whether scores look ahead to the repair that follows, if one does.
    """

    def rank(stage: Stage, ratio: float) -> gp.Ranking:
        return gp.rank(stage.graph, (stage.images.x,), SHAPLEY, stage.seed, for_ratio=ratio)

    def prune(stage: Stage, ratio: float, follows: str) -> Timed[PrunedModel]:
        ranked = stage.once(lambda: rank(stage, ratio), SHAPLEY, ratio)
        begun = time.perf_counter()
        ranking, data = ranked.made, (stage.images.x,)
        if follows == "none":
            plan = gp.exchange(ranking, data, ratio=ratio, of="macs", seed=stage.seed).plan
        elif ahead:
            plan = planned(ranking, data, ratio, follows, stage.seed)
        else:
            plan = gp.select(ranking, ratio=ratio, of="macs", scope="global")
        seconds = ranked.seconds + time.perf_counter() - begun
        return Timed(cut(stage.graph, plan.kept(stage.graph)), seconds)

    if ahead:
        return Contender(SHAPLEY, prune)
    return Contender(f"{SHAPLEY}, masked game", prune, repairs=REPAIRS[1:])


def planned(
    ranking: gp.Ranking, data: tuple[Tensor, ...], ratio: float, repair: str, seed: int
) -> gp.PruningPlan:
    """Plan ahead of a repair as ``prune`` does: by whichever scores leave more after it."""
    weighed = gp.weigh(
        ranking, data, ratio=ratio, of="macs", scope="global", repair=repair, seed=seed
    )
    if weighed is not None:
        return weighed.best.plan
    return gp.select(ranking.ahead_of(repair), ratio=ratio, of="macs", scope="global")


def one_shot(criterion: str, *, streams: bool = True) -> Contender:
    """Rank once; the lowest scores per multiply-accumulate of the whole network go.

    Args:
        criterion: As ``--criterion`` takes it.
        streams: Whether units of residual streams may go.
    """

    def rank(stage: Stage) -> gp.Ranking:
        data = (stage.images.x,)
        skip = () if streams else [f"{layer}.weight" for layer in stage.subject.streams]
        return gp.rank(stage.graph, data, criterion, stage.seed, skip=skip)

    def prune(stage: Stage, ratio: float, repair: str) -> Timed[PrunedModel]:
        del repair
        ranked = stage.once(lambda: rank(stage), criterion, streams)
        plan = gp.select(ranked.made, ratio=ratio, of="macs", scope="global")
        return Timed(cut(stage.graph, plan.kept(stage.graph)), ranked.seconds)

    return Contender(criterion + ("" if streams else ", interiors"), prune)


def iterated(criterion: str, steps: int) -> Contender:
    """Rank again after every part of the budget, on what is left of the network."""

    def choose(stage: Stage, ratio: float) -> gp.PruningPlan:
        return gp.select_in_steps(
            stage.graph,
            (stage.images.x,),
            criterion,
            stage.seed,
            steps=steps,
            ratio=ratio,
            of="macs",
            scope="global",
            repair="none",
        ).plan

    def prune(stage: Stage, ratio: float, repair: str) -> Timed[PrunedModel]:
        del repair
        plan = stage.once(lambda: choose(stage, ratio), criterion, steps, ratio)
        return Timed(cut(stage.graph, plan.made.kept(stage.graph)), plan.seconds)

    return Contender(f"{criterion}, {steps} steps", prune)
