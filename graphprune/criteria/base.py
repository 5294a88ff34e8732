"""The registry of criteria, and how one is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphprune.checkpoint import Checkpoint, StateStore
from graphprune.data import CalibrationBatches, check_against, synthetic
from graphprune.distributed import ALONE, Ranks
from graphprune.errors import DataError, OptionError
from graphprune.estimators import AGGREGATES
from graphprune.estimators import available as available_estimators
from graphprune.estimators.semivalues import SHAPLEY, Semivalue, semivalue_named
from graphprune.functions import UserFunction, is_spec, user_function
from graphprune.game.evaluation import DEFAULT, PRECISIONS, Running, filled_up
from graphprune.game.value import (
    PERFORMANCES,
    UserValue,
    Value,
    class_logits,
    performance_named,
    source_of,
)
from graphprune.graph import DependencyGraph
from graphprune.progress import Progress, silent
from graphprune.ranking import Effort, Ranking, Scores, split_by_group
from graphprune.steering import protected_groups

SYNTHETIC_IMAGES = 32
"""Inputs drawn where a criterion needs some and none are given."""

GAMES = ("network", "group", "hierarchical")


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


Criterion = Callable[[RankRequest], Scored]

UserCriterion = Callable[[RankRequest], Scored | Tensor | npt.NDArray[np.generic]]
"""A criterion of the user's own may also return the scores alone, (n_units,)."""

ValueFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A value of the user's own: outputs, the unpruned network's, labels -> (images,)."""


@dataclass(frozen=True)
class _Entry:
    name: str
    score: Criterion
    needs_data: bool
    sha256: str = ""


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
        _CRITERIA[name] = _Entry(name, function, needs_data)
        return function

    return add


def available() -> tuple[str, ...]:
    """Return the names of all criteria."""
    return tuple(sorted(_CRITERIA))


def needs_data(criterion: str | UserCriterion) -> bool:
    """Whether a criterion looks at images; the user's own does unless registered otherwise.

    Raises:
        OptionError: There is no criterion of that name.
    """
    return _entry(criterion).needs_data


def rank(  # noqa: PLR0913 - one argument per option of the command
    graph: DependencyGraph,
    data: CalibrationBatches | None = None,
    *,
    criterion: str | UserCriterion = "shapley",
    game: str | None = None,
    estimator: str = "auto",
    value: str | ValueFunction | None = None,
    aggregate: str | None = None,
    semivalue: str = "shapley",
    budget: int | None = None,
    seconds: float | None = None,
    until_stable: float | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    seed: int = 0,
    running: Running = DEFAULT,
    progress: Progress = silent,
    store: StateStore | None = None,
    ranks: Ranks = ALONE,
) -> Ranking:
    """Score every unit of a network.

    Args:
        graph: The traced network.
        data: Calibration images; None draws synthetic inputs for criteria that need some.
        criterion: One of :func:`available`, or a function of your own: itself, or its name as
            ``package.module:function`` or ``path/file.py:function``.
        game: ``network``, ``group`` or ``hierarchical``; None for the criterion's own choice.
        estimator: A Shapley estimator or ``auto``.
        value: ``kl``, ``cross-entropy``, ``accuracy``, or a function of your own as for
            ``criterion``; None for the criterion's own choice.
        aggregate: ``magnitude``, ``mean`` or ``mean+2std``; None for the criterion's own choice.
        semivalue: ``shapley``, ``banzhaf``, ``leave-one-out``, ``upper-shapley`` or
            ``upper-shapley:START``, see :mod:`graphprune.estimators.semivalues`.
        budget: Coalitions per player (network game: per image); None for a default.
        seconds: Time that games may take; the least evidence is gathered even if it takes longer.
        until_stable: Play until another run would rank units like this, in (0, 1).
        only: Patterns (``layer1.*``) of groups that may be pruned, or of parameters or modules
            that make their units; all by default.
        skip: Patterns of groups, parameters or modules that are left alone, see
            :mod:`graphprune.steering`.
        seed: Equal seeds give equal rankings on one machine.
        running: How and where the network is run.
        progress: Told about every step; an exception that it raises ends the work.
        store: Where long work keeps its state, so that it can be taken up after an interruption;
            the caller clears it when the ranking is safe.
        ranks: The processes that work together; all call this with the same arguments.

    Raises:
        OptionError: An option is not one of those allowed.
        DataError: The data does not fit the network, or labels are missing.
        BudgetError: The budget is too small.
        ArtifactError: The state to be taken up is damaged, or of another run.
        RankLostError: Another of the ranks is gone.
    """
    entry = _entry(criterion)
    protected = protected_groups(graph, only, skip)
    request = RankRequest(
        graph=graph,
        data=_fitting(graph, data, seed, needed=entry.needs_data),
        game=game,
        estimator=estimator,
        value=_own_value(value),
        aggregate=aggregate,
        semivalue=semivalue_named(semivalue),
        budget=budget,
        seconds=seconds,
        stability=until_stable,
        seed=seed,
        running=running,
        progress=progress,
        ranks=ranks,
    )
    _check_options(request)
    request = _probed(request)
    if store is not None and request.data is not None:
        request = replace(request, checkpoint=_opened(store, entry, request))
    scored = entry.score(request)
    _check_finite(scored, entry.name)
    return Ranking(
        graph=graph,
        groups=split_by_group(graph, scored.scores, scored.stderr, scored.efforts),
        criterion=entry.name,
        game=scored.game,
        estimator=scored.estimator,
        value=None if scored.value is None else str(scored.value),
        aggregate=scored.aggregate,
        semivalue=scored.semivalue,
        notes=(*scored.notes, *_honest(graph, scored, request)),
        evaluations=scored.evaluations,
        n_images=request.images.n_images if entry.needs_data else 0,
        seed=seed,
        protected=tuple(
            group.name
            for group in graph.groups
            if group.name in protected or group.name in scored.left_alone
        ),
    )


def _entry(given: str | UserCriterion) -> _Entry:
    if isinstance(given, str) and given in _CRITERIA:
        return _CRITERIA[given]
    if isinstance(given, str) and not is_spec(given):
        near = get_close_matches(given, available(), 1)
        hint = f"did you mean {near[0]}?" if near else "`graphprune rank --help` explains them"
        raise OptionError(f"criterion {given!r} is none of {_listed(available())}", hint=hint)
    return _own_entry(user_function(given))


# ---- the user's own functions -------------------------------------------------------------------


def _own_entry(source: UserFunction) -> _Entry:
    # One that its file has registered says itself whether it looks at images.
    registered = [entry for entry in _CRITERIA.values() if entry.score is source.function]
    needed = all(entry.needs_data for entry in registered)

    def score(request: RankRequest) -> Scored:
        given = "a graphprune.criteria.RankRequest"
        return _as_scored(source.ask("criterion", request, given=given), source, request)

    return _Entry(source.name, score, needed, source.sha256)


def _as_scored(found: object, source: UserFunction, request: RankRequest) -> Scored:
    if not isinstance(found, Scored):
        found = Scored(scores=_as_floats(found, source))
    found = replace(found, scores=_as_floats(found.scores, source))
    if found.stderr is not None:
        found = replace(found, stderr=_as_floats(found.stderr, source))
    expected = (request.graph.n_units,)
    for numbers in (found.scores, found.scores if found.stderr is None else found.stderr):
        if numbers.shape != expected:
            raise OptionError(
                f"criterion {source.name!r} returned scores of shape {numbers.shape}; the network "
                f"has {expected[0]} units, so {expected} is wanted",
                hint="one score per unit of all groups, in the order of request.graph.groups",
            )
        if not np.isfinite(numbers).all():
            raise OptionError(
                f"criterion {source.name!r} returned scores that are not finite",
                hint="score every unit by a number; `left_alone` of Scored names groups to leave",
            )
    return found


def _as_floats(found: object, source: UserFunction) -> Scores:
    array = found.detach().cpu().double().numpy() if isinstance(found, Tensor) else found
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise OptionError(
            f"criterion {source.name!r} returned an object of type {type(found).__name__}",
            hint="return a tensor or an array of one number per unit, or a "
            "graphprune.criteria.Scored",
        )
    return array.astype(np.float64)


def _own_value(given: str | ValueFunction | None) -> Value | None:
    """Return the value to play; names that cannot be a function's are checked with the options."""
    if given is None or (isinstance(given, str) and (given in PERFORMANCES or not is_spec(given))):
        return given
    return UserValue(user_function(given))


def _probed(request: RankRequest) -> RankRequest:
    """Try a value of the user's own on a few images before the long work."""
    if not isinstance(request.value, UserValue) or request.data is None:
        return request
    graph = request.graph
    batch = request.data.head(graph.batch_size).batches[0]
    with torch.inference_mode():
        outputs = graph.program.module(*(filled_up(graph, x) for x in batch.inputs))
    reference = class_logits(pytree.tree_leaves(outputs))[: batch.n_images]
    # Copies: gradients are asked for, and inference mode has made the outputs.
    return replace(request, value=request.value.probed(reference.clone(), batch.labels))


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
        ("aggregate", request.aggregate, AGGREGATES),
        ("estimator", request.estimator, ("auto", *available_estimators())),
    ):
        if given is not None and given not in allowed:
            raise OptionError(f"{option} {given!r} is none of {', '.join(allowed)}")
    if isinstance(request.value, str):
        performance_named(request.value)
    if request.budget is not None and request.budget < 1:
        raise OptionError(f"a budget of {request.budget} is less than 1")
    _check_stopping(request)
    if request.seed < 0:
        raise OptionError(f"seed {request.seed} is negative", hint="seeds count from 0")


def _check_stopping(request: RankRequest) -> None:
    if request.seconds is not None and not request.seconds > 0:
        raise OptionError(f"{request.seconds} seconds are no time to rank in")
    if request.stability is not None and not 0 < request.stability < 1:
        raise OptionError(
            f"a stability of {request.stability} cannot be reached",
            hint="give a rank correlation between 0 and 1, e.g. --until-stable 0.95",
        )
    if request.running.precision not in PRECISIONS:
        allowed = ", ".join(PRECISIONS)
        raise OptionError(f"precision {request.running.precision!r} is none of {allowed}")
    if request.running.max_memory < 1:
        raise OptionError(f"{request.running.max_memory} bytes of memory hold nothing")


def _honest(graph: DependencyGraph, scored: Scored, request: RankRequest) -> tuple[str, ...]:
    """Say which of the stability asked for was not reached."""
    asked, names = request.stability, [group.name for group in graph.groups]
    if asked is None:
        return ()
    if not scored.efforts:
        return ("--until-stable has no meaning here: nothing is estimated",)
    reached = {
        name: effort.stability
        for name, effort in zip(names, scored.efforts, strict=True)
        if effort.stability is not None and effort.stability < asked
    }
    if not reached:
        return ()
    worst = min(reached, key=reached.__getitem__)
    return (
        f"a stability of {asked:g} was not reached by {len(reached)} of {len(names)} groups; "
        f"lowest: {worst} with {reached[worst]:.2f}",
    )


def _opened(store: StateStore, entry: _Entry, request: RankRequest) -> Checkpoint:
    settings = {
        "criterion": entry.name,
        "criterion's source": entry.sha256,
        "game": request.game,
        "estimator": request.estimator,
        "value": request.value,
        "value's source": source_of(request.value),
        "aggregate": request.aggregate,
        "budget": request.budget,
        "semivalue": request.semivalue.name,
        "--seconds": request.seconds,
        "--until-stable": request.stability,
        "--precision": request.running.precision,
        "--max-memory": request.running.max_memory,
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
