"""Plan: from rankings, made here or read, to the units that go."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphprune import criteria
from graphprune.artifacts import RankingFile, RunFolder, ranking_of, read
from graphprune.building import Repairing, build
from graphprune.candidates import Choice, choose_among
from graphprune.checkpoint import StateStore
from graphprune.criteria import AUTO as AUTO_CRITERION
from graphprune.data import CalibrationBatches, DataSource
from graphprune.errors import OptionError
from graphprune.exchanging import Exchanged, check_exchange
from graphprune.graph import DependencyGraph
from graphprune.latency_target import ReachedLatency
from graphprune.load import ModelSource
from graphprune.pipeline.aiming import Aim, aiming, budget_of
from graphprune.pipeline.options import Common, PruneOptions, RankOptions
from graphprune.pipeline.ranking import (
    Ranked,
    check_alike,
    rank_graph,
    rank_subject,
    running_of,
)
from graphprune.pipeline.subject import Subject, prepare, recorded_subject
from graphprune.pipeline.timing import timed
from graphprune.ranking import Ranking
from graphprune.repairs import available as repair_methods
from graphprune.selection import PruningPlan, check_budget
from graphprune.steering import protected_groups
from graphprune.steps import (
    Step,
    Stepped,
    Trading,
    check_steps,
    exchange_if,
    select_in_steps,
    weigh_if,
)
from graphprune.weighing import Weighed


@dataclass(frozen=True, kw_only=True)
class Selected:
    """A plan that has not been carried out.

    Args:
        subject: The network.
        ranking: What the plan follows from; of several steps, see
            :class:`graphprune.steps.Stepped`.
        plan: What goes.
        steps: The steps in which it was found; none if it was found at once.
        choice: All candidates, where the best of several criteria was chosen.
        weighed: How far it is best to look ahead to the repair; None if that was not tried.
        exchanged: How units traded places; None if they did not.
        latency: What was measured, where the ratio is one of the latency.
        store: Where the state of the ranking is kept until the plan is carried out; None if there
            is none.
    """

    subject: Subject
    ranking: Ranking
    plan: PruningPlan
    steps: tuple[Step, ...] = ()
    choice: Choice | None = None
    weighed: Weighed | None = None
    exchanged: Exchanged | None = None
    latency: ReachedLatency | None = None
    store: StateStore | None = None


def plan_run(
    model: ModelSource | None,
    data: DataSource | None,
    rank_options: RankOptions,
    options: PruneOptions,
    common: Common,
) -> Selected:
    """Rank if need be, and select, in a folder that is held; what is cut on the way is not kept.

    Args:
        model: The network; None takes model, data and ranking from the run folder.
        data: Calibration data; None takes the ranking's, if there is a ranking.
        rank_options: How to rank, where a ranking is needed.
        options: How to prune.
        common: What every command is told.

    Raises:
        GraphpruneError: A stage's own error.
        BudgetError: The ratio cannot be reached.
    """
    _check_early(rank_options, options)
    rank_options = expecting(rank_options, options)
    if rank_options.criterion == AUTO_CRITERION:
        return _best(_subject(model, data, common), rank_options, options, common)
    if model is not None and options.ranking is None:
        ranked = _ranked(prepare(model, data, common), rank_options, common)
    else:
        path = options.ranking or RunFolder(common.out).ranking
        file = read(path, RankingFile)
        subject = recorded_subject(path, file, model, data, common)
        ranked = Ranked(subject=subject, ranking=ranking_of(file, subject.graph))
        rank_options = _as_recorded(rank_options, file)
    selected = _select(ranked, rank_options, options, common)
    return replace(selected, store=ranked.store)


def _select(
    ranked: Ranked, rank_options: RankOptions, options: PruneOptions, common: Common
) -> Selected:
    subject, ranking = ranked.subject, ranked.ranking
    first = _protecting(ranking, rank_options)
    with timed(subject.timings, "select"), aiming(subject.graph, options, common) as aim:
        found = _Planner(subject, rank_options, aim).plan(subject.data, first)
        found, latency = aim.reached(found)
    # What is left alone in this plan only is not left alone for good.
    kept = replace(found.ranking, protected=ranking.protected)
    return _selected(subject, replace(found, ranking=kept), latency)


def _ranked(subject: Subject, options: RankOptions, common: Common) -> Ranked:
    """Rank, and write the ranking unless the folder holds a run.

    A run's files belong together and are replaced together: until then the ranking stays in its
    state, which ``rank --resume`` takes up.
    """
    ranked = rank_subject(subject, options, common)
    if not RunFolder(common.out).manifest.exists():
        ranked.keep(common)
    return ranked


def _best(
    subject: Subject, rank_options: RankOptions, options: PruneOptions, common: Common
) -> Selected:
    """Plan with several criteria and take the plan whose network diverges least.

    Of a latency, candidates are planned by what its model predicts; what is kept is then measured.
    """
    graph = subject.graph
    check_alike(subject, rank_options, common)
    with timed(subject.timings, "choose"), aiming(graph, options, common) as aim:

        def plan(criterion: str, data: CalibrationBatches) -> Stepped:
            return _Planner(subject, replace(rank_options, criterion=criterion), aim).plan(data)

        choice = choose_among(
            graph,
            subject.data,
            plan=plan,
            build=lambda kept, data: build(graph, kept, data, repairing(options, common)).model,
            seed=common.seed,
            progress=common.progress,
        )
        common.ranks.check_same("the criterion chosen", choice.best.criterion)
        found, latency = aim.reached(choice.best.stepped)
    return replace(_selected(subject, found, latency), choice=choice)


def _selected(subject: Subject, found: Stepped, latency: ReachedLatency | None) -> Selected:
    steps = found.steps if len(found.steps) > 1 else ()
    return Selected(
        subject=subject,
        ranking=found.ranking,
        plan=found.plan,
        steps=steps,
        weighed=found.weighed,
        exchanged=found.exchanged,
        latency=latency,
    )


@dataclass(frozen=True)
class _Planner:
    """Ranks and selects, in as many steps as were asked for."""

    subject: Subject
    rank_options: RankOptions
    aim: Aim

    def plan(self, data: CalibrationBatches | None, first: Ranking | None = None) -> Stepped:
        """Plan with these images; ``first`` is the unpruned network's ranking if it is known."""
        options, common, budget = self.aim.options, self.aim.common, self.aim.budget
        graph, repair = self.subject.graph, repairing(options, common)
        wanted = self.rank_options
        # Patterns say what of the unpruned network is left alone, which all steps respect.
        later = replace(wanted, only=(), skip=())

        def rank_again(
            network: DependencyGraph, images: CalibrationBatches | None, step: int
        ) -> Ranking:
            if step == 0 and first is not None:
                ranking = first
            else:
                ranking = rank_graph(network, images, later if step else wanted, common)
            return ranking.ahead_of("none" if data is None else options.repair)

        found = select_in_steps(
            graph,
            data,
            budget,
            steps=options.steps,
            rank=rank_again,
            build=lambda kept: build(graph, kept, data, repair).model,
            progress=common.progress,
        )
        found = weigh_if(found, data, budget, repair, common.progress)
        if found.weighed is not None:
            common.ranks.check_same("how far is looked ahead", str(found.weighed.best.share))
        trading = Trading(
            wanted=options.exchange,
            repair=options.repair,
            running=running_of(common),
            ranks=common.ranks,
            seed=common.seed,
            progress=common.progress,
        )
        return exchange_if(trading, found, data, budget)


def repairing(options: PruneOptions, common: Common) -> Repairing:
    """Return how networks are repaired."""
    return Repairing(
        method=options.repair,
        seed=common.seed,
        max_memory=common.max_memory,
        progress=common.progress,
    )


def _subject(model: ModelSource | None, data: DataSource | None, common: Common) -> Subject:
    """Load the network and data that are given, or those of the run folder."""
    if model is not None:
        return prepare(model, data, common)
    path = RunFolder(common.out).ranking
    return recorded_subject(path, read(path, RankingFile), model, data, common)


def _as_recorded(options: RankOptions, file: RankingFile) -> RankOptions:
    """Return how to rank again as a ranking was made."""
    knows_refits = any(group.refit is not None for group in file.groups)
    return replace(
        options,
        criterion=file.criterion,
        game=file.game,
        value=file.value,
        aggregate=file.aggregate,
        semivalue=file.semivalue or options.semivalue,
        for_repair=options.for_repair if knows_refits else file.for_repair or options.for_repair,
    )


def expecting(rank_options: RankOptions, options: PruneOptions) -> RankOptions:
    """Return how to rank for what will be removed, and for the repair that will follow."""
    ratio = share_of_macs(options.ratio, options.of)
    for_repair = rank_options.for_repair
    if for_repair == "auto" and options.repair == "none":
        for_repair = "none"  # which takes less time
    return replace(
        rank_options,
        for_ratio=min(max(ratio, _NARROWEST_BAND), _WIDEST_BAND),
        for_repair=for_repair,
    )


_NARROWEST_BAND, _WIDEST_BAND = 0.05, 0.9


def share_of_macs(ratio: float, of: str) -> float:
    """Return about which share of the multiply-accumulates goes with a share of another cost.

    A layer's multiply-accumulates are its inputs times its outputs, so without that share of the
    units of either ``(1 - ratio)^2`` are left. Parameters and latency go about as they do.
    """
    return 1 - (1 - ratio) ** 2 if of == "units" else ratio


def _protecting(ranking: Ranking, options: RankOptions) -> Ranking:
    """Return the ranking with what is to be left alone now added to what was when it was made."""
    now = protected_groups(ranking.graph, options.only, options.skip)
    protected = {*ranking.protected, *now}
    listed = tuple(group.name for group in ranking.graph.groups if group.name in protected)
    return replace(ranking, protected=listed)


def _check_early(rank_options: RankOptions, options: PruneOptions) -> None:
    """Refuse misspelt options before the long work, not after it."""
    check_budget(budget_of(options))
    check_steps(options.steps)
    if options.repair not in repair_methods():
        raise OptionError(f"repair {options.repair!r} is none of {', '.join(repair_methods())}")
    if options.exchange:
        check_exchange(budget_of(options))
    if rank_options.criterion != AUTO_CRITERION:
        criteria.needs_data(rank_options.criterion)
    elif options.ranking is not None:
        raise OptionError(
            "--criterion auto ranks by several criteria, and --ranking gives one ranking",
            hint="leave out one of the two",
        )
