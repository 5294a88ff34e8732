"""Rankings, images and held plans that tests exchange."""

from __future__ import annotations

import numpy as np
import torch

from graphprune.data import CalibrationBatches, as_batches
from graphprune.exchanging.held import Held, Passes
from graphprune.game.games import NetworkGame
from graphprune.graph import DependencyGraph, Kept
from graphprune.progress import silent
from graphprune.ranking import Ranking, split_by_group
from graphprune.selection import Budget, select_within

HALF = Budget(ratio=0.5, of="macs")
NAMES = ("Residual", "PaddedShortcut", "Concat", "Depthwise", "PackedAttention")


def images(graph: DependencyGraph, count: int = 24) -> CalibrationBatches:
    generator = torch.Generator().manual_seed(3)
    example = graph.example_inputs[0]
    x = torch.randn(count, *example.shape[1:], generator=generator, dtype=example.dtype)
    return as_batches((x,))


def scored(graph: DependencyGraph, scores: np.ndarray) -> Ranking:
    return Ranking(
        graph=graph, groups=split_by_group(graph, scores), criterion="test", game="network"
    )


def at_random(graph: DependencyGraph, seed: int = 0) -> Ranking:
    return scored(graph, np.random.default_rng(seed).random(graph.n_units) + 0.1)


def held(ranking: Ranking, budget: Budget = HALF, passes: int = 40) -> Held:
    game = NetworkGame(ranking.graph, images(ranking.graph))
    plan = select_within(ranking, budget)
    return Held(ranking, budget, game, plan, Passes("test", passes, silent))


def worth(game: NetworkGame, kept: Kept) -> float:
    return float(game.values(torch.from_numpy(kept)[None])[0].mean())
