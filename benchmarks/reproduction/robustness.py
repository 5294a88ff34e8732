"""Layerwise robustness: what the network loses while the units of one layer go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import graphprune as gp
from benchmarks.contest.table import Table
from benchmarks.reproduction.cases import Case, as_data
from benchmarks.reproduction.metrics import METRICS
from graphprune.comparison import layerwise_robustness
from graphprune.data import as_batches

PUBLISHED = {
    "Shapley, mean + 2 std": 0.31,
    "Shapley, mean": 0.35,
    "weight norm": 0.47,
    "sensitivity": 0.47,
    "Taylor": 0.47,
    "random": 0.48,
    "APoZ": 0.56,
    "Taylor, signed": 0.64,
}
"""The paper's figures for VGG-16 on CIFAR-10: mean rise of the loss a unit removed."""


@dataclass(frozen=True)
class Areas:
    """One metric on one network.

    Args:
        network: Its name.
        metric: The metric.
        areas: Mean height of the curves of loss increase over all groups, by seed.
    """

    network: str
    metric: str
    areas: tuple[float, ...]


def robustness(case: Case, images: int, seeds: int, judges: int | None = None) -> list[Areas]:
    """Judge all metrics on the case's test images.

    Args:
        case: The network.
        images: Images that rank, drawn anew for each seed.
        seeds: How many draws.
        judges: How many of the test images judge, the first ones; None for all.
    """
    graph = gp.trace(case.model, (case.pool.x[:2],))
    rankings = [
        [metric.rank(graph, case.drawn(images, seed), seed).scores for seed in range(seeds)]
        for metric in METRICS
    ]
    judged = layerwise_robustness(
        graph,
        as_batches(as_data(case.test.part(slice(judges)))),
        [scores for each in rankings for scores in each],
    )
    found = np.array([each.area for each in judged]).reshape(len(METRICS), seeds)
    return [
        Areas(case.name, metric.name, tuple(areas.tolist()))
        for metric, areas in zip(METRICS, found, strict=True)
    ]


def table(results: Sequence[Areas]) -> Table:
    """Show the areas of all networks beside the paper's figures."""
    networks = list(dict.fromkeys(each.network for each in results))
    cells = {(each.metric, each.network): each.areas for each in results}
    body = []
    for metric in dict.fromkeys(each.metric for each in results):
        row = [_spread(cells[metric, network]) for network in networks]
        told = PUBLISHED.get(metric)
        body.append((metric, *row, "-" if told is None else f"{told:.2f}"))
    title = (
        "Layerwise robustness: mean rise of the loss (± standard deviation over seeds), lower is "
        "better"
    )
    return Table(title, ("", *networks, "the paper, a unit, VGG-16"), tuple(body))


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=min(len(values) - 1, 1)):.3f}"
