"""The paper's metrics, as criteria of graphprune, and ours beside them."""

from __future__ import annotations

from dataclasses import dataclass

import graphprune as gp
from benchmarks.lowdata.subjects import Images
from benchmarks.reproduction.cases import as_data
from graphprune.graph import DependencyGraph


@dataclass(frozen=True)
class Metric:
    """A way to score units.

    Args:
        name: For the table.
        criterion: As ``--criterion`` takes it.
        aggregate: As ``--aggregate`` takes it.
        published: Whether it is one of the paper's.
    """

    name: str
    criterion: str
    aggregate: str | None = None
    published: bool = True

    def rank(self, graph: DependencyGraph, images: Images, seed: int) -> gp.Ranking:
        """Rank with labelled images, as the paper does."""
        data = as_data(images)
        return gp.rank(graph, data, self.criterion, seed, aggregate=self.aggregate)


METRICS = (
    Metric("Shapley, mean + 2 std", "shapley-paper", "mean+2std"),
    Metric("Shapley, mean", "shapley-paper", "mean"),
    Metric("weight norm", "l1"),
    Metric("sensitivity", "sensitivity"),
    Metric("Taylor", "taylor"),
    Metric("Taylor, signed", "taylor-signed"),
    Metric("APoZ", "apoz"),
    Metric("random", "random"),
    Metric("graphprune's default", "shapley", published=False),
)
