"""Plan: from a ranking, made here or read, to the units that go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from graphprune import criteria
from graphprune.artifacts import RankingFile, RunFolder, ranking_of, read
from graphprune.cost import LatencyModel
from graphprune.data import DataSource
from graphprune.errors import OptionError
from graphprune.latency_target import ReachedLatency, reach_latency
from graphprune.load import ModelSource
from graphprune.pipeline.options import Common, PruneOptions, RankOptions
from graphprune.pipeline.ranking import rank
from graphprune.pipeline.subject import Subject, recorded_subject
from graphprune.pipeline.timing import timed
from graphprune.ranking import Ranking
from graphprune.repairs import available as repair_methods
from graphprune.selection import PruningPlan, check_options, select
from graphprune.steering import protected_groups


@dataclass(frozen=True, kw_only=True)
class Selected:
    """A plan that has not been carried out.

    Args:
        subject: The network.
        ranking: What its units are worth.
        plan: What goes.
        latency: What was measured, where the ratio is one of the latency.
    """

    subject: Subject
    ranking: Ranking
    plan: PruningPlan
    latency: ReachedLatency | None = None


def plan_run(
    model: ModelSource | None,
    data: DataSource | None,
    rank_options: RankOptions,
    options: PruneOptions,
    common: Common,
) -> Selected:
    """Rank if need be, and select; nothing is cut.

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
    if model is not None and options.ranking is None:
        ranked = rank(model, data, rank_options, common)
        subject, ranking = ranked.subject, ranked.ranking
    else:
        path = options.ranking or RunFolder(common.out).ranking
        file = read(path, RankingFile)
        subject = recorded_subject(path, file, model, data, common)
        ranking = ranking_of(file, subject.graph)
    protected = protecting(ranking, rank_options)
    with timed(subject.timings, "select"):
        latency = None
        if options.of == "latency":
            # Processes that time at once disturb each other: one does, and tells the others.
            latency = common.ranks.led(partial(_reach_latency, protected, options, common))
        plan = _select(options, protected) if latency is None else latency.plan
    return Selected(subject=subject, ranking=ranking, plan=plan, latency=latency)


def _select(
    options: PruneOptions,
    ranking: Ranking,
    ratio: float | None = None,
    latency: LatencyModel | None = None,
) -> PruningPlan:
    return select(
        ranking,
        ratio=options.ratio if ratio is None else ratio,
        of=options.of,
        scope=options.scope,
        min_units=options.min_units,
        round_to=options.round_to,
        latency=latency,
    )


def _reach_latency(ranking: Ranking, options: PruneOptions, common: Common) -> ReachedLatency:
    with TemporaryDirectory() as temporary:
        return reach_latency(
            ranking.graph,
            options.ratio,
            partial(_select, options, ranking),
            RunFolder(Path(temporary) if common.dry_run else common.out).original,
            options.latency,
            common.progress,
        )


def protecting(ranking: Ranking, options: RankOptions) -> Ranking:
    """Return the ranking with what is to be left alone now added to what was when it was made."""
    now = protected_groups(ranking.graph, options.only, options.skip)
    protected = {*ranking.protected, *now}
    listed = tuple(group.name for group in ranking.graph.groups if group.name in protected)
    return replace(ranking, protected=listed)


def _check_early(rank_options: RankOptions, options: PruneOptions) -> None:
    """Refuse misspelt options before the long work, not after it."""
    check_options(options.ratio, options.of, options.scope, options.min_units, options.round_to)
    if options.repair not in ("auto", *repair_methods()):
        allowed = ", ".join(("auto", *repair_methods()))
        raise OptionError(f"repair {options.repair!r} is none of {allowed}")
    criteria.needs_data(rank_options.criterion)
