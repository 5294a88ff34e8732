"""Constants that are added to a traced graph."""

from __future__ import annotations

import torch
from torch import fx


def add_constant(module: fx.GraphModule, name: str, tensor: torch.Tensor, use: fx.Node) -> fx.Node:
    """Add a tensor that no state dict holds; return the node that reads it.

    Args:
        module: The graph's module.
        name: What to call it; underscores follow where the name is taken.
        tensor: The constant.
        use: The node before which it is read.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    taken = {known for known, _ in [*tensors, *module.named_children()]}
    while name in taken:
        name += "_"
    module.register_buffer(name, tensor, persistent=False)
    with module.graph.inserting_before(use):
        return module.graph.get_attr(name)
