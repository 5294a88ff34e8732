"""Units that no layer reads through a weight of its own: a refit makes up for nothing of theirs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from graphprune.game.evaluation import Evaluator
from graphprune.game.readers import Reader
from graphprune.game.value import minus_kl


def unread(evaluator: Evaluator, readers: Sequence[Reader], seed: int) -> npt.NDArray[np.float64]:
    """Return half the Fisher information of the gates of units without a reader; zero for others.

    Args:
        evaluator: The network and the images.
        readers: Layers that read units through a weight of their own.
        seed: Draws predictions.

    Returns:
        (n_units,).
    """
    graph = evaluator.graph
    read = np.zeros(graph.n_units, bool)
    for reader in readers:
        read[reader.units[reader.units >= 0]] = True
    scores = np.zeros(graph.n_units)
    if read.all():
        return scores
    generator = torch.Generator().manual_seed(seed)
    for index, batch in enumerate(evaluator.batches):
        everything = torch.ones(batch.n_images, graph.n_units, dtype=torch.bool)
        found = evaluator.gradients(index, everything, minus_kl, generator, n_draws=2)
        scores += 0.5 * found.squares.double().sum(0).numpy() / evaluator.n_images
    scores[read] = 0.0
    return scores
