"""How tensors lie in memory while coalitions are evaluated: channels last, as CPUs work fastest."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor, fx


def channels_last(x: Tensor) -> Tensor:
    """Lay pictures or filters out channels last on a CPU; leave all else as it is."""
    if x.dim() != 4 or x.device.type != "cpu":
        return x
    return x.contiguous(memory_format=torch.channels_last)


def lay_out(module: fx.GraphModule, unknown: Container[str]) -> fx.GraphModule:
    """Lay filters out channels last; what convolutions compute then lies so, too.

    Ops without a rule may ask for the common layout, and are given it.

    Args:
        module: A graph of ATen ops whose weights are its own; it is changed.
        unknown: Overloads without a rule.

    Returns:
        The same module.
    """
    for parameter in module.parameters():
        parameter.data = channels_last(parameter.data)
    for node in module.graph.nodes:
        if node.op == "call_function" and str(node.target) in unknown:
            _give_contiguous(module.graph, node)
    module.recompile()
    return module


def _give_contiguous(graph: fx.Graph, node: fx.Node) -> None:
    for read in node.all_input_nodes:
        if isinstance(read.meta.get("val"), Tensor):
            with graph.inserting_before(node):
                copied = graph.call_function(torch.ops.aten.contiguous.default, (read,))
                copied.meta = dict(read.meta)
            node.replace_input_with(read, copied)
