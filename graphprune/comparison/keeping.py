"""Keeping: where a comparison's rankings and rows are kept while it runs."""

from __future__ import annotations

from typing import Protocol

from graphprune.comparison.records import Comparison, Trial
from graphprune.graph import DependencyGraph
from graphprune.ranking import Ranking


class Store(Protocol):
    """Where a comparison keeps what it has found."""

    def begin(self, fresh: Comparison) -> Comparison:
        """Return what an earlier run of the same comparison has found, else ``fresh``.

        Raises:
            ArtifactError: The earlier run was another comparison; says where they differ.
        """

    def save(self, found: Comparison) -> None:
        """Keep everything found so far."""

    def keep(self, trial: Trial, ranking: Ranking) -> Trial:
        """Keep a ranking; return its trial with where it is."""

    def ranking(self, trial: Trial, graph: DependencyGraph) -> Ranking | None:
        """Return a ranking that was kept; None if it is gone or is not the one that was kept."""


class InMemory:
    """Keeps rankings as long as the comparison runs."""

    def __init__(self) -> None:
        self._rankings: dict[tuple[str, int], Ranking] = {}

    def begin(self, fresh: Comparison) -> Comparison:
        """Nothing was found earlier."""
        return fresh

    def save(self, found: Comparison) -> None:
        """The caller gets it anyway."""

    def keep(self, trial: Trial, ranking: Ranking) -> Trial:
        """Keep a ranking."""
        self._rankings[trial.criterion, trial.seed] = ranking
        return trial

    def ranking(self, trial: Trial, graph: DependencyGraph) -> Ranking | None:
        """Return a ranking that was kept."""
        del graph
        return self._rankings.get((trial.criterion, trial.seed))
