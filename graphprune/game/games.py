"""Games: players are units, coalitions are sets of kept players, values are performances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from graphprune.cost import CostModel
from graphprune.data import CalibrationBatches
from graphprune.distributed import ALONE, Ranks
from graphprune.errors import DataError, OptionError
from graphprune.game.evaluation import DEFAULT, Evaluator, GateGradients, Running, class_units
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

DEFAULT_BAND = 0.5
"""Largest share of multiply-accumulates that coalitions lack."""

Unions = npt.NDArray[np.int64]


class Game(Protocol):
    """A cooperative game with per-image values."""

    @property
    def n_players(self) -> int:
        """Number of players."""

    @property
    def unions(self) -> Unions | None:
        """The union that each player belongs to, (n_players,); None if all play for themselves.

        Members of one union join one after the other, so that only orders that keep unions
        together count (the Owen value).
        """

    @property
    def evaluations(self) -> int:
        """Coalitions evaluated so far, each on all images; those known already do not count."""

    def values(self, coalitions: Tensor) -> Tensor:
        """Return (n_coalitions, n_images) float64 for (n_coalitions, n_players) Bool.

        Equal coalitions have equal values; higher is better.
        """


class SlopedGame(Game, Protocol):
    """A game that can be played with players who are partly in."""

    @property
    def n_images(self) -> int:
        """Number of images."""

    def slopes(self, gates: Tensor) -> Tensor:
        """Differentiate the worth in every player's gate.

        Args:
            gates: (n_draws, n_images, n_players) in [0, 1], for every image its own.

        Returns:
            (n_draws, n_images, n_players) float64.
        """


class _PlayedGame:
    """Evaluates coalitions of units, each once, and shares them with the other ranks."""

    def __init__(
        self, evaluator: Evaluator, players: slice, value: Value, ranks: Ranks, max_memory: int
    ) -> None:
        self.evaluations = 0
        self._value = value
        self._performance = _checked_performance(value, evaluator.data, evaluator.graph)
        self._ranks = ranks
        self._players = players
        self._evaluator = evaluator
        self._known = _Known(max_memory // 8)
        self.n_players = players.stop - players.start

    @property
    def unions(self) -> Unions | None:
        """All play for themselves."""
        return None

    @property
    def evaluator(self) -> Evaluator:
        """Runs the network with units masked."""
        return self._evaluator

    @property
    def n_images(self) -> int:
        """Number of calibration images."""
        return self._evaluator.n_images

    @property
    def together(self) -> int:
        """How many coalitions share a pass, see :attr:`Evaluator.together`."""
        return self._evaluator.together

    def values(self, coalitions: Tensor) -> Tensor:
        """Return (n_coalitions, n_images) float64 for (n_coalitions, n_players) Bool."""
        keys = [row.tobytes() for row in np.packbits(coalitions.numpy(), axis=1)]
        fresh = dict(zip(keys, coalitions, strict=True))
        missing = {key: row for key, row in fresh.items() if key not in self._known}
        found = dict(zip(missing, self._evaluated(list(missing.values())), strict=True))
        self._known.add(found)
        self.evaluations += len(found)
        rows = [found[key] if key in found else self._known[key] for key in keys]
        return torch.stack(rows) if rows else torch.zeros(0, self.n_images, dtype=torch.float64)

    def _evaluated(self, coalitions: list[Tensor]) -> Tensor:
        """Share whole passes, so that a coalition's company does not depend on the ranks."""
        if not coalitions:
            return torch.zeros(0, self.n_images, dtype=torch.float64)
        size = self.together
        spare = -len(coalitions) % size
        rows = torch.stack(coalitions + coalitions[-1:] * spare)

        def compute(passes: range) -> Tensor:
            share = self._whole(rows[passes.start * size : passes.stop * size])
            found = self._evaluator.values(share, self._performance)
            return found.reshape(len(passes), size, -1)

        found = self._ranks.gather(len(rows) // size, compute)
        return found.flatten(0, 1)[: len(coalitions)]

    def _whole(self, coalitions: Tensor) -> Tensor:
        """Return what the units of the whole network do when these players are in."""
        whole = coalitions.new_ones(*coalitions.shape[:-1], self._evaluator.graph.n_units)
        whole[..., self._players] = coalitions
        return whole

    def slopes(self, gates: Tensor) -> Tensor:
        """Differentiate the worth in every player's gate, see :class:`SlopedGame`.

        Raises:
            OptionError: The performance changes in steps only.
        """
        _check_slopes(self._value)

        def compute(draws: range) -> Tensor:
            found = [self._slopes(gates[draw]) for draw in draws]
            return torch.stack(found) if found else gates.double()

        return self._ranks.gather(len(gates), compute)

    def _slopes(self, gates: Tensor) -> Tensor:
        start, found = 0, []
        for index, batch in enumerate(self._evaluator.batches):
            opened = self._whole(gates[start : start + batch.n_images])
            slope = self._evaluator.gradients(
                index, opened, self._performance, torch.Generator(), n_draws=0
            ).slope
            found.append(slope[:, self._players].double())
            start += batch.n_images
        return torch.cat(found)

    def precision_error(self) -> float:
        """Measure what lower precision costs.

        Returns:
            Root mean square error of the worth of some coalitions (the mean over images) in lower
            precision, as a share of the spread of their worth.
        """
        draws = torch.rand(_PRECISION_SAMPLE, self.n_players, generator=torch.Generator())
        kept = self._whole(draws < torch.linspace(0.5, 1, _PRECISION_SAMPLE)[:, None])
        exact = self._evaluator.in_full_precision().values(kept, self._performance).mean(1)
        lowered = self._evaluator.values(kept, self._performance).mean(1)
        error = float((lowered - exact).square().mean().sqrt())
        # Where all are worth the same there is no spread.
        return float(error / exact.std()) if error else 0.0


_PRECISION_SAMPLE = 16


class _Known:
    """What coalitions are worth that have been evaluated, as long as it fits the memory."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._rows: dict[bytes, Tensor] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def __getitem__(self, key: bytes) -> Tensor:
        return self._rows[key]

    def add(self, found: Mapping[bytes, Tensor]) -> None:
        for key, row in found.items():
            if row.nbytes <= self._left:
                self._left -= row.nbytes
                self._rows[key] = row.clone()


class GroupGame(_PlayedGame):
    """The units of one group play; all other units are kept (the paper's game).

    Args:
        graph: The network.
        group: The players.
        data: Calibration images.
        value: The performance: its name, or the user's own.
        running: How and where the network is run.
        ranks: The processes that share the work.
    """

    def __init__(
        self,
        graph: DependencyGraph,
        group: PruningGroup,
        data: CalibrationBatches,
        value: Value = "kl",
        running: Running = DEFAULT,
        ranks: Ranks = ALONE,
    ) -> None:
        _check_classes_stay(graph, group)
        players = np.zeros(graph.n_units, bool)
        players[group.span] = True
        evaluator = Evaluator(graph, data, players, running)
        super().__init__(evaluator, group.span, value, ranks, running.max_memory)


class NetworkGame(_PlayedGame):
    """All units of the network play; scores compare across groups by construction.

    Args:
        graph: The network.
        data: Calibration images.
        value: The performance: its name, or the user's own.
        running: How and where the network is run.
        ranks: The processes that share the work.
        band: Largest share of multiply-accumulates that the coalitions lack which pruning will
            visit, in (0, 1); other coalitions are worth something, too.
    """

    def __init__(
        self,
        graph: DependencyGraph,
        data: CalibrationBatches,
        value: Value = "kl",
        running: Running = DEFAULT,
        ranks: Ranks = ALONE,
        band: float = DEFAULT_BAND,
    ) -> None:
        evaluator = Evaluator(graph, data, running=running)
        super().__init__(evaluator, slice(0, graph.n_units), value, ranks, running.max_memory)
        self.graph = graph
        self.band = band
        self.needed = graph.needed
        self._costs = CostModel(graph)
        self.total_macs = self._costs.total(graph.all_kept()).macs
        self.macs = self._costs.marginal("macs")

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

    @property
    def ranks(self) -> Ranks:
        """The processes that share the work."""
        return self._ranks

    def removed_macs(self, kept: Kept) -> float:
        """Return the share of multiply-accumulates that a coalition (n_players,) lacks."""
        return 1.0 - self._costs.total(kept).macs / max(self.total_macs, 1)

    def gradients(
        self, batch: int, coalitions: Tensor, generator: torch.Generator, n_draws: int
    ) -> GateGradients:
        """Differentiate one batch with respect to all gates, see :meth:`Evaluator.gradients`.

        Raises:
            OptionError: The performance changes in steps only.
        """
        _check_slopes(self._value)
        return self._evaluator.gradients(batch, coalitions, self._performance, generator, n_draws)


class HierarchicalGame(NetworkGame):
    """All units play, and those of a group join together: groups first, then units within.

    Its values are Owen values: a group's values add up to the group's own Shapley value in the game
    of groups.

    References:
        Owen (1977), Values of games with a priori unions, doi:10.1007/978-3-642-45494-3_7.
    """

    @property
    def unions(self) -> Unions:
        """The group of every unit, (n_units,)."""
        sizes = [group.n_units for group in self.graph.groups]
        return np.repeat(np.arange(len(sizes)), sizes)


def _check_slopes(value: Value) -> None:
    if is_stepwise(value):
        raise OptionError(
            f"value {str(value)!r} changes in steps, so it has no gate gradients",
            hint="use --value kl or cross-entropy, or --game group",
        )


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
