"""Reach a share of the latency that is measured on exported files, not only predicted.

The latency model chooses a plan, in one step or in several; the network cut by it is exported and
timed in turn with the unpruned one. Where the measured share misses the one asked for, the model is
asked for as much more (or less) as it was wrong by, or for what lies between two plans of which one
removes too little and one too much; and the next plan is measured, a few times at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from graphprune.cost import LatencyModel
from graphprune.errors import BudgetError
from graphprune.export import export_onnx
from graphprune.graph import DependencyGraph, Kept
from graphprune.latency import Bench, BenchOptions, bench, model_latency
from graphprune.progress import Progress, silent
from graphprune.selection import PruningPlan
from graphprune.surgery import cut

TOLERANCE = 0.02
"""A measured share within this of the one asked for is as good as it: times are not exact."""

_TRIES = 4
"""Plans that are measured at most."""

_SECONDS = 3.0
"""Time for each measurement."""

Choose = Callable[[float], PruningPlan]
"""Selects for a ratio of the latency that :func:`latency_model` predicts."""


@dataclass(frozen=True, kw_only=True)
class LatencyOptions:
    """How latency is measured; always on the CPU.

    Args:
        threads: Threads that one operator may use; None for the cores that this process may use.
        batch: Samples in a run; None for one, or for what the network fixes.
    """

    threads: int | None = None
    batch: int | None = None

    @property
    def bench(self) -> BenchOptions:
        """How files are timed."""
        return BenchOptions(
            threads=self.threads, batch=self.batch, provider="cpu", seconds=_SECONDS
        )


@dataclass(frozen=True, kw_only=True)
class ReachedLatency:
    """A plan whose latency was measured.

    Args:
        plan: The plan; what it reached and its costs are as measured.
        bench: The unpruned network and the one cut by the plan, timed in turn.
        tries: How many plans were measured.
    """

    plan: PruningPlan
    bench: Bench
    tries: int


def latency_model(
    graph: DependencyGraph,
    original: Path,
    options: LatencyOptions,
    progress: Progress = silent,
) -> LatencyModel:
    """Measure a network and its layers and model its latency over widths.

    Args:
        graph: The traced network.
        original: Where to write the unpruned network's ONNX file, which is timed.
        options: How to time.
        progress: Told about every step.

    Raises:
        ArtifactError: The file cannot be written.
        TraceError: The network cannot be exported.
    """
    progress("export", 0, 1)
    export_onnx(cut(graph, graph.all_kept()), original)
    whole = bench([original], options.bench, progress)
    return model_latency(
        graph,
        whole.files[0].seconds.median,
        threads=whole.threads,
        batch=whole.batch,
        progress=progress,
    )


def reach_latency(
    graph: DependencyGraph,
    ratio: float,
    choose: Choose,
    original: Path,
    options: LatencyOptions,
    progress: Progress = silent,
) -> ReachedLatency:
    """Find a plan that removes a share of the measured latency.

    Args:
        graph: The traced network.
        ratio: The share to remove.
        choose: Selects units.
        original: The unpruned network's ONNX file, which :func:`latency_model` has written.
        options: How to time.
        progress: Told about every step.

    Raises:
        BudgetError: So much cannot be removed.
    """

    def measure(kept: Kept) -> Bench:
        with TemporaryDirectory() as folder:
            candidate = Path(folder) / "candidate.onnx"
            export_onnx(cut(graph, kept), candidate)
            return bench([original, candidate], options.bench, progress)

    return _Search(graph, ratio, choose, measure).run()


class _Missed(NamedTuple):
    """A plan that removes too little or too much.

    Args:
        predicted: Share of the latency that the model says it removes.
        measured: Share that it does remove.
    """

    predicted: float
    measured: float


class _Search:
    """Asks the model for what makes the measured share come out right."""

    def __init__(
        self,
        graph: DependencyGraph,
        ratio: float,
        choose: Choose,
        measure: Callable[[Kept], Bench],
    ) -> None:
        self._graph = graph
        self._ratio = ratio
        self._choose = choose
        self._measure = measure
        self._found: list[ReachedLatency] = []
        self._missed: list[_Missed] = []

    def run(self) -> ReachedLatency:
        """Return the best plan that was measured."""
        ask = self._ratio
        while len(self._found) < _TRIES:
            try:
                plan = self._choose(ask)
            except BudgetError:
                if not self._found:
                    raise
                break
            if any(plan.groups == found.plan.groups for found in self._found):
                break
            removed = 1 - self._try(plan)
            if abs(removed - self._ratio) <= TOLERANCE:
                break
            self._missed.append(_Missed(plan.reached, removed))
            ask = self._next()
        return self._best()

    def _next(self) -> float:
        """Return what to ask the model for after a plan that missed the ratio."""
        less = [missed for missed in self._missed if missed.measured < self._ratio]
        more = [missed for missed in self._missed if missed.measured >= self._ratio]
        if less and more:
            low = max(less, key=lambda missed: missed.predicted)
            high = min(more, key=lambda missed: missed.predicted)
            if low.predicted < high.predicted:
                share = (self._ratio - low.measured) / (high.measured - low.measured)
                return low.predicted + share * (high.predicted - low.predicted)
        # What remains was predicted wrong by this factor; the next plan will be, too.
        last = self._missed[-1]
        factor = (1 - last.measured) / (1 - last.predicted)
        return min(max(1 - (1 - self._ratio) / factor, 0.0), 0.999)

    def _try(self, plan: PruningPlan) -> float:
        """Measure a plan; return the share of the latency that remains."""
        timed = self._measure(plan.kept(self._graph))
        remains = 1 / timed.speedups[0].median
        before, after = (file.seconds.median for file in timed.files)
        measured = replace(
            plan,
            asked=self._ratio,
            reached=1 - remains,
            before=replace(plan.before, latency=before),
            after=replace(plan.after, latency=after),
        )
        self._found.append(ReachedLatency(plan=measured, bench=timed, tries=len(self._found) + 1))
        return remains

    def _best(self) -> ReachedLatency:
        """Return the plan that removes least of those that remove enough."""
        enough = [f for f in self._found if f.plan.reached >= self._ratio - TOLERANCE]
        if not enough:
            most = max(found.plan.reached for found in self._found)
            raise BudgetError(
                f"removing {self._ratio:.1%} of the latency is not reachable: "
                f"{max(most, 0.0):.1%} was measured for the smallest network that was tried",
                hint="ask for less, or allow narrower groups (--min-units)",
            )
        best = min(enough, key=lambda found: found.plan.reached)
        return replace(best, tries=len(self._found))
