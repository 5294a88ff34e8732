"""Ridge regression on rows that arrive in parts: weights that map columns to residuals.

For every group of a layer, with columns ``U`` (rows, columns) and residuals ``R`` (rows, outputs),

    minimise  |U D^T + b - R|^2 / rows + strength * d * |D|^2,     d = mean square of a column,

so that ``D`` and ``b`` are what is to be added to the layer's weight and bias. Where there are more
rows than columns the normal equations are added up part by part; otherwise the rows are kept and
the dual problem is solved, whose size is the number of rows. Sums and solutions are in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphprune.errors import SurgeryError


@dataclass(frozen=True)
class Change:
    """What is added to a layer.

    Args:
        weight: (groups, outputs, columns); (1,) zero where only the bias is fitted.
        bias: (groups, outputs); zeros where no intercept is allowed.
    """

    weight: Tensor
    bias: Tensor


class LeastSquares:
    """Rows of one layer, and what follows from them.

    Args:
        intercept: Whether a bias may be fitted.
    """

    def __init__(self, *, intercept: bool) -> None:
        self._intercept = intercept
        self._moments: _Moments | None = None
        self._rows: list[tuple[Tensor, Tensor]] = []
        self._waiting = 0

    def add(self, columns: Tensor, residuals: Tensor) -> None:
        """Take in rows: (groups, rows, columns) and (groups, rows, outputs)."""
        self._rows.append((columns, residuals))
        self._waiting += columns.shape[1]
        if self._moments is not None or self._waiting >= columns.shape[2]:
            self._fold()

    def aimed(self, parts: Iterable[tuple[Tensor, Tensor]]) -> LeastSquares:
        """Return the problem of the same columns with other residuals.

        Args:
            parts: All rows, as they were added, with what they lack now.
        """
        other = LeastSquares(intercept=self._intercept)
        if self._moments is None:
            other._rows = list(parts)
            other._waiting = self._waiting
            return other
        cross = torch.zeros_like(self._moments.cross)
        total = torch.zeros_like(self._moments.residuals)
        for columns, residuals in parts:
            cross += (columns.mT @ residuals).double()
            total += residuals.double().sum(1)
        other._moments = replace(self._moments, cross=cross, residuals=total)
        return other

    def solutions(self, strengths: Sequence[float]) -> Iterator[Change]:
        """Solve for every strength of the ridge.

        Raises:
            SurgeryError: Columns or residuals are not finite.
        """
        return self._dual(strengths) if self._moments is None else self._primal(strengths)

    def shift(self) -> Change:
        """Fit the intercept only: the mean residual."""
        residuals = [part.double().sum(1) for _, part in self._rows]
        count = self._waiting
        if self._moments is not None:
            residuals.append(self._moments.residuals)
            count += self._moments.count
        mean = torch.stack(residuals).sum(0) / count
        return Change(mean.new_zeros(1), mean)

    def _fold(self) -> None:
        """Add waiting rows to the moments, which are smaller than they."""
        for columns, residuals in self._rows:
            found = _Moments(
                count=columns.shape[1],
                gram=columns.mT @ columns,
                cross=columns.mT @ residuals,
                columns=columns.double().sum(1),
                residuals=residuals.double().sum(1),
            )
            own = self._moments
            self._moments = found.in_double() if own is None else own.plus(found)
        self._rows, self._waiting = [], 0

    def _primal(self, strengths: Sequence[float]) -> Iterator[Change]:
        moments = self._moments
        assert moments is not None
        gram, cross = moments.gram / moments.count, moments.cross / moments.count
        columns, residuals = moments.columns / moments.count, moments.residuals / moments.count
        size = gram.diagonal(dim1=1, dim2=2).mean(1)
        if self._intercept:  # in place: of wide layers these are as large as the layer
            gram.baddbmm_(columns[:, :, None], columns[:, None, :], alpha=-1)
            cross.baddbmm_(columns[:, :, None], residuals[:, None, :], alpha=-1)
        for strength in strengths:
            yield self._change(_solved(gram, strength * size, cross).mT, columns, residuals)

    def _dual(self, strengths: Sequence[float]) -> Iterator[Change]:
        """Solve in the space of rows: there are fewer than columns."""
        columns, residuals = (torch.cat(parts, 1) for parts in zip(*self._rows, strict=True))
        size = columns.double().square().mean((1, 2))
        means = columns.double().mean(1), residuals.double().mean(1)
        if self._intercept:
            columns = columns - means[0][:, None].to(columns)
            residuals = residuals - means[1][:, None].to(residuals)
        count = columns.shape[1]
        products = (columns @ columns.mT).double() / count
        for strength in strengths:
            shares = _solved(products, strength * size, residuals.double() / count)
            yield self._change(shares.mT @ columns.double(), *means)

    def _change(self, weight: Tensor, columns: Tensor, residuals: Tensor) -> Change:
        # Not inlined: a generator would hold the weight until the next one is there.
        return Change(weight, self._bias(weight, columns, residuals))

    def _bias(self, weight: Tensor, columns: Tensor, residuals: Tensor) -> Tensor:
        if not self._intercept:
            return torch.zeros_like(residuals)
        return residuals - (weight @ columns[:, :, None]).squeeze(2)


@dataclass(frozen=True)
class _Moments:
    """Sums over rows: (groups, columns, columns), (groups, columns, outputs), and of each alone."""

    count: int
    gram: Tensor
    cross: Tensor
    columns: Tensor
    residuals: Tensor

    def in_double(self) -> _Moments:
        return replace(self, gram=self.gram.double(), cross=self.cross.double())

    def plus(self, other: _Moments) -> _Moments:
        """Add others, of any precision, to these, which are given up."""
        return _Moments(
            count=self.count + other.count,
            gram=self.gram.add_(other.gram),
            cross=self.cross.add_(other.cross),
            columns=self.columns + other.columns,
            residuals=self.residuals + other.residuals,
        )


def _solved(matrix: Tensor, ridge: Tensor, right: Tensor) -> Tensor:
    """Solve (matrix + ridge * 1) x = right for every group; ridges grow until it can be solved.

    Raises:
        SurgeryError: The matrix is not finite.
    """
    if not bool(torch.isfinite(matrix).all() and torch.isfinite(right).all()):
        raise SurgeryError(
            "the network's activations on the calibration images are not finite",
            hint="check their --mean and --std, or use --repair none",
        )
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    own = diagonal.clone()
    least = 1e-12 * own.mean(1) + 1e-300
    for _ in range(_TRIES):
        # An addend for each group that is at least large enough to be seen in float64. It is taken
        # back, since a copy of the matrix may be as large as the network.
        diagonal.add_(torch.maximum(ridge, least)[:, None])
        factor, failed = torch.linalg.cholesky_ex(matrix)
        diagonal.copy_(own)
        if not bool(failed.any()):
            return torch.cholesky_solve(right, factor)
        least = least * 1e3
    raise SurgeryError(
        "least squares has no solution on these calibration images",
        hint="use more images, or --repair batchnorm",
    )


_TRIES = 4
