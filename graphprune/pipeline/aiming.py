"""Aim: the budget of a run; where it is one of the latency, the clock that says what is reached.

Under ``torchrun`` one process times alone, because processes that time at once disturb each other,
and tells the others what it measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from graphprune.artifacts import RunFolder
from graphprune.graph import DependencyGraph
from graphprune.latency_target import ReachedLatency, latency_model, reach_latency
from graphprune.pipeline.options import Common, PruneOptions
from graphprune.selection import Budget
from graphprune.steps import Stepped


@dataclass(frozen=True, kw_only=True)
class Aim:
    """How much is to go, and how it is made sure that it does.

    Args:
        graph: The network.
        budget: How much goes; a ratio of the latency is one of what its model predicts.
        options: How to prune.
        common: What every command is told.
        original: The unpruned network's ONNX file, which is timed; None if nothing is.
    """

    graph: DependencyGraph
    budget: Budget
    options: PruneOptions
    common: Common
    original: Path | None = None

    def reached(self, found: Stepped) -> tuple[Stepped, ReachedLatency | None]:
        """Measure what was planned and correct its last step, where the budget is a latency.

        Raises:
            BudgetError: So much cannot be removed.
        """
        if self.original is None:
            return found, None
        measure = partial(
            reach_latency,
            self.graph,
            self.options.ratio,
            found.last.select,
            self.original,
            self.options.latency,
            self.common.progress,
        )
        latency = self.common.ranks.led(measure)
        return found.ending_in(latency.plan), latency


@contextmanager
def aiming(graph: DependencyGraph, options: PruneOptions, common: Common) -> Iterator[Aim]:
    """Yield the aim of a run; a latency is modelled first, from what is measured here.

    Raises:
        TraceError: The network cannot be exported, so that it cannot be timed.
        ArtifactError: The run folder cannot be written to.
    """
    aim = Aim(graph=graph, budget=budget_of(options), options=options, common=common)
    if options.of != "latency":
        yield aim
        return
    with TemporaryDirectory() as folder:
        kept = RunFolder(common.out).staging if not common.dry_run else RunFolder(Path(folder))
        original = kept.original
        model = common.ranks.led(
            partial(latency_model, graph, original, options.latency, common.progress)
        )
        yield replace(aim, budget=replace(aim.budget, latency=model), original=original)


def budget_of(options: PruneOptions) -> Budget:
    """Return how much is to go."""
    return Budget(
        ratio=options.ratio,
        of=options.of,
        scope=options.scope,
        min_units=options.min_units,
        round_to=options.round_to,
    )
