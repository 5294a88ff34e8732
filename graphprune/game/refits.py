"""Refits in closed form: a layer that reads fewer columns, and what its next loss would change.

A layer of weight W reads columns of second moment G (with a constant one). On the columns S it
does best, in least squares of its own output, with

    W_S = W G[:, S] H,   H = (G_SS)^-1.

If the columns i of a unit go next and the layer is refitted again, its weight changes by minus

    V_i = w_i (H_ii)^-1 H_i,   w_i the columns i of W_S,

and its mean squared error rises by ``w_i (H_ii)^-1 w_i^T`` for every output (the optimal brain
surgeon for blocks of weights).

References:
    Hassibi and Stork (1992), Second order derivatives for network pruning: optimal brain surgeon.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.game.readers import Block
from graphprune.groups import UnitIds


@dataclass(frozen=True)
class Refit:
    """One group of channels of a layer, refitted to some of its columns.

    Args:
        weight: (outputs, m) on the m - 1 columns that are present, and the constant one.
        inverse: (m, m) H.
        present: (m - 1,) the columns that are present, ascending.
        place: (columns,) where a column stands among those present; -1 if it does not.
    """

    weight: Tensor
    inverse: Tensor
    present: Tensor
    place: Tensor

    def whole(self) -> tuple[Tensor, Tensor]:
        """Return the weight on all columns, (outputs, columns), and the constant, (outputs,)."""
        weight = self.weight.new_zeros(len(self.weight), len(self.place))
        weight[:, self.present] = self.weight[:, :-1]
        return weight, self.weight[:, -1]


def refit(weight: Tensor, gram: Tensor, kept: Tensor) -> Refit:
    """Refit one group of channels.

    Args:
        weight: (outputs, columns) of the unpruned layer.
        gram: (columns + 1, columns + 1), see :class:`graphprune.game.moments.Moments`.
        kept: (columns,) Bool: the columns that are present.
    """
    present = kept.nonzero()[:, 0]
    place = torch.full_like(kept, -1, dtype=torch.int64)
    place[present] = torch.arange(len(present))
    read = torch.cat([present, present.new_tensor([len(kept)])])
    own = torch.cat([weight.to(gram), gram.new_zeros(len(weight), 1)], 1)
    inverse = symmetric_inverse(gram[read][:, read])
    found = own if bool(kept.all()) else own @ gram[:, read] @ inverse
    return Refit(found, inverse, present, place)


def symmetric_inverse(matrix: Tensor) -> Tensor:
    """Invert a positive definite matrix."""
    return torch.cholesky_inverse(torch.linalg.cholesky(matrix))


@dataclass(frozen=True)
class Removals:
    """What the removal of each of some units of equal size, and another refit, would change.

    Args:
        units: (n,) their numbers.
        places: (n * size,) their columns' places among those present, unit by unit.
        factors: (n, outputs, size) ``w_i (H_ii)^-1``.
        inverse: (m, m) H.
    """

    units: UnitIds
    places: Tensor
    factors: Tensor
    inverse: Tensor

    def changes(self) -> Tensor:
        """Return V_i of every unit: (n, outputs, m), what its weight is lowered by."""
        rows = self.inverse[self.places].unflatten(0, (len(self.factors), -1))
        changes: Tensor = self.factors @ rows
        return changes

    def effects(self, columns: Tensor, slopes: Tensor) -> Tensor:
        """Return the slope's inner product with what the output would lose, image by image.

        Args:
            columns: (images, places, m) what is read.
            slopes: (k, images, places, outputs) derivatives of k quantities with respect to what
                is made.

        Returns:
            (k, images, n).
        """
        n, outputs, size = self.factors.shape
        changes = n * outputs * columns.shape[-1]
        # By multiplications, and as long as the changes of all units fit.
        if outputs < columns.shape[1] * size and changes <= _MOST_CHANGES:
            # Summed over places, slope x columns is the derivative in the weight.
            by_weight = slopes.mT @ columns
            return by_weight.flatten(2) @ self.changes().to(columns).flatten(1).mT
        lost = columns @ self.inverse[:, self.places].to(columns)
        felt = slopes @ self.factors.transpose(0, 1).flatten(1).to(columns)
        effects: Tensor = (lost * felt).sum(2).unflatten(2, (n, size)).sum(3)
        return effects


_MOST_CHANGES = 1 << 26


def removals(refitted: Refit, block: Block) -> Removals | None:
    """Return what removing each unit of a block that is present would change; None if none is."""
    columns = torch.from_numpy(block.columns)
    here = refitted.place[columns[:, 0]] >= 0
    if not bool(here.any()):
        return None
    places = refitted.place[columns[here]]
    held = refitted.inverse[places[:, :, None], places[:, None, :]]
    weights = refitted.weight[:, places].transpose(0, 1)
    return Removals(
        units=block.units[here.numpy()],
        places=places.flatten(),
        factors=torch.linalg.solve(held, weights, left=False),
        inverse=refitted.inverse,
    )
