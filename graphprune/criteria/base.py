"""The registry of criteria, and how one is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import torch

from graphprune.checkpoint import Checkpoint, StateStore
from graphprune.criteria.checks import check_finite, check_options, stability_notes
from graphprune.criteria.images import fitting_images
from graphprune.criteria.own import as_scored, own_value, probed
from graphprune.criteria.request import (
    Criterion,
    RankRequest,
    Scored,
    UserCriterion,
    ValueFunction,
)
from graphprune.data import CalibrationBatches
from graphprune.distributed import ALONE, Ranks
from graphprune.errors import OptionError
from graphprune.estimators.semivalues import semivalue_named
from graphprune.functions import UserFunction, is_spec, user_function
from graphprune.game.evaluation import DEFAULT, Running
from graphprune.game.games import DEFAULT_BAND
from graphprune.game.value import source_of
from graphprune.graph import DependencyGraph
from graphprune.progress import Progress, silent
from graphprune.ranking import Ranking, split_by_group
from graphprune.steering import protected_groups

AUTO = "auto"
"""What stands for several criteria where plans are compared, see :mod:`graphprune.candidates`."""


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
    for_ratio: float = DEFAULT_BAND,
    for_repair: str = "auto",
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
        for_ratio: Largest share of multiply-accumulates that pruning will take, in (0, 1): games in
            a band look at coalitions that lack no more.
        for_repair: What games in a band look ahead to: ``none``, ``least-squares``, or ``auto``:
            scores are for none, and :meth:`graphprune.ranking.Ranking.ahead_of` makes of them those
            for a repair.
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
        data=fitting_images(graph, data, seed, needed=entry.needs_data),
        game=game,
        estimator=estimator,
        value=own_value(value),
        aggregate=aggregate,
        semivalue=semivalue_named(semivalue),
        budget=budget,
        seconds=seconds,
        stability=until_stable,
        for_ratio=for_ratio,
        # Without images nothing can be repaired.
        for_repair="none" if for_repair == "auto" and data is None else for_repair,
        seed=seed,
        running=running,
        progress=progress,
        ranks=ranks,
    )
    check_options(request)
    request = probed(request)
    if store is not None and request.data is not None:
        request = replace(request, checkpoint=_opened(store, entry, request))
    scored = entry.score(request)
    check_finite(scored, entry.name)
    return Ranking(
        graph=graph,
        groups=split_by_group(graph, scored.scores, scored.stderr, scored.efforts, scored.refit),
        criterion=entry.name,
        game=scored.game,
        estimator=scored.estimator,
        value=None if scored.value is None else str(scored.value),
        aggregate=scored.aggregate,
        semivalue=scored.semivalue,
        for_ratio=scored.for_ratio,
        for_repair=scored.for_repair,
        notes=(*scored.notes, *stability_notes(graph, scored, request)),
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
    if given == AUTO:
        raise OptionError(
            f"criterion {AUTO!r} compares the plans of several criteria, and this ranks by one",
            hint="use it with `graphprune prune` (gp.choose in Python), or name a criterion",
        )
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
        return as_scored(source.ask("criterion", request, given=given), source, request)

    return _Entry(source.name, score, needed, source.sha256)


def _listed(names: Sequence[str]) -> str:
    """List names; of those of one family (``family:NAME``) only the family at the front."""
    families: dict[str, list[str]] = {}
    for name in names:
        family, _, member = name.rpartition(":")
        families.setdefault(family, []).append(member)
    alone = families.pop("", [])
    return ", ".join([*alone, *(f"{f}:{'|'.join(found)}" for f, found in families.items())])


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
        "--for-ratio": request.for_ratio,
        "--for-repair": request.for_repair,
        "--precision": request.running.precision,
        "--max-memory": request.running.max_memory,
        "seed": request.seed,
        "device": request.device,
        "--unpin-output": sorted(request.graph.analysis.unpinned),
        "the version of torch": torch.__version__,
    }
    return store.open(data=request.images.sha256, settings=settings)
