"""Refits along one order: units of a layer go one after the other, the cheapest first.

Of two units that can stand in for each other one goes for nothing, and the other is worth what both
were; an average over orders makes both cheap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from graphprune.game.readers import Block
from graphprune.game.refits import rises, without

STEPS = 128
"""Steps in which the units of a layer go; in each the cheapest, one by one or several."""

_CANDIDATES = 4
"""Times as many units are looked at in a step as go in it."""

_CROWDED = 0.8
"""Share of columns that are read, below which the others are left out: nearly all that a step costs
is to change the inverse."""


def greedy_errors(
    weight: Tensor, inverse: Tensor, blocks: Sequence[Block]
) -> list[tuple[int, float]]:
    """Remove all units, the cheapest first.

    Args:
        weight: (outputs, columns), rows weighted by the square root of what outputs are worth; it
            is given up.
        inverse: (columns, columns), see :func:`graphprune.game.refits.inverse_moments`; it is given
            up.
        blocks: The units.

    Returns:
        Units and half the squared error of their removal, largest so far, in order of removal.
    """
    left, found, largest = list(blocks), [], 0.0
    count = math.ceil(sum(len(block.units) for block in left) / STEPS)
    while left:
        if sum(block.columns.size for block in left) < _CROWDED * weight.shape[1]:
            weight, inverse, left = _read_of(weight, inverse, left)
        errors = _errors(weight, inverse, left)
        cheapest = sorted(errors, key=errors.__getitem__)[: _CANDIDATES * count]
        # One by one, and only candidates are updated in between.
        gone = _cheapest(*_read_of(weight, inverse, _among(left, cheapest)), count)
        for unit, error in gone:
            largest = max(largest, error)
            found.append((unit, largest))
        units = [unit for unit, _ in gone]
        without(weight, inverse, _columns(_among(left, units)))
        left = _among(left, units, invert=True)
    return found


def _among(blocks: Sequence[Block], units: Sequence[int], *, invert: bool = False) -> list[Block]:
    """Return the blocks of some units, or of all others."""
    chosen = (block.where(np.isin(block.units, units, invert=invert)) for block in blocks)
    return [block for block in chosen if block.units.size]


def _columns(blocks: Sequence[Block]) -> Tensor:
    return torch.from_numpy(np.concatenate([block.columns.ravel() for block in blocks]))


def _read_of(
    weight: Tensor, inverse: Tensor, blocks: Sequence[Block]
) -> tuple[Tensor, Tensor, list[Block]]:
    """Return what is read of some units, which are numbered anew: their columns alone."""
    read = _columns(blocks)
    places = np.zeros(weight.shape[1], np.int64)
    places[read.numpy()] = np.arange(len(read))
    renumbered = [Block(block.units, places[block.columns]) for block in blocks]
    return weight[:, read], inverse[read[:, None], read], renumbered


def _errors(weight: Tensor, inverse: Tensor, blocks: Sequence[Block]) -> dict[int, float]:
    """Return half the squared error of removing each unit alone."""
    found: dict[int, float] = {}
    for block in blocks:
        columns = torch.from_numpy(block.columns)
        errors = 0.5 * rises(weight, inverse, columns)
        found.update(zip(block.units.tolist(), errors.tolist(), strict=True))
    return found


def _cheapest(
    weight: Tensor, inverse: Tensor, blocks: Sequence[Block], count: int
) -> list[tuple[int, float]]:
    """Remove so many units, or all, one by one, the cheapest first; all is given up."""
    found: list[tuple[int, float]] = []
    while blocks and len(found) < count:
        errors = _errors(weight, inverse, blocks)
        unit = min(errors, key=errors.__getitem__)
        found.append((unit, errors[unit]))
        without(weight, inverse, _columns(_among(blocks, [unit])))
        blocks = _among(blocks, [unit], invert=True)
    return found
