"""One cell after the other: prune, repair, classify."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import nn

import graphprune as gp
from benchmarks.lowdata.cells import Cell, Key, Store, packed
from benchmarks.lowdata.contenders import Contender, Stage, Timed
from benchmarks.lowdata.rivals import macs
from benchmarks.lowdata.subjects import Subject, hits
from graphprune.errors import GraphpruneError, first_line
from graphprune.surgery import PrunedModel

UNPRUNED = "unpruned"


@dataclass(frozen=True)
class Plan:
    """What is measured on every network.

    Args:
        contenders: Who takes part.
        ratios: Shares of multiply-accumulates.
        repairs: What repairs.
        seeds: How many draws of calibration images.
        images: Calibration images.
    """

    contenders: Sequence[Contender]
    ratios: Sequence[float]
    repairs: Sequence[str]
    seeds: int
    images: int

    def keys(self, network: str, seed: int) -> Iterable[tuple[Contender, Key]]:
        """Yield all cells of one network and seed, contender by contender."""
        for contender in self.contenders:
            for ratio in self.ratios:
                for repair in self.repairs:
                    if repair in contender.repairs:
                        yield contender, Key(network, contender.name, ratio, repair, seed)


def run(subject: Subject, plan: Plan, store: Store) -> None:
    """Measure the cells of one network that are not there yet."""
    if unpruned(subject) not in store:
        store.add(measured(subject, unpruned(subject), subject.model, UNPRUNED))
    graph = gp.trace(subject.model, (subject.pool.x[:2],))
    for seed in range(plan.seeds):
        stage = Stage(subject, graph, subject.calibration(plan.images, seed), seed)
        for contender, key in plan.keys(subject.name, seed):
            if key not in store:
                cell = measure(stage, contender, key)
                store.add(cell)
                say(cell)


def unpruned(subject: Subject) -> Key:
    """Return the key of the network itself."""
    return Key(subject.name, UNPRUNED, 0.0, "none", 0)


def measure(stage: Stage, contender: Contender, key: Key) -> Cell:
    """Measure one cell; what goes wrong in it is told in it."""
    empty = Cell(**vars(key), party=contender.party)
    try:
        smaller = contender.prune(stage, key.ratio, key.repair)
        repaired = _repaired(smaller.made, stage, key.repair)
        cell = measured(stage.subject, key, repaired.made, contender.party)
    except (GraphpruneError, RuntimeError, ValueError, IndexError) as failure:
        return replace(empty, error=first_line(failure, 200))
    return replace(cell, seconds=smaller.seconds, repair_seconds=repaired.seconds)


def measured(subject: Subject, key: Key, model: nn.Module, party: str) -> Cell:
    """Classify selection and test images."""
    example = subject.pool.x[:1]
    right = hits(model, subject.test)
    return Cell(
        **vars(key),
        party=party,
        removed=1 - macs(model, example) / macs(subject.model, example),
        selection=float(hits(model, subject.selection).double().mean()),
        test=float(right.double().mean()),
        hits=packed(right),
        images=len(right),
    )


def _repaired(pruned: PrunedModel, stage: Stage, repair: str) -> Timed[PrunedModel]:
    begun = time.perf_counter()
    repaired = gp.repair(pruned, (stage.images.x,), method=repair, seed=stage.seed)
    return Timed(repaired, time.perf_counter() - begun)


def say(cell: Cell) -> None:
    """Tell of progress."""
    found = cell.error or f"{cell.test:.1%} ({cell.seconds:.1f} s + {cell.repair_seconds:.1f} s)"
    place = f"{cell.network} seed {cell.seed} {cell.contender} {cell.ratio:.0%} {cell.repair}"
    print(f"{place}: {found}", file=sys.stderr, flush=True)
