"""The registry of criteria, and how one is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

import numpy as np
import torch
from torch.utils import _pytree as pytree

from graphprune.checkpoint import Checkpoint, StateStore
from graphprune.data import CalibrationBatches, check_against, synthetic
from graphprune.errors import DataError, OptionError
from graphprune.estimators import AGGREGATES
from graphprune.estimators import available as available_estimators
from graphprune.game.value import PERFORMANCES, class_logits
from graphprune.graph import DependencyGraph
from graphprune.progress import Progress, silent
from graphprune.ranking import Ranking, Scores, split_by_group
from graphprune.steering import protected_groups

SYNTHETIC_IMAGES = 32
"""Inputs drawn where a criterion needs some and none are given."""

GAMES = ("network", "group")


@dataclass(frozen=True, kw_only=True)
class RankRequest:
    """What a criterion is asked.

    Args:
        graph: The network.
        data: Calibration images; None for criteria that look at none.
        game: ``network``, ``group`` or None for the criterion's own choice.
        estimator: Name of a Shapley estimator, or ``auto``.
        value: Name of a performance, or None for the criterion's own choice.
        aggregate: How per-image values become scores, or None for the criterion's own choice.
        budget: Coalitions per player (network game: per image), None for the estimator's default.
        seed: Seed of everything random.
        device: Where networks are run, e.g. ``cpu`` or ``cuda``.
        progress: Told about every step.
        checkpoint: Where long work keeps what it has found.
    """

    graph: DependencyGraph
    data: CalibrationBatches | None
    game: str | None = None
    estimator: str = "auto"
    value: str | None = None
    aggregate: str | None = None
    budget: int | None = None
    seed: int = 0
    device: str = "cpu"
    progress: Progress = field(default=silent)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)

    @property
    def images(self) -> CalibrationBatches:
        """Calibration images, for criteria that are registered as looking at some."""
        assert self.data is not None
        return self.data


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
        evaluations: Coalitions evaluated, each on all images.
        left_alone: Groups that the criterion has no score for; they are not pruned.
    """

    scores: Scores
    stderr: Scores | None = None
    game: str | None = None
    estimator: str | None = None
    value: str | None = None
    aggregate: str | None = None
    evaluations: int = 0
    left_alone: tuple[str, ...] = ()


Criterion = Callable[[RankRequest], Scored]


@dataclass(frozen=True)
class _Entry:
    score: Criterion
    needs_data: bool


_CRITERIA: dict[str, _Entry] = {}


def criterion(name: str, *, needs_data: bool) -> Callable[[Criterion], Criterion]:
    """Register a criterion.

    Args:
        name: What ``--criterion`` takes.
        needs_data: It looks at images; synthetic ones are drawn where none are given.

    Raises:
        OptionError: The name is taken.
    """

    def add(function: Criterion) -> Criterion:
        if name in _CRITERIA:
            raise OptionError(f"two criteria are called {name!r}")
        _CRITERIA[name] = _Entry(function, needs_data)
        return function

    return add


def available() -> tuple[str, ...]:
    """Return the names of all criteria."""
    return tuple(sorted(_CRITERIA))


def needs_data(name: str) -> bool:
    """Whether a criterion looks at images.

    Raises:
        OptionError: There is no criterion of that name.
    """
    return _entry(name).needs_data


def rank(  # noqa: PLR0913 - one argument per option of the command
    graph: DependencyGraph,
    data: CalibrationBatches | None = None,
    *,
    criterion: str = "shapley",
    game: str | None = None,
    estimator: str = "auto",
    value: str | None = None,
    aggregate: str | None = None,
    budget: int | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = silent,
    store: StateStore | None = None,
) -> Ranking:
    """Score every unit of a network.

    Args:
        graph: The traced network.
        data: Calibration images; None draws synthetic inputs for criteria that need some.
        criterion: One of :func:`available`.
        game: ``network`` or ``group``; None for the criterion's own choice.
        estimator: A Shapley estimator or ``auto``.
        value: ``kl``, ``cross-entropy`` or ``accuracy``; None for the criterion's own choice.
        aggregate: ``magnitude``, ``mean`` or ``mean+2std``; None for the criterion's own choice.
        budget: Coalitions per player (network game: per image); None for a default.
        only: Patterns (``layer1.*``) of groups that may be pruned, or of parameters or modules
            that make their units; all by default.
        skip: Patterns of groups, parameters or modules that are left alone, see
            :mod:`graphprune.steering`.
        seed: Equal seeds give equal rankings on one machine.
        device: Where networks are run, e.g. ``cpu`` or ``cuda``.
        progress: Told about every step; an exception that it raises ends the work.
        store: Where long work keeps its state, so that it can be taken up after an interruption;
            the caller clears it when the ranking is safe.

    Raises:
        OptionError: An option is not one of those allowed.
        DataError: The data does not fit the network, or labels are missing.
        BudgetError: The budget is too small.
        ArtifactError: The state to be taken up is damaged, or of another run.
    """
    entry = _entry(criterion)
    protected = protected_groups(graph, only, skip)
    request = RankRequest(
        graph=graph,
        data=_fitting(graph, data, seed, needed=entry.needs_data),
        game=game,
        estimator=estimator,
        value=value,
        aggregate=aggregate,
        budget=budget,
        seed=seed,
        device=device,
        progress=progress,
    )
    _check_options(request)
    if store is not None and request.data is not None:
        request = replace(request, checkpoint=_opened(store, criterion, request))
    scored = entry.score(request)
    _check_finite(scored, criterion)
    return Ranking(
        graph=graph,
        groups=split_by_group(graph, scored.scores, scored.stderr),
        criterion=criterion,
        game=scored.game,
        estimator=scored.estimator,
        value=scored.value,
        aggregate=scored.aggregate,
        evaluations=scored.evaluations,
        n_images=request.images.n_images if entry.needs_data else 0,
        seed=seed,
        protected=tuple(
            group.name
            for group in graph.groups
            if group.name in protected or group.name in scored.left_alone
        ),
    )


def _entry(name: str) -> _Entry:
    if name not in _CRITERIA:
        near = get_close_matches(name, available(), 1)
        hint = f"did you mean {near[0]}?" if near else "`graphprune rank --help` explains them"
        raise OptionError(f"criterion {name!r} is none of {_listed(available())}", hint=hint)
    return _CRITERIA[name]


def _listed(names: Sequence[str]) -> str:
    """List names; of those of one family (``family:NAME``) only the family at the front."""
    families: dict[str, list[str]] = {}
    for name in names:
        family, _, member = name.rpartition(":")
        families.setdefault(family, []).append(member)
    alone = families.pop("", [])
    return ", ".join([*alone, *(f"{f}:{'|'.join(found)}" for f, found in families.items())])


def _check_options(request: RankRequest) -> None:
    for option, given, allowed in (
        ("game", request.game, GAMES),
        ("value", request.value, tuple(PERFORMANCES)),
        ("aggregate", request.aggregate, AGGREGATES),
        ("estimator", request.estimator, ("auto", *available_estimators())),
    ):
        if given is not None and given not in allowed:
            raise OptionError(f"{option} {given!r} is none of {', '.join(allowed)}")
    if request.budget is not None and request.budget < 1:
        raise OptionError(f"a budget of {request.budget} is less than 1")
    if request.seed < 0:
        raise OptionError(f"seed {request.seed} is negative", hint="seeds count from 0")


def _opened(store: StateStore, criterion: str, request: RankRequest) -> Checkpoint:
    settings = {
        "criterion": criterion,
        "game": request.game,
        "estimator": request.estimator,
        "value": request.value,
        "aggregate": request.aggregate,
        "budget": request.budget,
        "seed": request.seed,
        "device": request.device,
        "--unpin-output": sorted(request.graph.analysis.unpinned),
        "the version of torch": torch.__version__,
    }
    return store.open(data=request.images.sha256, settings=settings)


def _fitting(
    graph: DependencyGraph, data: CalibrationBatches | None, seed: int, *, needed: bool
) -> CalibrationBatches | None:
    """Return data of the network's shapes and dtype; synthetic where it is needed and missing."""
    inputs = [x for x in pytree.tree_leaves(graph.example_inputs) if isinstance(x, torch.Tensor)]
    shapes = tuple(tuple(x.shape[1:]) for x in inputs)
    if data is None:
        return _made_up(inputs, shapes, seed) if needed else None
    check_against(data, _n_classes(graph) if needed and data.has_labels else None, shapes)
    floating = next((x.dtype for x in inputs if x.is_floating_point()), None)
    return data.to(dtype=floating)


def _made_up(
    inputs: Sequence[torch.Tensor], shapes: tuple[tuple[int, ...], ...], seed: int
) -> CalibrationBatches:
    if not all(x.is_floating_point() for x in inputs):
        raise DataError(
            "the network takes integer inputs, which cannot be made up",
            hint="give calibration data with --data",
        )
    return synthetic(shapes, n_images=SYNTHETIC_IMAGES, dtype=inputs[0].dtype, seed=seed)


def _n_classes(graph: DependencyGraph) -> int:
    with torch.inference_mode():
        outputs = graph.program.module(*graph.example_inputs)
    return int(class_logits(pytree.tree_leaves(outputs)).shape[-1])


def _check_finite(scored: Scored, criterion: str) -> None:
    errors = np.zeros(0) if scored.stderr is None else scored.stderr
    if not (np.isfinite(scored.scores).all() and np.isfinite(errors).all()):
        raise DataError(
            f"criterion {criterion!r} gave scores that are not finite",
            hint="a game over the full range may empty what a softmax or maximum runs over: "
            "use --game network; else look for overflow",
        )
