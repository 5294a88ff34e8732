"""Second moments of what readers read, and how much the network minds errors in what they make.

With G the second moments of a layer's columns and a constant one, the least-squares refit of the
layer to any subset of its columns is closed form. G is summed over the calibration batches in
double precision, on rows drawn at random; a ridge makes up for the rows that were not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.columns import LinearLayer, every_place, random_places
from graphprune.game.evaluation import Evaluator, Running
from graphprune.game.readers import Reader
from graphprune.game.value import class_logits, log_likelihood, sample_predictions
from graphprune.game.watching import Pass, Watched, WatchedNetwork
from graphprune.progress import Progress, silent

ROWS_PER_COLUMN = 15
"""Rows drawn for every column, if there are so many."""

LEAST_ROWS = 10_000
MOST_ROWS = 40_000

RIDGE = 1e-3
"""Share of the mean second moment added to each."""

_TINY = 1e-10


@dataclass(frozen=True)
class Moments:
    """What a refit of a reader needs to know.

    Args:
        gram: (groups, columns + 1, columns + 1) float64: mean second moments of its columns and of
            a constant one, which comes last; the ridge is on the columns' diagonal.
        sensitivity: (groups, outputs) float64: the mean squared derivative of the log-likelihood of
            what the unpruned network predicts in each output channel, summed over places (the
            diagonal of the Fisher information).
    """

    gram: Tensor
    sensitivity: Tensor


@dataclass(frozen=True)
class Read:
    """A reader, and what a refit of it needs to know.

    Args:
        reader: The layer.
        layer: The same in the gated network.
        weight: (groups, outputs, columns) its weight there, on the CPU.
        moments: Its second moments.
    """

    reader: Reader
    layer: LinearLayer
    weight: Tensor
    moments: Moments


def refit_bytes(readers: Sequence[Reader]) -> int:
    """Return what it takes to hold second moments of all readers and to refit one after another."""
    return sum(map(_held, readers)) + max(map(_beside, readers), default=0)


def allowed_bytes(running: Running) -> int:
    """Return what second moments and refits may take."""
    return running.max_memory // 2


def _held(reader: Reader) -> int:
    groups, columns = reader.units.shape
    return int(8 * groups * (columns + 1) ** 2)


def _beside(reader: Reader) -> int:
    """Return what a refit takes: an inverse, what it changes by, and the weights of one group."""
    columns = reader.units.shape[1]
    return int(24 * (columns + 1) ** 2 + 8 * reader.outputs * columns)


def portions(readers: Sequence[Reader], max_bytes: int) -> list[list[Reader]]:
    """Return readers in portions that take not more than so many bytes, or are of one reader."""
    found: list[list[Reader]] = []
    for reader in readers:
        if found and refit_bytes([*found[-1], reader]) <= max_bytes:
            found[-1].append(reader)
        else:
            found.append([reader])
    return found


def read_by(
    evaluator: Evaluator,
    readers: Sequence[Reader],
    seed: int,
    max_bytes: int,
    progress: Progress = silent,
) -> Iterator[Read]:
    """Yield readers with their moments; what has been yielded is held no more.

    Args:
        evaluator: Holds the calibration batches.
        readers: The layers, in execution order.
        seed: Draws rows and predictions.
        max_bytes: What second moments and a refit may take. Readers of which all take more are
            looked at in portions, each in passes of its own.
        progress: Told about every batch.
    """
    for portion in portions(readers, max_bytes):
        network = WatchedNetwork(evaluator.gated, portion)
        gathered = gather_moments(evaluator, network, portion, seed, progress)
        for reader in portion:
            name = reader.layer.node
            layer = network.layers[name]
            weight = layer.layout.matrix(network.weight(name).detach()).cpu()
            yield Read(reader, layer, weight, gathered.pop(name))


def gather_moments(
    evaluator: Evaluator,
    network: WatchedNetwork,
    readers: Sequence[Reader],
    seed: int,
    progress: Progress = silent,
) -> dict[str, Moments]:
    """Return the moments of every reader in the unpruned network.

    Args:
        evaluator: Holds the calibration batches.
        network: The network to watch.
        readers: Its readers.
        seed: Draws rows and predictions.
        progress: Told about every batch.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = {reader.layer.node: _Sums(network, reader) for reader in readers}
    for index, batch in enumerate(evaluator.batches):
        done, slopes = _unpruned(evaluator, network, index, generator)
        share = batch.n_images / evaluator.n_images
        for (name, own), slope in zip(sums.items(), slopes, strict=True):
            own.add_slopes(slope)
            # What fills up a fixed batch says nothing new, but is better than nothing.
            if not evaluator.is_filled_up(batch) or not index:
                own.add_rows(done.watched[name], share, generator)
        progress("second moments", index + 1, len(evaluator.batches))
    return {name: sums.pop(name).moments(evaluator.n_images) for name in list(sums)}


def _unpruned(
    evaluator: Evaluator, network: WatchedNetwork, index: int, generator: torch.Generator
) -> tuple[Pass, Sequence[Tensor]]:
    """Run a batch; return what was seen and, by reader, the likelihood's slope in what it made."""
    batch = evaluator.batches[index]
    with torch.inference_mode(False), torch.enable_grad(), evaluator.in_precision():
        gates = evaluator.gates(torch.ones(evaluator.graph.n_units))
        done = network.run(gates, evaluator.inputs(batch))
        logits = class_logits(done.outputs)[: batch.n_images]
        opened = evaluator.class_gates(gates)
        drawn = sample_predictions(logits, generator, *opened)
        likelihood = log_likelihood(logits, drawn, *opened).sum()
        made = [watched.y for watched in done.watched.values()]
        if not made:
            return done, ()
        slopes = torch.autograd.grad(likelihood, made, allow_unused=True, materialize_grads=True)
    return done, slopes


class _Sums:
    """What has been seen of one reader."""

    def __init__(self, network: WatchedNetwork, reader: Reader) -> None:
        self._layer: LinearLayer = network.layers[reader.layer.node]
        groups, columns = reader.units.shape
        wanted = ROWS_PER_COLUMN * (columns + 1)
        self._rows = min(max(wanted, LEAST_ROWS), MOST_ROWS)
        self._count = 0
        outputs = self._layer.layout.matrix(network.weight(reader.layer.node).detach()).shape[1]
        self._gram = torch.zeros(groups, columns + 1, columns + 1, dtype=torch.float64)
        self._squares = torch.zeros(groups, outputs, dtype=torch.float64)

    def add_rows(self, watched: Watched, share: float, generator: torch.Generator) -> None:
        """Draw rows of a batch that holds a share of all images."""
        made = watched.y.detach()
        places = random_places(self._layer, made, math.ceil(self._rows * share), generator)
        columns = with_one(self._layer.layout.columns(watched.x, made, places))
        self._gram += (columns.mT @ columns).cpu()
        self._count += columns.shape[1]

    def add_slopes(self, slope: Tensor) -> None:
        """Take in the derivatives with respect to what the layer made of a batch."""
        made = self._layer.layout.outputs(slope, every_place(self._layer, slope))
        self._squares += made.double().square().sum(1).cpu()

    def moments(self, n_images: int) -> Moments:
        """Return the means, with the ridge; the sums are given up for them."""
        gram = self._gram.div_(max(self._count, 1))
        columns = gram.diagonal(dim1=1, dim2=2)[:, :-1]
        # Few rows for many columns say less than they seem to.
        scarcity = max(ROWS_PER_COLUMN * gram.shape[-1] / max(self._count, 1), 1.0)
        columns += RIDGE * scarcity * columns.mean(1, keepdim=True) + _TINY
        return Moments(gram, self._squares / n_images)


def with_one(columns: Tensor) -> Tensor:
    """Append the constant column."""
    return torch.cat([columns, columns.new_ones(*columns.shape[:-1], 1)], -1)
