"""What a ranking loses without labels, or without images: the demo's network on digits.

Five networks are trained, ranked in several ways, lose a share of their multiply-accumulates (all
units compete), are repaired on 256 images without labels, and classify those that nothing else
looked at.

    python benchmarks/labels.py                 (some minutes)
    python benchmarks/labels.py --ratio 0.5 --markdown
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not __package__:
    # Run as a script: this folder's coverage.py would be taken for the library of that name.
    sys.path[0] = str(Path(__file__).parents[1])

import numpy as np
import torch
from torch import Tensor, nn

import graphprune as gp
from benchmarks.contest.table import Table, markdown, show
from benchmarks.lowdata.contenders import planned
from graphprune.demo import digits, train_network
from graphprune.graph import DependencyGraph
from graphprune.ranking import Ranking

UNPRUNED = "unpruned"

REPAIRS = ("batchnorm", "least-squares")


@dataclass(frozen=True)
class Knowledge:
    """What a ranking looks at.

    Args:
        name: What it is called.
        images: How many calibration images.
        labels: Whether it knows theirs.
        criterion: What ranks.
        ahead: The repair that scores look ahead to; ``auto`` for the one that follows.
    """

    name: str
    images: int
    labels: bool = False
    criterion: str = "shapley"
    ahead: str = "auto"

    def rank(
        self, graph: DependencyGraph, x: Tensor, y: Tensor, seed: int, ratio: float
    ) -> Ranking:
        """Rank a network."""
        data = (x, y)[: 1 + self.labels]
        value = "cross-entropy" if self.labels else None
        return gp.rank(
            graph,
            tuple(part[: self.images] for part in data) if self.images else None,
            self.criterion,
            seed,
            value=value,
            for_ratio=ratio,
            for_repair=self.ahead,
        )


KNOWLEDGE = (
    Knowledge("256 images, `kl`", 256),
    Knowledge("256 images, `kl`, `--for-repair none`", 256, ahead="none"),
    Knowledge("256 images, `kl`, `--for-repair least-squares`", 256, ahead="least-squares"),
    Knowledge("256 images and labels, `cross-entropy`", 256, labels=True),
    Knowledge("32 images, `kl`", 32),
    Knowledge("nothing, `--criterion random`", 0, criterion="random"),
    Knowledge("no images: synthetic inputs, `kl`", 0),
)


def measured(seed: int, ratio: float) -> dict[tuple[str, str], float]:
    """Return test accuracies by way of ranking and repair."""
    train, (x, y), (test_x, test_y) = digits(seed)
    network = train_network(train, seed=seed)
    graph = gp.trace(network, (x[:2],))

    def accuracy(model: nn.Module) -> float:
        with torch.no_grad():
            return 100 * float((model(test_x).argmax(1) == test_y).double().mean())

    found = {(UNPRUNED, repair): accuracy(network) for repair in REPAIRS}
    for known in KNOWLEDGE:
        ranking = known.rank(graph, x, y, seed, ratio)
        for repair in REPAIRS:
            plan = planned(ranking, (x,), ratio, repair, seed)
            pruned = gp.repair(gp.prune(graph, plan), (x,), method=repair, seed=seed)
            found[known.name, repair] = accuracy(pruned)
        print(f"network {seed}: {known.name}", file=sys.stderr, flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="networks, at least 2")
    parser.add_argument("--ratio", type=float, default=0.3, help="share of multiply-accumulates")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    cells = [measured(seed, options.ratio) for seed in range(options.seeds)]

    def shown(name: str, repair: str) -> str:
        found = [each[name, repair] for each in cells]
        return f"{np.mean(found):.1f} ± {np.std(found, ddof=1):.1f} %"

    names = [*(known.name for known in KNOWLEDGE), UNPRUNED]
    body = tuple((name, *(shown(name, repair) for repair in REPAIRS)) for name in names)
    table = Table("Test accuracy", ("ranked with", *REPAIRS), body)
    if options.markdown:
        print(markdown([table]))
    else:
        show([table])
    return 0


if __name__ == "__main__":
    sys.exit(main())
