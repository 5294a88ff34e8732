"""Rows of a layer: what it receives at some places of its output, and what it should give there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from graphprune.repairs.lockstep import Shelf
from graphprune.repairs.ridge import Change


@dataclass(frozen=True)
class Sample:
    """Rows of one batch.

    Args:
        columns: (groups, rows, columns).
        outputs: What the layer should give, (groups, rows, outputs).
        residuals: What its present output lacks, likewise.
        importance: How much an error of an output counts, (groups, outputs).
        limits: Lower and upper limits of what is seen of the outputs, likewise; None where all is.
    """

    columns: Tensor
    outputs: Tensor
    residuals: Tensor
    importance: Tensor
    limits: tuple[Tensor, Tensor] | None

    def placed(self, shelf: Shelf) -> Sample:
        """Return the same rows where a shelf keeps them."""
        columns, outputs, residuals, limits = shelf.place(self._kept)
        return replace(self, columns=columns, outputs=outputs, residuals=residuals, limits=limits)

    def discard(self, shelf: Shelf) -> None:
        """Say that the rows are needed no more."""
        shelf.discard(self._kept)

    @property
    def _kept(self) -> tuple[Any, ...]:
        return self.columns, self.outputs, self.residuals, self.limits

    def lacking(self, change: Change | None) -> Tensor:
        """Return what the output lacks after a change, seen or not."""
        return self.residuals if change is None else self.residuals - self._added(change)

    def aim(self, change: Change) -> Tensor:
        """Return residuals, of the output before a change, that only ask for what is seen after.

        Least squares towards them lowers the error that is seen, see
        :mod:`graphprune.repairs.windows`.
        """
        if self.limits is None:
            return self.residuals
        low, high = self.limits
        added = self._added(change)
        present = self.outputs - self.residuals
        after = present + added
        wanted = torch.where(self.outputs <= low, torch.minimum(after, low), self.outputs)
        wanted = torch.where(self.outputs >= high, torch.maximum(after, high), wanted)
        return wanted - present

    def errors(self, change: Change | None) -> tuple[float, float]:
        """Return the squared error that is seen after a change, and the variance of the outputs."""
        importance = self.importance[:, None].double()
        seen, left = self.outputs, self.lacking(change)
        if self.limits is not None:
            seen = self.outputs.clamp(*self.limits)
            left = seen - (self.outputs - left).clamp(*self.limits)
        spread = seen.double() - seen.double().mean(1, keepdim=True)
        wrong = (importance * left.double().square()).sum()
        return float(wrong), float((importance * spread.square()).sum())

    def _added(self, change: Change) -> Tensor:
        added = change.bias[:, None]
        if change.weight.dim() == 3:
            weight = change.weight.mT
            if weight.numel() > self.columns.numel():  # the smaller one is copied
                added = added + self.columns.to(weight) @ weight
            else:
                added = added + (self.columns @ weight.to(self.columns)).double()
        return added.to(self.residuals)


def error(samples: Sequence[Sample], change: Change | None) -> float:
    """Return the squared error after a change as a share of the variance of the outputs."""
    errors = [sample.errors(change) for sample in samples]
    whole = sum(spread for _, spread in errors)
    return sum(wrong for wrong, _ in errors) / whole if whole else 0.0
