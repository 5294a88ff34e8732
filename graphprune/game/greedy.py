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
    # What is removed stays in place; no more is read of it.
    columns = {
        int(unit): torch.from_numpy(own)
        for block in blocks
        for unit, own in zip(block.units, block.columns, strict=True)
    }
    left, found, largest = list(blocks), [], 0.0
    count = math.ceil(len(columns) / STEPS)
    while left:
        errors = _errors(weight, inverse, left)
        cheapest = sorted(errors, key=errors.__getitem__)[: _CANDIDATES * count]
        for unit, error in _cheapest(weight, inverse, {u: columns[u] for u in cheapest}, count):
            largest = max(largest, error)
            found.append((unit, largest))
        gone = {unit for unit, _ in found[-min(count, len(errors)) :]}
        without(weight, inverse, torch.cat([columns[unit] for unit in gone]))
        left = _without(left, gone)
    return found


def _errors(weight: Tensor, inverse: Tensor, blocks: Sequence[Block]) -> dict[int, float]:
    """Return half the squared error of removing each unit alone."""
    found: dict[int, float] = {}
    for block in blocks:
        columns = torch.from_numpy(block.columns)
        errors = 0.5 * rises(weight, inverse, columns).sum(1)
        found.update(zip(block.units.tolist(), errors.tolist(), strict=True))
    return found


def _cheapest(
    weight: Tensor, inverse: Tensor, candidates: dict[int, Tensor], count: int
) -> list[tuple[int, float]]:
    """Remove units one by one, the cheapest of some candidates first; those alone are updated."""
    read = torch.cat(list(candidates.values()))
    weight, inverse = weight[:, read], inverse[read][:, read]
    ends = np.cumsum([len(own) for own in candidates.values()])
    places = {
        unit: np.arange(end - len(own), end)
        for (unit, own), end in zip(candidates.items(), ends, strict=True)
    }
    found = []
    for _ in range(min(count, len(places))):
        left = [Block(np.array([unit]), own[None]) for unit, own in places.items()]
        errors = _errors(weight, inverse, left)
        unit = min(errors, key=errors.__getitem__)
        found.append((unit, errors[unit]))
        without(weight, inverse, torch.from_numpy(places.pop(unit)))
    return found


def _without(blocks: Sequence[Block], gone: set[int]) -> list[Block]:
    kept = [block.where(~np.isin(block.units, list(gone))) for block in blocks]
    return [block for block in kept if block.units.size]
