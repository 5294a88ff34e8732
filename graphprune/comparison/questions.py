"""What a comparison asks, and under which conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphprune.comparison.contestants import Contestant, contestants
from graphprune.comparison.images import Images
from graphprune.comparison.oracle import SETS, oracle_groups
from graphprune.comparison.robustness import POINTS
from graphprune.criteria import UserCriterion
from graphprune.errors import OptionError
from graphprune.game.evaluation import Running
from graphprune.graph import DependencyGraph
from graphprune.repairs import available as repair_methods
from graphprune.selection import Budget, check_budget
from graphprune.steering import protected_groups

CRITERIA = ("shapley", "taylor", "group-magnitude")
"""What is compared unless something else is asked for; the floor comes on top."""

RATIOS = (0.1, 0.3, 0.5)
SEEDS = 3

REPAIRS = ("none", "auto")
"""As cut, and what ``prune`` does where there is data."""

COSTS = ("units", "params", "macs")
"""What ratios can be of."""


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What a user asks for.

    Args:
        criteria: Names with their settings, see :mod:`graphprune.comparison.contestants`, or
            functions of the user's own.
        ratios: Fractions to remove.
        seeds: A list, or how many counted from 0.
        repairs: Methods tried on every pruned network; ``auto`` is the one that ``prune`` uses.
        floor: Let the random criterion take part also where it is not named.
        of: The cost that ratios are a fraction of.
        scope: ``auto``, ``global`` or ``group``, see :func:`graphprune.select`.
        min_units: Units that every group keeps.
        round_to: Keep multiples of so many units.
        only: Patterns of groups that may be pruned.
        skip: Patterns of groups that are left alone.
        calibration: Images that every seed draws; three quarters of those that may rank by default.
        labels: Let criteria see labels.
        robustness: Also draw layerwise robustness curves.
        points: Points of a curve at most.
        oracle: Patterns of groups whose removed sets are placed among all sets, or ``auto``.
        sets: Sets of one size that the oracle measures at most.
        image_seed: Parts the images.
    """

    criteria: tuple[str | UserCriterion, ...] = CRITERIA
    ratios: tuple[float, ...] = RATIOS
    seeds: int | tuple[int, ...] = SEEDS
    repairs: tuple[str, ...] = REPAIRS
    floor: bool = True
    of: str = "macs"
    scope: str = "auto"
    min_units: int = 1
    round_to: int = 1
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    calibration: int | None = None
    labels: bool = True
    robustness: bool = False
    points: int = POINTS
    oracle: tuple[str, ...] = ()
    sets: int = SETS
    image_seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What is asked.

    Args:
        contestants: Who takes part.
        ratios: Fractions to remove.
        seeds: Each draws its own images, and seeds what is random in a criterion.
        repairs: Methods tried on every pruned network.
        robustness: Also draw layerwise robustness curves.
        points: Points of a curve at most.
        oracle: Names of the groups whose removed sets are placed among all sets.
        sets: Sets of one size that are measured at most.
    """

    contestants: tuple[Contestant, ...]
    ratios: tuple[float, ...]
    seeds: tuple[int, ...]
    repairs: tuple[str, ...]
    robustness: bool = False
    points: int = POINTS
    oracle: tuple[str, ...] = ()
    sets: int = SETS


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What every figure depends on; a comparison that goes on must have the same.

    Args:
        of: The cost that ratios are a fraction of.
        scope: ``global`` or ``group``, see :func:`graphprune.select`.
        min_units: Units that every group keeps.
        round_to: Keep multiples of so many units.
        protected: Groups that are left alone.
        n_drawn: Images that every seed ranks and repairs with.
        n_judging: Images that judge.
        labels: Criteria see labels, where there are some.
        image_seed: Parts the images, and draws the oracle's sets where there are too many.
        precision: What networks are run in while ranking.
        device: Where.
    """

    of: str
    scope: str
    min_units: int
    round_to: int
    protected: tuple[str, ...]
    n_drawn: int
    n_judging: int
    labels: bool
    image_seed: int
    precision: str
    device: str


def questions_of(graph: DependencyGraph, options: CompareOptions) -> Questions:
    """Return what is asked, once all of it can be asked.

    Raises:
        OptionError: Something is missing, named twice, or unknown.
    """
    seeds = options.seeds
    questions = Questions(
        contestants=contestants(options.criteria, floor=options.floor),
        ratios=options.ratios,
        seeds=tuple(range(seeds)) if isinstance(seeds, int) else seeds,
        repairs=options.repairs,
        robustness=options.robustness,
        points=options.points,
        sets=options.sets,
        oracle=tuple(group.name for group in oracle_groups(graph, options.oracle)),
    )
    for name, given in (
        ("ratios", questions.ratios),
        ("seeds", questions.seeds),
        ("repairs", questions.repairs),
    ):
        _check_list(name, given)
    for method in questions.repairs:
        _check_repair(method)
    _check_cost(options.of)
    for ratio in options.ratios:
        check_budget(_budget(ratio, options))
    _check_counts(questions, options)
    return questions


def conditions_of(
    graph: DependencyGraph, images: Images, options: CompareOptions, running: Running
) -> Conditions:
    """Return what every figure depends on.

    Raises:
        OptionError: A pattern matches nothing.
    """
    return Conditions(
        of=options.of,
        scope=_budget(options.ratios[0], options).chosen_scope,
        min_units=options.min_units,
        round_to=options.round_to,
        protected=protected_groups(graph, options.only, options.skip),
        n_drawn=images.n_drawn,
        n_judging=images.judging.n_images,
        labels=options.labels,
        image_seed=options.image_seed,
        precision=running.precision,
        device=running.device,
    )


def _budget(ratio: float, options: CompareOptions) -> Budget:
    return Budget(
        ratio=ratio,
        of=options.of,
        scope=options.scope,
        min_units=options.min_units,
        round_to=options.round_to,
    )


def _check_cost(name: str) -> None:
    if name not in COSTS:
        raise OptionError(
            f"of {name!r} is none of {', '.join(COSTS)}",
            hint="networks whose latency differs are compared with `graphprune bench`",
        )


def _check_repair(name: str) -> None:
    if name not in repair_methods():
        raise OptionError(f"repair {name!r} is none of {', '.join(repair_methods())}")


def _check_list(name: str, given: Sequence[object]) -> None:
    if not given:
        raise OptionError(f"there are no {name}", hint="give one at least")
    for place, each in enumerate(given):
        if each in given[:place]:
            raise OptionError(f"{each!r} is named twice among the {name}")


def _check_counts(questions: Questions, options: CompareOptions) -> None:
    if min(questions.seeds) < 0:
        raise OptionError(f"seed {min(questions.seeds)} is negative", hint="seeds count from 0")
    for name, count in (("points", options.points), ("sets", options.sets)):
        if count < 1:
            raise OptionError(f"{count} {name} are too few", hint="give 1 or more")
