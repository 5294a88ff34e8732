"""Where a pruned network came from: the unpruned one, and which nodes compute something else."""

from __future__ import annotations

import copy

from torch import fx

from graphprune.coalition import stays
from graphprune.graph import DependencyGraph
from graphprune.signature import a_weight
from graphprune.surgery import Origin, PrunedModel


def unpruned_like(model: PrunedModel, graph: DependencyGraph) -> fx.GraphModule:
    """Return the unpruned network in a pruned one's precision and on its device."""
    module, weight = graph.program.module, a_weight(model)
    own = a_weight(module)
    if weight is None or own is None or (own.dtype, own.device) == (weight.dtype, weight.device):
        return module
    return copy.deepcopy(module).to(device=weight.device, dtype=weight.dtype)


def changed_nodes(model: PrunedModel, origin: Origin) -> frozenset[str]:
    """Return the nodes of a pruned network that depend on what is gone."""
    changed: set[str] = set()
    for node in model.graph.nodes:
        shrinks = any(
            not stays(units, origin.kept).all() for units in origin.graph.units_of(node.name)
        )
        if shrinks or any(source.name in changed for source in node.all_input_nodes):
            changed.add(node.name)
    return frozenset(changed)
