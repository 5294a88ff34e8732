"""Weight norms: a unit is worth what its weights weigh."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphprune.criteria.base import criterion
from graphprune.criteria.request import RankRequest, Scored
from graphprune.graph import DependencyGraph
from graphprune.ranking import Scores
from graphprune.tracing import named_tensors

_NUMBERS = 1 << 18
"""How many weights are widened at once."""


@criterion("l1", needs_data=False)
def l1(request: RankRequest) -> Scored:
    """Sum of the absolute weights of a unit's producers.

    References:
        Li et al. (2017), Pruning Filters for Efficient ConvNets, arXiv 1608.08710.
    """
    return Scored(scores=_summed(request.graph, power=1))


@criterion("l2", needs_data=False)
def l2(request: RankRequest) -> Scored:
    """Euclidean norm of the weights of a unit's producers."""
    return Scored(scores=np.sqrt(_summed(request.graph, power=2)))


@criterion("group-magnitude", needs_data=False)
def group_magnitude(request: RankRequest) -> Scored:
    """Euclidean norm of the weights that produce a unit and of those that read it.

    References:
        Fang et al. (2023), DepGraph: Towards Any Structural Pruning, arXiv 2301.12900, eq. 5,
        without norms' weights and biases.
    """
    return Scored(scores=np.sqrt(_summed(request.graph, power=2, readers=True)))


def _summed(graph: DependencyGraph, *, power: int, readers: bool = False) -> Scores:
    """Sum ``|weight| ** power`` of producing (and reading) slices into their units, (n_units,)."""
    tensors = named_tensors(graph.program.module)
    scores = np.zeros(graph.n_units)
    for axis in graph.analysis.parameter_axes:
        units = graph.parameter_units.get(axis.parameter, {}).get(axis.dim)
        if units is None or not (axis.produces or (readers and axis.consumes)):
            continue
        slices = _by_slice(tensors[axis.parameter], axis.dim, power).numpy()
        np.add.at(scores, units[units >= 0], slices[units >= 0])
    return scores


def _by_slice(weight: Tensor, dim: int, power: int) -> Tensor:
    """Sum ``|weight| ** power`` over all dims but one, in float64, a part of it at a time."""
    others = [other for other in range(weight.dim()) if other != dim]
    at_once = max(1, _NUMBERS * weight.shape[dim] // max(1, weight.numel()))
    parts, sums = weight.detach().split(at_once, dim), []
    wide = torch.empty(parts[0].shape, dtype=torch.float64)  # reused: the heap stays in one piece
    for part in parts:
        powers = wide.narrow(dim, 0, part.shape[dim]).copy_(part).abs_().pow_(power)
        sums.append(powers.sum(others) if others else powers.clone())
    return torch.cat(sums)
