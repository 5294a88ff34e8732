"""Games: players are units, coalitions are sets of kept players, values are performances."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from graphprune.cost import CostModel
from graphprune.data import CalibrationBatches
from graphprune.errors import DataError, OptionError
from graphprune.game.evaluation import Evaluator, GateGradients, class_units
from graphprune.game.value import (
    NEEDS_LABELS,
    Performance,
    UserValue,
    Value,
    check_shrinking,
    is_stepwise,
    performance_named,
)
from graphprune.graph import DependencyGraph, Kept
from graphprune.groups import PruningGroup


class Game(Protocol):
    """A cooperative game with per-image values."""

    @property
    def n_players(self) -> int:
        """Number of players."""

    @property
    def evaluations(self) -> int:
        """Coalitions evaluated so far, each on all images."""

    def values(self, coalitions: Tensor) -> Tensor:
        """Return (n_coalitions, n_images) float64 for (n_coalitions, n_players) Bool.

        Equal coalitions have equal values; higher is better.
        """


class GroupGame:
    """The units of one group play; all other units are kept (the paper's game).

    Args:
        graph: The network.
        group: The players.
        data: Calibration images.
        value: The performance: its name, or the user's own.
        device: Where the network is run.
    """

    def __init__(
        self,
        graph: DependencyGraph,
        group: PruningGroup,
        data: CalibrationBatches,
        value: Value,
        device: str = "cpu",
    ) -> None:
        self.n_players = group.n_units
        self.evaluations = 0
        self._performance = _checked_performance(value, data, graph)
        _check_classes_stay(graph, group)
        self._span = group.span
        players = np.zeros(graph.n_units, bool)
        players[group.span] = True
        self._evaluator = Evaluator(graph, data, players, device)

    def values(self, coalitions: Tensor) -> Tensor:
        """Return (n_coalitions, n_images) float64 for (n_coalitions, n_players) Bool."""
        whole = torch.ones(len(coalitions), self._evaluator.graph.n_units, dtype=torch.bool)
        whole[:, self._span] = coalitions
        self.evaluations += len(coalitions)
        return self._evaluator.values(whole, self._performance)


class NetworkGame:
    """All units of the network play; scores compare across groups by construction.

    Args:
        graph: The network.
        data: Calibration images.
        value: The performance: its name, or the user's own.
        device: Where the network is run.
    """

    def __init__(
        self, graph: DependencyGraph, data: CalibrationBatches, value: Value, device: str = "cpu"
    ) -> None:
        self.n_players = graph.n_units
        self.evaluations = 0
        self.graph = graph
        self.needed = graph.needed
        self._costs = CostModel(graph)
        self.total_macs = self._costs.total(graph.all_kept()).macs
        self.macs = self._costs.marginal("macs")
        self._value = value
        self._performance = _checked_performance(value, data, graph)
        self._evaluator = Evaluator(graph, data, device=device)

    @property
    def n_images(self) -> int:
        """Number of calibration images."""
        return self._evaluator.n_images

    @property
    def per_sample(self) -> bool:
        """Whether gradients run in whole batches, see :attr:`Evaluator.per_sample`."""
        return self._evaluator.per_sample

    @property
    def fisher(self) -> bool:
        """Whether the Fisher information stands for minus the value's second derivative."""
        return not isinstance(self._value, UserValue)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Number of images in each batch that gradients are taken on."""
        return tuple(batch.n_images for batch in self._evaluator.batches)

    def removed_macs(self, kept: Kept) -> float:
        """Return the share of multiply-accumulates that a coalition (n_players,) lacks."""
        return 1.0 - self._costs.total(kept).macs / max(self.total_macs, 1)

    def values(self, coalitions: Tensor) -> Tensor:
        """Return (n_coalitions, n_images) float64 for (n_coalitions, n_players) Bool."""
        self.evaluations += len(coalitions)
        return self._evaluator.values(coalitions, self._performance)

    def gradients(
        self, batch: int, coalitions: Tensor, generator: torch.Generator, n_draws: int
    ) -> GateGradients:
        """Differentiate one batch with respect to all gates, see :meth:`Evaluator.gradients`.

        Raises:
            OptionError: The performance changes in steps only.
        """
        if is_stepwise(self._value):
            raise OptionError(
                f"value {str(self._value)!r} changes in steps, so it has no gate gradients",
                hint="use --value kl or cross-entropy, or --game group",
            )
        return self._evaluator.gradients(batch, coalitions, self._performance, generator, n_draws)


def _check_classes_stay(graph: DependencyGraph, group: PruningGroup) -> None:
    """Refuse a game whose empty coalition predicts nothing.

    Raises:
        OptionError: All classes are units of the group.
    """
    units = class_units(graph)
    if units is not None and np.isin(units, np.arange(group.n_units) + group.first).all():
        raise OptionError(
            f"the game of group {group.name} empties the network's outputs, which may shrink",
            hint="use --criterion shapley --game network, or leave out --unpin-output",
        )


def _checked_performance(
    value: Value, data: CalibrationBatches, graph: DependencyGraph
) -> Performance:
    performance = performance_named(value)
    if class_units(graph) is not None:
        check_shrinking(value)
    if value in NEEDS_LABELS and not data.has_labels:
        raise DataError(
            f"value {value!r} needs labels and the data has none",
            hint="give data with labels, or use --value kl, which needs none",
        )
    return performance
