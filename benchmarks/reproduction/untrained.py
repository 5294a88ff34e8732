"""Untrained networks get better when units of negative value go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

import graphprune as gp
from benchmarks.contest.table import Table
from benchmarks.lowdata.subjects import Images
from benchmarks.reproduction.cases import accuracy, as_data, dense, digits, split
from graphprune.graph import DependencyGraph
from graphprune.surgery import cut

PUBLISHED = "7 % → 51 % (MNIST, 41 % of the parameters left), 11 % → 20 % (CIFAR-10)"

_WIDTH = 512


@dataclass(frozen=True)
class Grown:
    """One untrained network.

    Args:
        seed: Of its weights.
        before: Accuracy on test images, as initialised.
        after: The same without the units of negative value.
        control: The same without as many units chosen at random.
        kept: Share of the units that stayed.
    """

    seed: int
    before: float
    after: float
    control: float
    kept: float


def untrained(seed: int, width: int = _WIDTH) -> Grown:
    """Remove units of negative value from the last hidden layer, then from the first.

    Values are the paper's, means over 300 labelled digits that are not among the test images.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = dense(width).eval()
    _, pool, test = split(digits())
    graph = gp.trace(model, (pool.x[:2],))
    kept = graph.all_kept()
    for group in reversed(graph.groups):
        smaller = gp.trace(cut(graph, kept), (pool.x[:2],))
        values = _values(smaller, pool, group.name, seed)
        kept[group.span] = values >= 0
    mixed = kept.copy()
    generator = np.random.default_rng(seed)
    for group in graph.groups:
        mixed[group.span] = generator.permutation(kept[group.span])
    return Grown(
        seed=seed,
        before=accuracy(model, test),
        after=accuracy(cut(graph, kept), test),
        control=accuracy(cut(graph, mixed), test),
        kept=float(kept.mean()),
    )


def _values(graph: DependencyGraph, pool: Images, group: str, seed: int) -> np.ndarray:
    ranking = gp.rank(
        graph,
        as_data(pool),
        "shapley-paper",
        seed,
        aggregate="mean",
        value="cross-entropy",
        only=(group,),
    )
    return next(each.scores for each in ranking.groups if each.name == group)


def table(results: Sequence[Grown]) -> Table:
    """Show what was found."""
    body = tuple(
        (
            f"{each.seed}",
            f"{each.before:.1%}",
            f"{each.after:.1%}",
            f"{each.control:.1%}",
            f"{each.kept:.0%}",
        )
        for each in results
    )
    title = f"Untrained networks without their units of negative value; the paper: {PUBLISHED}"
    return Table(title, ("seed", "before", "after", "as many at random", "units kept"), body)
