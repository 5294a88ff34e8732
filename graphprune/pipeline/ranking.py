"""Rank: from a network to ``ranking.json``."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphprune import criteria
from graphprune.artifacts import RunFolder, ranking_file, write
from graphprune.checkpoint import StateStore
from graphprune.data import CalibrationBatches, DataSource
from graphprune.game.evaluation import Running
from graphprune.game.games import DEFAULT_BAND
from graphprune.graph import DependencyGraph
from graphprune.load import ModelSource
from graphprune.pipeline.holding import holding
from graphprune.pipeline.options import Common, RankOptions, chosen_device
from graphprune.pipeline.subject import Subject, prepare
from graphprune.pipeline.timing import timed
from graphprune.ranking import Ranking
from graphprune.steering import protected_groups


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A ranking and the network that was ranked.

    Args:
        subject: The network.
        ranking: Its ranking.
        store: Where the state of the ranking is kept; None if nothing is to be written.
    """

    subject: Subject
    ranking: Ranking
    store: StateStore | None = None

    def keep(self, common: Common) -> None:
        """Write ``ranking.json`` in place of the state of the ranking; one rank does it."""
        if self.store is None or not common.ranks.leads:
            return
        record = ranking_file(self.ranking, self.subject.model, self.subject.source)
        write(RunFolder(common.out).ranking, record)
        self.store.clear()


def rank(
    model: ModelSource, data: DataSource | None, options: RankOptions, common: Common
) -> Ranked:
    """Rank a network and write ``ranking.json``.

    Raises:
        GraphpruneError: See :func:`prepare` and :func:`graphprune.criteria.rank`.
    """
    with holding(common):
        ranked = rank_subject(prepare(model, data, common), options, common)
        ranked.keep(common)
    return ranked


def left_alone(subject: Subject, options: RankOptions) -> tuple[str, ...]:
    """Return the groups that ``--only`` and ``--skip`` leave alone.

    Raises:
        OptionError: A pattern matches nothing.
    """
    return protected_groups(subject.graph, options.only, options.skip)


def rank_subject(subject: Subject, options: RankOptions, common: Common) -> Ranked:
    """Rank a prepared network in a folder that is held; ranks share the work.

    What is found is kept as the state of the ranking, until :meth:`Ranked.keep` writes the result.
    """
    folder, ranks = RunFolder(common.out), common.ranks
    check_alike(subject, options, common)
    store = None
    if not common.dry_run:
        model_hash = subject.model.sha256
        store = StateStore(path=folder.state, model=model_hash, resume=options.resume, ranks=ranks)
    with timed(subject.timings, "rank"):
        ranking = rank_graph(subject.graph, subject.data, options, common, store)
    return Ranked(subject=subject, ranking=ranking, store=store)


def rank_graph(
    graph: DependencyGraph,
    data: CalibrationBatches | None,
    options: RankOptions,
    common: Common,
    store: StateStore | None = None,
) -> Ranking:
    """Rank a traced network as the options say.

    Raises:
        GraphpruneError: See :func:`graphprune.criteria.rank`.
    """
    return criteria.rank(
        graph,
        data,
        criterion=options.criterion,
        game=options.game,
        estimator=options.estimator,
        value=options.value,
        aggregate=options.aggregate,
        semivalue=options.semivalue,
        budget=options.budget,
        seconds=options.seconds,
        until_stable=options.until_stable,
        for_ratio=DEFAULT_BAND if options.for_ratio is None else options.for_ratio,
        for_repair=options.for_repair,
        only=options.only,
        skip=options.skip,
        seed=common.seed,
        running=running_of(common),
        store=store,
        progress=common.progress,
        ranks=common.ranks,
    )


def running_of(common: Common) -> Running:
    """Return how and where networks are run."""
    return Running(
        device=chosen_device(common.device),
        max_memory=common.max_memory,
        precision=common.precision,
    )


def check_alike(subject: Subject, options: RankOptions, common: Common) -> None:
    """Check that all ranks rank the same.

    Raises:
        OptionError: They do not.
    """
    data = "" if subject.data is None else subject.data.sha256
    running = (common.max_memory, common.precision)
    told = (options, common.seed, common.unpin_outputs, common.dry_run, running)
    common.ranks.check_same("the model", subject.model.sha256)
    common.ranks.check_same("the calibration data", data)
    common.ranks.check_same("the options", repr(told))
    common.ranks.check_same("the device", chosen_device(common.device))
    common.ranks.check_same("the version of torch", torch.__version__)
    common.ranks.check_same("the number of threads", str(torch.get_num_threads()))
