"""Refits in closed form: a layer that reads fewer and fewer columns, and what it loses by it.

A layer of weight W reads columns of second moment G (with a constant one). On some of the columns
it does best, in least squares of its own output, with other weights; with H the inverse of G on
those columns, the mean squared error of every output rises, when columns i go and the layer is
refitted again, by

    w_i (H_ii)^-1 w_i^T,    w_i the present weights on columns i,

while the weights on the others change by ``-w_i (H_ii)^-1 H_i`` and H by ``-H_i^T (H_ii)^-1 H_i``.
Of H only the blocks of units are ever asked for. So it is left as it was, and what it has changed
by is kept in the factors that this product is made of: for wide layers that is less to compute.

References:
    Hassibi and Stork (1992), Second order derivatives for network pruning: optimal brain surgeon
    (for blocks of weights).
"""

from __future__ import annotations

import torch
from torch import Tensor


class Refits:
    """One group of channels of a layer.

    Args:
        weight: (outputs, columns) of the unpruned layer; it is not changed.
        inverse: (columns, columns), see :func:`inverse_moments`; it is not changed.
    """

    def __init__(self, weight: Tensor, inverse: Tensor) -> None:
        self._weight = weight.to(inverse, copy=True)
        self._inverse = inverse
        self._gone: list[tuple[Tensor, Tensor]] = []
        self.errors = self._weight.new_zeros(len(weight))
        """(outputs,) mean squared error of every output by now."""

    def remove(self, columns: Tensor) -> None:
        """Refit without some columns (n,), which have been there up to now."""
        if not columns.numel():
            return
        self.errors = self.errors + self.rises(columns[None])[0]
        rows = self._inverse[columns]
        for own, factors in self._gone:
            rows.addmm_(own[columns], factors.mT, alpha=-1)
        factors = torch.linalg.solve(rows[:, columns], rows)
        self._weight.addmm_(self._weight[:, columns], factors, alpha=-1)
        # By column, as they are read: blocks of units lie together.
        self._gone.append((rows.mT.contiguous(), factors.mT.contiguous()))

    def rises(self, columns: Tensor) -> Tensor:
        """Return by how much errors would rise if columns went.

        Args:
            columns: (n, size) columns that would go together, n times other ones.

        Returns:
            (n, outputs).
        """
        gone = sum(own.shape[1] for own, _ in self._gone)
        parts = columns.split(at_once(columns.shape[1] * max(len(self._weight), gone)))
        return torch.cat([_risen(self._weight, self._held(part), part) for part in parts])

    def _held(self, columns: Tensor) -> Tensor:
        """Return the blocks of H on columns (n, size) by now, (n, size, size)."""
        held = _blocks(self._inverse, columns)
        for own, factors in self._gone:
            held -= own[columns] @ factors[columns].mT
        return held


def inverse_moments(gram: Tensor) -> Tensor:
    """Return the inverse of second moments (columns + 1, columns + 1) without the constant's part.

    Where every refit has an intercept, the constant, which comes last, need not be kept.
    """
    return torch.cholesky_inverse(torch.linalg.cholesky(gram))[:-1, :-1]


def rises(weight: Tensor, inverse: Tensor, columns: Tensor) -> Tensor:
    """Return by how much the mean squared errors of all outputs together rise.

    Args:
        weight: (outputs, columns), least squares by now.
        inverse: (columns, columns) of second moments; of columns that are gone nothing is read.
        columns: (n, size) that would go together, n times other ones.

    Returns:
        (n,).
    """
    parts = columns.split(at_once(columns.shape[1] * max(len(weight), columns.shape[1])))
    return torch.cat([_risen(weight, _blocks(inverse, part), part).sum(1) for part in parts])


def _blocks(inverse: Tensor, columns: Tensor) -> Tensor:
    return inverse[columns[:, :, None], columns[:, None, :]]


def _risen(weight: Tensor, held: Tensor, columns: Tensor) -> Tensor:
    own = weight[:, columns].permute(1, 2, 0)
    # Of one column each it is a quotient, which is much faster.
    solved = own / held if columns.shape[1] == 1 else torch.linalg.solve(held, own)
    found: Tensor = (own * solved).sum(1)
    return found


def at_once(size: int) -> int:
    """Return how many units to look at together, if each takes so many numbers."""
    return max(_NUMBERS // max(size, 1), 1)


_NUMBERS = 2**21
"""Numbers held at once, of 8 bytes: what wide layers take beyond their moments is bounded."""


def without(weight: Tensor, inverse: Tensor, columns: Tensor) -> None:
    """Refit without some columns (n,), in place; what belongs to them stays and means nothing."""
    rows = inverse[columns]
    factors = torch.linalg.solve(rows[:, columns], rows)
    # In place: of wide layers these are as large as all the rest.
    weight.addmm_(weight[:, columns], factors, alpha=-1)
    inverse.addmm_(rows.mT, factors, alpha=-1)
