"""Folding: batch norms that only scale and shift a layer's output become part of the layer.

A gated network is evaluated many thousand times with the same weights, so what can be computed once
is. Units stay what they are: a folded layer's output channel is the batch norm's.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from graphprune.ops.resize import argument

_LAYERS = (
    torch.ops.aten.conv1d.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv3d.default,
    torch.ops.aten.linear.default,
)
"""Layers whose output channels are rows of their weight."""


def fold_batch_norms(module: fx.GraphModule) -> fx.GraphModule:
    """Fold evaluating batch norms into the layer whose output they alone read.

    Args:
        module: A graph of ATen ops whose weights are its own; it is changed.

    Returns:
        The same module.
    """
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten.batch_norm.default and _folds(node):
            _fold(module, node)
    module.recompile()
    return module


def _folds(norm: fx.Node) -> bool:
    layer = norm.args[0]
    if not isinstance(layer, fx.Node) or layer.target not in _LAYERS or len(layer.users) > 1:
        return False
    if layer.target is torch.ops.aten.linear.default and _rank(layer) != 2:
        # Channels of a batch norm lie in dim 1, features of a linear layer in the last.
        return False
    read = (*layer.args[1:3], *norm.args[1:5])
    constant = all(isinstance(x, fx.Node) and x.op == "get_attr" for x in read if x is not None)
    return constant and not norm.args[5] and None not in norm.args[3:5]


def _rank(node: fx.Node) -> int:
    return int(node.meta["val"].dim())


def _fold(module: fx.GraphModule, norm: fx.Node) -> None:
    layer = norm.args[0]
    assert isinstance(layer, fx.Node)
    weight, bias = (_tensor(module, layer.args[1]), _tensor(module, argument(layer, 2)))
    gain, shift, mean, variance = (_tensor(module, read) for read in norm.args[1:5])
    assert weight is not None
    assert mean is not None
    assert variance is not None
    scale = (variance.double() + float(norm.args[7])).rsqrt()  # type: ignore[arg-type]
    scale = scale if gain is None else scale * gain.double()
    offset = (0.0 if bias is None else bias.double()) - mean.double()
    offset = offset * scale + (0.0 if shift is None else shift.double())
    folded = weight.double() * scale.reshape(-1, *[1] * (weight.dim() - 1))
    with module.graph.inserting_before(layer):
        new = [
            _attribute(module, f"{layer.name}_{name}", value.to(weight.dtype))
            for name, value in (("folded_weight", folded), ("folded_bias", offset))
        ]
    layer.args = (layer.args[0], *new, *layer.args[3:])
    norm.replace_all_uses_with(layer)
    module.graph.erase_node(norm)


def _tensor(module: fx.GraphModule, read: object) -> Tensor | None:
    if not isinstance(read, fx.Node):
        return None
    owner, _, name = str(read.target).rpartition(".")
    found = getattr(module.get_submodule(owner), name)
    assert isinstance(found, Tensor)
    return found.detach()


def _attribute(module: fx.GraphModule, name: str, value: Tensor) -> fx.Node:
    setattr(module, name, nn.Parameter(value, requires_grad=False))
    return module.graph.get_attr(name)
