"""The refit game: what a coalition is worth once the layers that read it are refitted.

Every layer l that reads units through a weight of its own is refitted, by least squares of its own
output, to the units that are present. With E_lo(S) the mean squared error that output o is left
with, what the coalition S is worth is

    v(S) = - 1/2 sum over layers l, over outputs o that are present in S, of s_lo E_lo(S),

where s_lo is the root mean square of the likelihood's slope in that output. Outputs that are gone
themselves need not be right: a unit matters less, the fewer of its readers are left.

All of it is closed form, so marginals are exact and no network runs but for the second moments:
what the unpruned network reads on the calibration images. Left out is how errors of one layer
reach the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from graphprune.coalition import stays
from graphprune.game.evaluation import MEMORY, Evaluator
from graphprune.game.greedy import greedy_errors
from graphprune.game.moments import Read, read_by
from graphprune.game.readers import readers_of
from graphprune.game.refits import Refits, at_once, inverse_moments
from graphprune.game.unread import unread
from graphprune.graph import DependencyGraph, Kept
from graphprune.groups import UnitIds
from graphprune.progress import Progress, silent

Marginals = npt.NDArray[np.float64]

Coalitions = npt.NDArray[np.bool_]


class RefitGame:
    """All units play.

    Args:
        evaluator: The network and the calibration images.
        seed: Draws the rows that second moments are taken over, and predictions.
        progress: Told about every batch.
        max_bytes: What second moments and refits may take; if all take more, layers are looked at
            in portions.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        seed: int,
        progress: Progress = silent,
        max_bytes: int = MEMORY,
    ) -> None:
        self.n_players = evaluator.graph.n_units
        self.readers = readers_of(evaluator.graph)
        self._evaluator = evaluator
        self._seed = seed
        self._progress = progress
        self._max_bytes = max_bytes

    def values(self, coalitions: Tensor) -> Marginals:
        """Return what coalitions (n_coalitions, n_players) Bool are worth, (n_coalitions,)."""
        found = np.zeros(len(coalitions))
        for layer in self._layers():
            for number, kept in enumerate(coalitions.numpy()):
                found[number] -= layer.loss(kept)
        return found

    def marginals(self, chains: Sequence[Tensor]) -> Marginals:
        """Return what every unit that is present adds to a coalition; zero for the others.

        Args:
            chains: Coalitions (n, n_players) Bool of which each holds the next one.

        Returns:
            (n_coalitions, n_players), chain by chain.
        """
        found = [np.zeros(chain.shape) for chain in chains]
        for layer in self._layers():
            layer.add_values(found, chains, None)
        return np.concatenate([*found, np.zeros((0, self.n_players))])

    def greedy_values(self) -> Marginals:
        """Return what units add as they go layer by layer, the cheapest first, (n_players,).

        In a layer a unit counts as much as the dearest that went before it, and outputs that are
        gone themselves must be right, too.
        """
        _, greedy = self.values_along(())
        return greedy

    def values_along(self, chains: Sequence[Tensor]) -> tuple[Marginals, Marginals]:
        """Return every unit's mean marginal where it is present, and its greedy value.

        Both come from one look at the second moments. What units that no layer reads through a
        weight of its own add to the likelihood counts in both, since no refit makes up for it.

        Args:
            chains: As for :meth:`marginals`.

        Returns:
            (n_players,) each.
        """
        marginals = [np.zeros(chain.shape) for chain in chains]
        greedy, squares = np.zeros(self.n_players), []
        for layer in self._layers():
            layer.add_values(marginals, chains, greedy)
            squares.append(layer.squares)
        # Slopes of gates are squared, those of outputs are root mean squares.
        others = _scale_of(squares) * unread(self._evaluator, self.readers, self._seed)
        averages = np.zeros(self.n_players)
        if chains:
            present = torch.cat(list(chains)).numpy()
            total = (np.concatenate(marginals) * present).sum(0)
            averages = total / np.maximum(present.sum(0), 1)
        return averages + others, greedy + others

    def _layers(self) -> Iterator[_Layer]:
        given = self._evaluator, self.readers, self._seed, self._max_bytes, self._progress
        for done, read in enumerate(read_by(*given), 1):
            yield _Layer(read, _made_units(self._evaluator.graph, read))
            self._progress("refit errors", done, len(self.readers))


def _scale_of(squares: Sequence[Tensor]) -> float:
    """Return what root mean squares are in units of mean squares, over outputs of all layers."""
    every = torch.cat([each.flatten() for each in squares] or [torch.ones(1)])
    return float(every.sqrt().sum() / every.sum().clamp(min=1e-30))


class _Layer:
    """One reader, and the units that its outputs belong to."""

    def __init__(self, read: Read, made: UnitIds) -> None:
        self._reader = read.reader
        self._made = made
        self._weight = read.weight
        self._gram = read.moments.gram
        self.squares = read.moments.sensitivity
        self._slopes = self.squares.sqrt()

    def loss(self, kept: Kept) -> float:
        """Return half the error that is left in the outputs that are present."""
        total = 0.0
        for group in range(len(self._gram)):
            refits = Refits(self._weight[group], inverse_moments(self._gram[group]))
            refits.remove(self._absent(group, kept))
            total += 0.5 * float((self._counted(group, kept) * refits.errors).sum())
        return total

    def add_values(
        self, marginals: Sequence[Marginals], chains: Sequence[Tensor], greedy: Marginals | None
    ) -> None:
        """Add what units are worth to this layer.

        Args:
            marginals: (n, n_units) for every chain.
            chains: Coalitions (n, n_units) Bool.
            greedy: (n_units,) what they are worth as they go, the cheapest first; None if that is
                not asked.
        """
        for group in range(len(self._gram)):
            inverse = inverse_moments(self._gram[group])
            for rows, chain in zip(marginals, chains, strict=True):
                self._add_marginals(group, inverse, rows, chain.numpy())
            if greedy is not None:
                self._add_greedy(group, inverse, greedy)

    def _add_marginals(
        self, group: int, inverse: Tensor, rows: Marginals, chain: Coalitions
    ) -> None:
        refits, before = Refits(self._weight[group], inverse), np.ones_like(chain[0])
        for row, kept in zip(rows, chain, strict=True):
            refits.remove(self._absent(group, kept | ~before))
            before = kept
            for units, worth in self._worth(group, refits, kept):
                row[units] += worth

    def _add_greedy(self, group: int, inverse: Tensor, found: Marginals) -> None:
        # Errors count by the root mean square of the slopes: its square root goes into the weight.
        weighted = self._weight[group].to(inverse, copy=True)
        weighted.mul_(self._slopes[group].sqrt()[:, None])
        for unit, error in greedy_errors(weighted, inverse, self._reader.blocks[group]):
            found[unit] += error

    def _worth(self, group: int, refits: Refits, kept: Kept) -> Iterator[tuple[UnitIds, Marginals]]:
        """Yield units, none twice, and what they add."""
        counted, made = self._counted(group, kept), torch.from_numpy(self._made[group])
        for block in self._reader.blocks[group]:
            for present in block.where(kept[block.units]).parts(at_once(len(made))):
                rises = refits.rises(torch.from_numpy(present.columns))
                # An output that goes with the unit need not make up for it.
                others = made != torch.from_numpy(present.units)[:, None]
                yield present.units, 0.5 * (rises * others * counted).sum(1).numpy()
        # What a unit lacks itself is no loss any more when it goes.
        lacking = np.zeros(len(kept) + 1)
        np.add.at(lacking, self._made[group], 0.5 * (counted * refits.errors).numpy())
        owners = np.unique(self._made[group])
        owners = owners[owners >= 0]
        yield owners, -lacking[owners]

    def _absent(self, group: int, kept: Kept) -> Tensor:
        return torch.from_numpy(np.flatnonzero(~stays(self._reader.units[group], kept)))

    def _counted(self, group: int, kept: Kept) -> Tensor:
        """Return how much outputs count, (outputs,); those that are gone do not."""
        return self._slopes[group] * torch.from_numpy(stays(self._made[group], kept))


def _made_units(graph: DependencyGraph, read: Read) -> UnitIds:
    """Return the unit that each output of a reader belongs to, (groups, outputs), -1 for none."""
    node, layout = read.reader.layer.node, read.layer.layout
    shape = graph.analysis.values[node, None].shape
    numbers = torch.full(shape, -1, dtype=torch.int64)
    weight = graph.program.module.get_parameter(read.reader.layer.weight)
    along = len(shape) + 1 - weight.dim()
    units = graph.axes.get((node, None), {}).get(along)
    if units is not None:
        laid = [-1 if dim == along else 1 for dim in range(len(shape))]
        numbers = torch.from_numpy(units).reshape(laid).expand(shape)
    samples, _ = layout.places(numbers)
    first = torch.zeros(samples, 1, dtype=torch.int64)
    return layout.outputs(numbers, first)[:, 0].numpy()
