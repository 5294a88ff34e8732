"""Batch norms: decomposed graphs hold only their evaluating half; put back the whole op.

``run_decompositions`` turns a batch norm of a network in evaluation mode into an op that cannot
train. Written as the op that it came from, its training flag can be switched again.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

_EVALUATING = torch.ops.aten._native_batch_norm_legit_no_training.default


def restore_batch_norms(module: fx.GraphModule) -> None:
    """Replace evaluating batch norms, of which only the first result is read, in the graph."""
    changed = False
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target is _EVALUATING:
            changed |= _restore(module.graph, node)
    if changed:
        module.recompile()


def _restore(graph: fx.Graph, node: fx.Node) -> bool:
    users = list(node.users)
    if not all(user.target is operator.getitem and user.args[1] == 0 for user in users):
        return False
    *tensors, momentum, eps = node.args
    with graph.inserting_before(node):
        arguments = (*tensors, False, momentum, eps, False)
        whole = graph.call_function(torch.ops.aten.batch_norm.default, arguments)
    whole.meta = dict(node.meta)
    whole.meta["val"] = node.meta["val"][0]
    for user in users:
        user.replace_all_uses_with(whole)
        graph.erase_node(user)
    graph.erase_node(node)
    return True
