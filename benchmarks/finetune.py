"""What an optimizer that is carried over is worth: fine-tuning a pruned network on the digits.

A network is trained, half its multiply-accumulates (or --ratio) are removed in the middle of
training, and it trains on: once with the optimizer that it has had, sliced like the parameters, and
once with a new one of the same settings. Everything else is the same, batches included.

    python benchmarks/finetune.py                          (two minutes on one core)
    python benchmarks/finetune.py --optimizers adamw --seeds 1 --markdown
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not __package__:
    # Run as a script: this folder's coverage.py would be taken for the library of that name.
    sys.path[0] = str(Path(__file__).parents[1])

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

import graphprune as gp
from benchmarks.contest.table import Table, markdown, show
from graphprune.demo import DigitsNetwork, digits

Images = tuple[Tensor, Tensor]

BEFORE = 96
"""Steps of training before the network is pruned: six epochs."""

LOOKS = (0, 2, 4, 8, 16, 32, 64)
"""Steps after pruning at which the network is judged."""

OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "sgd": lambda module: SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4),
    "adamw": lambda module: AdamW(module.parameters(), lr=3e-3),
}


@dataclass(frozen=True)
class Tuned:
    """One pruned network, trained on.

    Args:
        optimizer: What trains it.
        kind: ``carried`` or ``new``.
        seed: Of weights, images and batches.
        losses: Cross-entropy on the test images at :data:`LOOKS`.
        accuracies: Accuracy there.
    """

    optimizer: str
    kind: str
    seed: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    options = parsed(arguments)
    rows = [
        row
        for name in options.optimizers
        for seed in range(options.seeds)
        for row in measured(name, seed, options.ratio)
    ]
    if options.markdown:
        print(markdown([table(rows)]))
    else:
        show([table(rows)])
    return 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ratio", type=float, default=0.5, help="of the multiply-accumulates")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args(arguments)


def measured(name: str, seed: int, ratio: float) -> Iterator[Tuned]:
    """Train, prune in the middle, and train on with both optimizers."""
    torch.manual_seed(seed)
    train, calibration, test = digits(seed)
    model = DigitsNetwork()
    optimizer = OPTIMIZERS[name](model)
    rows = batches(seed)
    for _ in range(BEFORE):
        step(model, optimizer, train, next(rows))
    graph = gp.trace(model, (calibration[0][:2],))
    plan = gp.select(gp.rank(graph, calibration, "taylor"), ratio=ratio, of="macs")
    for kind in ("carried", "new"):
        pruned = gp.prune(graph, plan)
        goes_on = (
            gp.prune_optimizer(optimizer, graph, plan, pruned)
            if kind == "carried"
            else OPTIMIZERS[name](pruned)
        )
        looks = list(tuned(pruned, goes_on, train, test, seed))
        losses, accuracies = zip(*looks, strict=True)
        yield Tuned(name, kind, seed, losses, accuracies)


def tuned(
    network: nn.Module, optimizer: Optimizer, train: Images, test: Images, seed: int
) -> Iterator[tuple[float, float]]:
    """Train on, and yield loss and accuracy on the test images at :data:`LOOKS`."""
    rows = batches(seed + 1000)
    for done in range(LOOKS[-1] + 1):
        if done in LOOKS:
            yield judged(network, test)
        step(network, optimizer, train, next(rows))


def step(network: nn.Module, optimizer: Optimizer, train: Images, rows: Tensor) -> None:
    """Take one step on some of the images."""
    images, labels = train
    network.train()
    optimizer.zero_grad()
    F.cross_entropy(network(images[rows]), labels[rows]).backward()
    optimizer.step()


@torch.no_grad()
def judged(network: nn.Module, test: Images) -> tuple[float, float]:
    """Return loss and accuracy on the test images."""
    network.eval()
    images, labels = test
    outputs = network(images)
    right = (outputs.argmax(1) == labels).double().mean()
    return float(F.cross_entropy(outputs, labels)), float(right)


def batches(seed: int, count: int = 1000, size: int = 64) -> Iterator[Tensor]:
    """Yield rows of batches for ever."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).split(size)


def table(rows: Sequence[Tuned]) -> Table:
    """Return the means over seeds."""
    lines: list[tuple[str, ...]] = []
    for name, kind in dict.fromkeys((row.optimizer, row.kind) for row in rows):
        found = [row for row in rows if (row.optimizer, row.kind) == (name, kind)]
        losses = np.array([row.losses for row in found])
        rights = np.array([row.accuracies for row in found])
        cells = [
            f"{loss:.3f} ({100 * right:.1f} %)"
            for loss, right in zip(losses.mean(0), rights.mean(0), strict=True)
        ]
        lines.append((name, kind, *cells))
    title = "test loss (accuracy) after so many steps, mean of the seeds"
    return Table(title, ("optimizer", "", *map(str, LOOKS)), tuple(lines))


if __name__ == "__main__":
    sys.exit(main())
