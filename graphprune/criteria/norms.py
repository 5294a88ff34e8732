"""Weight norms: a unit is worth what the weights that produce it weigh."""

from __future__ import annotations

import numpy as np
import torch

from graphprune.criteria.base import RankRequest, Scored, criterion
from graphprune.graph import DependencyGraph
from graphprune.ranking import Scores
from graphprune.tracing import named_tensors


@criterion("l1", needs_data=False)
def l1(request: RankRequest) -> Scored:
    """Sum of the absolute weights of a unit's producers.

    References:
        Li et al. (2017), Pruning Filters for Efficient ConvNets, arXiv 1608.08710.
    """
    return Scored(scores=_summed_over_producers(request.graph, power=1))


@criterion("l2", needs_data=False)
def l2(request: RankRequest) -> Scored:
    """Euclidean norm of the weights of a unit's producers."""
    return Scored(scores=np.sqrt(_summed_over_producers(request.graph, power=2)))


def _summed_over_producers(graph: DependencyGraph, *, power: int) -> Scores:
    """Sum ``|weight| ** power`` of every producing slice into its unit, (n_units,)."""
    tensors = named_tensors(graph.program.module)
    scores = np.zeros(graph.n_units)
    for axis in graph.analysis.parameter_axes:
        units = graph.parameter_units.get(axis.parameter, {}).get(axis.dim)
        if not axis.produces or units is None:
            continue
        weights = tensors[axis.parameter].detach().cpu().double().abs().pow(power)
        others = [dim for dim in range(weights.dim()) if dim != axis.dim]
        slices = torch.sum(weights, others).numpy() if others else weights.numpy()
        np.add.at(scores, units[units >= 0], slices[units >= 0])
    return scores
