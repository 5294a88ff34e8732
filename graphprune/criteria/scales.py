"""Batch norm scales: what a channel is multiplied by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import fx

from graphprune.analysis import overload_name
from graphprune.criteria.base import criterion
from graphprune.criteria.request import RankRequest, Scored
from graphprune.errors import OptionError
from graphprune.graph import DependencyGraph
from graphprune.ops import argument
from graphprune.tracing import named_tensors

_NORMS = {"aten.batch_norm.default": 1, "aten.instance_norm.default": 1}


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
    tensors = named_tensors(graph.program.module)
    sums, counts = np.zeros(graph.n_units), np.zeros(graph.n_units)
    for name in norm_weights(graph, _NORMS):
        units = graph.parameter_units.get(name, {}).get(0)
        if units is not None:
            scale = tensors[name].detach().cpu().double().abs().numpy()
            np.add.at(sums, units[units >= 0], scale[units >= 0])
            np.add.at(counts, units[units >= 0], 1)
    if not counts.any():
        raise OptionError(
            "criterion 'bn-scale' needs batch norms with weights, and no unit passes one",
            hint="use another criterion, e.g. --criterion group-magnitude",
        )
    without = tuple(group.name for group in graph.groups if not counts[group.span].all())
    return Scored(scores=sums / counts.clip(1), left_alone=without)


def norm_weights(graph: DependencyGraph, norms: Mapping[str, int]) -> dict[str, str]:
    """Return the weights of norms by name, with the overload that reads each.

    Args:
        graph: The network.
        norms: Overloads, and where the weight stands among their arguments.
    """
    found: dict[str, str] = {}
    for node in graph.nodes.values():
        overload = overload_name(node) if node.op == "call_function" else ""
        weight = argument(node, norms[overload]) if overload in norms else None
        if isinstance(weight, fx.Node) and str(weight.target) in graph.program.aliases:
            found[graph.program.aliases[str(weight.target)]] = overload
    return found
