"""Pruning with few images: one cut of every layer, then fine-tuning that stops early.

The same figures show whether random pruning catches up once there is more to fine-tune on.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import graphprune as gp
from benchmarks.contest.table import Table
from benchmarks.lowdata.subjects import Images
from benchmarks.reproduction.cases import Case, accuracy
from benchmarks.reproduction.metrics import METRICS

PUBLISHED = {
    "Shapley, mean + 2 std": (88.4, 72.0, 32.5),
    "Taylor": (79.5, 67.9, 21.5),
    "APoZ": (84.0, 59.6, 18.0),
    "sensitivity": (66.5, 51.2, 17.4),
    "random": (85.7, 63.6, 13.0),
    "weight norm": (72.4, 50.3, 14.9),
}
"""The paper's accuracies in % with 75, 50 and 25 % of the units kept (CIFAR-10, 11 layers)."""

KEPT = (0.75, 0.5, 0.25)

_HELD_OUT = 0.2
_PATIENCE = 5
_RATE = 1e-3
_BATCH = 32


@dataclass(frozen=True)
class Tuned:
    """One metric on one network with one amount of data.

    Args:
        network: Its name.
        metric: The metric.
        kept: Share of every layer's units that stays.
        images: Images that rank and fine-tune.
        cut: Accuracy on test images before fine-tuning, by seed.
        tuned: The same afterwards.
    """

    network: str
    metric: str
    kept: float
    images: int
    cut: tuple[float, ...]
    tuned: tuple[float, ...]


def prune_and_tune(
    case: Case, images: int, seeds: int, epochs: int, ranked: int | None = None
) -> list[Tuned]:
    """Cut by every metric and fine-tune.

    Args:
        case: The network.
        images: Images that fine-tune, drawn anew for each seed.
        seeds: How many draws.
        epochs: Of fine-tuning at most.
        ranked: How many of the images rank; all by default.
    """
    graph = gp.trace(case.model, (case.pool.x[:2],))
    found = []
    for metric in METRICS:
        shares = np.zeros((2, len(KEPT), seeds))
        for seed in range(seeds):
            drawn = case.drawn(images, seed)
            ranking = metric.rank(graph, drawn.part(slice(ranked)), seed)
            for place, kept in enumerate(KEPT):
                plan = gp.select(ranking, ratio=1 - kept, of="units", scope="group")
                pruned = gp.prune(graph, plan)
                shares[0, place, seed] = accuracy(pruned, case.test)
                shares[1, place, seed] = accuracy(tuned(pruned, drawn, epochs, seed), case.test)
        for kept, cut, after in zip(KEPT, *shares.tolist(), strict=True):
            found.append(Tuned(case.name, metric.name, kept, images, tuple(cut), tuple(after)))
    return found


def tuned(model: nn.Module, images: Images, epochs: int, seed: int) -> nn.Module:
    """Fine-tune until the loss on a fifth of the images held out has not fallen for some epochs.

    Returns:
        The network of the best epoch; the one given if none was better.
    """
    held = max(round(_HELD_OUT * len(images)), 1)
    watched, shown = images.part(slice(held)), images.part(slice(held, None))
    model = copy.deepcopy(model)
    best, least, patience = copy.deepcopy(model), _loss(model, watched), _PATIENCE
    optimizer = torch.optim.Adam(model.parameters(), _RATE)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        model.train()
        for places in torch.randperm(len(shown), generator=generator).split(_BATCH):
            if len(places) > 1:  # BatchNorm has no statistics of one image
                optimizer.zero_grad()
                F.cross_entropy(model(shown.x[places]), shown.y[places]).backward()
                optimizer.step()
        model.eval()
        loss = _loss(model, watched)
        patience -= 1
        if loss < least:
            best, least, patience = copy.deepcopy(model), loss, _PATIENCE
        if not patience:
            break
    return best.eval()


def _loss(model: nn.Module, images: Images) -> float:
    with torch.inference_mode():
        return float(F.cross_entropy(model(images.x), images.y))


def table(results: Sequence[Tuned]) -> Table:
    """Show accuracies before and after fine-tuning beside the paper's figures."""
    columns = list(dict.fromkeys((each.network, each.images) for each in results))
    cells = {(each.metric, each.network, each.images, each.kept): each for each in results}
    head = [f"{network}, {images} images" for network, images in columns]
    body = []
    for metric in dict.fromkeys(each.metric for each in results):
        row = []
        for network, images in columns:
            each = [cells[metric, network, images, kept] for kept in KEPT]
            row.append(f"{_listed(e.cut for e in each)} → {_listed(e.tuned for e in each)}")
        told = PUBLISHED.get(metric)
        body.append((metric, *row, "-" if told is None else " / ".join(map(str, told))))
    title = (
        "Accuracy in % with 75 / 50 / 25 % of every layer's units kept, before → after fine-tuning "
        "that stops early"
    )
    return Table(title, ("", *head, "the paper"), tuple(body))


def _listed(shares: object) -> str:
    return " / ".join(f"{100 * np.mean(each):.0f}" for each in shares)  # type: ignore[attr-defined]
