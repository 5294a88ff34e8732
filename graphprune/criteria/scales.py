"""Batch norm scales: what a channel is multiplied by."""

from __future__ import annotations

import numpy as np
from torch import fx

from graphprune.analysis import overload_name
from graphprune.criteria.base import RankRequest, Scored, criterion
from graphprune.errors import OptionError
from graphprune.graph import DependencyGraph
from graphprune.ranking import Scores
from graphprune.tracing import named_tensors

_WEIGHT_PLACE = {"aten.batch_norm.default": 1, "aten.instance_norm.default": 1}


@criterion("bn-scale", needs_data=False)
def bn_scale(request: RankRequest) -> Scored:
    """Mean absolute weight of the batch norms that a unit passes.

    Groups that pass none have no score and are left alone.

    Raises:
        OptionError: No unit of the network passes a batch norm with weights.

    References:
        Liu et al. (2017), Learning Efficient Convolutional Networks through Network Slimming,
        arXiv 1708.06519.
    """
    graph = request.graph
    sums, counts = np.zeros(graph.n_units), np.zeros(graph.n_units)
    for name in _weights(graph):
        units = graph.parameter_units.get(name, {}).get(0)
        if units is not None:
            scale = named_tensors(graph.program.module)[name].detach().cpu().double().abs().numpy()
            np.add.at(sums, units[units >= 0], scale[units >= 0])
            np.add.at(counts, units[units >= 0], 1)
    if not counts.any():
        raise OptionError(
            "criterion 'bn-scale' needs batch norms with weights, and no unit passes one",
            hint="use another criterion, e.g. --criterion group-magnitude",
        )
    without = tuple(group.name for group in graph.groups if not counts[group.span].all())
    return Scored(scores=_mean(sums, counts), left_alone=without)


def _mean(sums: Scores, counts: Scores) -> Scores:
    return sums / np.maximum(counts, 1)


def _weights(graph: DependencyGraph) -> list[str]:
    """Return the weights of all batch and instance norms, each once."""
    found: dict[str, None] = {}
    for node in graph.nodes.values():
        place = _WEIGHT_PLACE.get(overload_name(node)) if node.op == "call_function" else None
        weight = node.args[place] if place is not None else None
        if isinstance(weight, fx.Node) and str(weight.target) in graph.program.aliases:
            found[graph.program.aliases[str(weight.target)]] = None
    return list(found)
