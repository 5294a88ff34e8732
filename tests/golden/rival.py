"""torch-pruning's idea of what is coupled, in our terms."""

from __future__ import annotations

import torch_pruning as tp
from torch import nn

from graphprune.groups import PruningGroup

Axes = set[tuple[str, int]]
"""Parameter or buffer and dim."""


class Rival:
    """The dependency graph that torch-pruning builds of a model.

    Args:
        model: The network.
        inputs: Example input.
    """

    def __init__(self, model: nn.Module, inputs: object) -> None:
        self._modules = dict(model.named_modules())
        self._names = {id(module): name for name, module in self._modules.items()}
        self._names.update({id(tensor): name for name, tensor in model.named_parameters()})
        self._graph = tp.DependencyGraph().build_dependency(model, example_inputs=inputs)

    def can_say(self, group: PruningGroup) -> bool:
        """Whether a group is named by a weight that torch-pruning can be asked about."""
        owner, _, leaf = group.parameter.rpartition(".")
        return leaf == "weight" and isinstance(
            self._modules[owner], (nn.Linear, nn.modules.conv._ConvNd)
        )

    def coupled(self, group: PruningGroup) -> Axes:
        """Return all that torch-pruning removes along with the units of a group."""
        layer = self._modules[group.parameter.rpartition(".")[0]]
        linear = isinstance(layer, nn.Linear)
        remove = tp.prune_linear_out_channels if linear else tp.prune_conv_out_channels
        units = group.members[0].units - group.first
        places = [k for k, unit in enumerate(units.tolist()) if 0 <= unit < group.n_units]
        found = self._graph.get_pruning_group(layer, remove, idxs=places)
        return set().union(*(self._axes(dependency) for dependency, _ in found))

    def _axes(self, dependency: object) -> Axes:
        target, handler = dependency.target, dependency.handler.__name__
        name = self._names.get(id(target.module))
        if name is None:
            return set()  # an activation, a reshape
        if isinstance(target.module, nn.Parameter):
            return {(name, target.pruning_dim)}
        return {(f"{name}.{leaf}", dim) for leaf, dim in _shrinking(target.module, handler)}


def _shrinking(module: nn.Module, handler: str) -> set[tuple[str, int]]:
    """Return which tensors of a layer shrink along which dim."""
    if isinstance(module, (nn.modules.batchnorm._NormBase, nn.LayerNorm)):
        leaves = ("weight", "bias", "running_mean", "running_var")
        return {(leaf, 0) for leaf in leaves if getattr(module, leaf, None) is not None}
    if isinstance(module, nn.MultiheadAttention):
        return {("in_proj_weight", 1), ("out_proj.weight", 0), ("out_proj.bias", 0)}
    if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
        return set()
    if "out" not in handler and "depthwise" not in handler:
        return {("weight", 1)}
    return {("weight", 0)} | ({("bias", 0)} if module.bias is not None else set())
