"""Parting: the first node at which a cut network computes something else than the masked one.

The two are graphs of the same nodes. What a node of the cut network computes is what the masked
one has in the entries that are kept; entries that are not mean nothing. So both are run on one
input, in float64 and with every value in between kept, and compared node by node.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from graphprune.coalition import kept_value
from graphprune.game.masking import MaskedNetwork
from graphprune.graph import DependencyGraph, Kept
from graphprune.tracing import module_path
from graphprune.verify.cases import Case, tensors_of
from graphprune.verify.comparison import EXACT
from graphprune.verify.divergence import groups_of, weights_of
from graphprune.verify.inside import wide_values
from graphprune.verify.precision import doubled_inputs


def where_they_part(
    graph: DependencyGraph, kept: Kept, cut: fx.GraphModule, masked: MaskedNetwork, case: Case
) -> str:
    """Name the first node that differs, its module and its groups; empty if all nodes agree.

    Args:
        graph: The original network.
        kept: For every unit whether it is kept.
        cut: The network as it was cut, before any repair.
        masked: The original with the other units masked.
        case: An input.
    """
    leaves = doubled_inputs(tuple(tensors_of(case.inputs)))
    ours = wide_values(cut, leaves)
    theirs = wide_values(masked.network, (masked.gates.double(), *leaves))
    nodes = {node.name: node for node in cut.graph.nodes}
    for name, node in nodes.items():
        known = name in ours and name in theirs
        if known and not _equal(ours[name], kept_value(graph, name, kept, theirs[name])):
            return _described(node, graph)
    return ""


def _equal(value: Tensor, expected: Tensor) -> bool:
    """Compare as outputs are compared: to the larger of one and the largest magnitude."""
    if not value.is_floating_point():
        return True  # places and sizes, which may well be others in a smaller tensor
    if value.shape != expected.shape:
        return False
    expected = expected.to(value)
    finite = expected[expected.isfinite()].abs()
    allowed = EXACT * max(float(finite.max()) if finite.numel() else 0.0, 1.0)
    return torch.allclose(value, expected, rtol=0, atol=allowed, equal_nan=True)


def _described(node: fx.Node, graph: DependencyGraph) -> str:
    weights = weights_of(node.all_input_nodes)
    parts = [f"first at {node.name}"]
    module, groups = module_path(node), groups_of(weights, graph)
    parts += [f"module {module}"] if module else []
    parts += [f"weights {', '.join(weights)}"] if weights else []
    parts += [f"groups {', '.join(groups)}"] if groups else []
    return "; ".join(parts)
