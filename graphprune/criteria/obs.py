"""Refit error: what a unit's readers lose even after they are refitted without it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from graphprune.criteria.base import criterion
from graphprune.criteria.request import RankRequest, Scored
from graphprune.game.evaluation import Evaluator
from graphprune.game.moments import Read, allowed_bytes, read_by
from graphprune.game.readers import Block, readers_of
from graphprune.game.refit_game import scale_of
from graphprune.game.refits import inverse_moments, rises, without
from graphprune.game.unread import unread
from graphprune.ranking import Scores

STEPS = 128
"""Steps in which the units of a layer go; in each the cheapest, one by one or several."""

_CANDIDATES = 4
"""Times as many units are looked at in a step as go in it."""


@criterion("obs", needs_data=True)
def obs(request: RankRequest) -> Scored:
    """Least-squares refit error, greedy backward, summed over the layers that read the unit.

    Layer by layer the unit goes whose loss the refitted rest mends best, then the next. Its score
    is half the mean squared error that this adds, largest so far. Output channels count by the root
    mean square of the likelihood's slope in them, so that errors of different layers add up.
    Label-free. It foresees a repair by least squares and is poor without one.

    Units that no layer with a weight of its own reads (queries and keys, say) have nothing to be
    refitted: they score the squared slope in their gate instead, scaled as slopes in output
    channels are.

    References:
        Hassibi and Stork (1992), Second order derivatives for network pruning: optimal brain
        surgeon; He, Zhang and Sun (2017), arXiv 1707.06168 (reconstruction of the next layer).
    """
    graph = request.graph
    evaluator = Evaluator(graph, request.images, running=request.running)
    readers = readers_of(graph)
    scores, squares = np.zeros(graph.n_units), []
    given = evaluator, readers, request.seed, allowed_bytes(request.running), request.progress
    for number, read in enumerate(read_by(*given), 1):
        _add_errors(scores, read)
        squares.append(read.moments.sensitivity)
        request.progress("refit errors", number, len(readers))
    scores += scale_of(squares) * unread(evaluator, readers, request.seed)
    return Scored(scores=scores, evaluations=1)


def _add_errors(scores: Scores, read: Read) -> None:
    moments = read.moments
    for group, blocks in enumerate(read.reader.blocks):
        # Errors count by the root mean square of the slopes: its square root goes into the weight.
        root = moments.sensitivity[group].sqrt().sqrt()[:, None]
        weighted = root * read.weight[group].to(moments.gram)
        inverse = inverse_moments(moments.gram[group])
        for unit, error in greedy_errors(weighted, inverse, blocks):
            scores[unit] += error


def greedy_errors(
    weight: Tensor, inverse: Tensor, blocks: Sequence[Block]
) -> list[tuple[int, float]]:
    """Remove all units, the cheapest first.

    Args:
        weight: (outputs, columns), rows weighted by the square root of what outputs are worth.
        inverse: (columns, columns) of the inverse second moments, those of the constant included.
        blocks: The units.

    Returns:
        Units and half the squared error of their removal, largest so far, in order of removal.
    """
    # What is removed stays in place; no more is read of it.
    weight, inverse = weight.clone(), inverse.clone()
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
