"""Surgery: the traced network without the units that a plan removes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from graphprune.analysis import overload_name
from graphprune.errors import SurgeryError
from graphprune.graph import DependencyGraph, Kept
from graphprune.groups import UnitIds
from graphprune.ops.registry import rewrite_for
from graphprune.ops.resize import Kept as Indices
from graphprune.ops.resize import Resize
from graphprune.trace import named_tensors, training_flag

_SWITCH = "graphprune.training_flag"
"""Key in a node's ``meta``: place of the flag that ``train()`` switches."""


class PrunedModel(fx.GraphModule):
    """A physically smaller network: an ordinary module, called like the model it came from.

    Parameters and buffers keep their names, dtypes, ties and ``requires_grad``. ``train()`` and
    ``eval()`` switch batch norms and dropouts as they do in the model.
    """

    def train(self, mode: bool = True) -> PrunedModel:
        """Switch batch norms and dropouts to training (or, with False, to evaluation)."""
        super().train(mode)
        changed = False
        for node in self.graph.nodes:
            position = node.meta.get(_SWITCH)
            if position is not None and node.args[position] is not mode:
                node.update_arg(position, mode)
                changed = True
        if changed:
            self.recompile()
        return self


def as_pruned_model(module: fx.GraphModule) -> PrunedModel:
    """Wrap an ATen graph in evaluation mode, so that it can be trained and exported again.

    Args:
        module: What :func:`torch.export.load` followed by ``.module()`` returns; its weights are
            shared.
    """
    for node in module.graph.nodes:
        node.meta.pop("val", None)  # shapes from before surgery would only mislead
        position = training_flag(node)
        # An op that takes batch statistics even in evaluation mode does so in both modes.
        if position is not None and position < len(node.args) and node.args[position] is False:
            node.meta[_SWITCH] = position
    return PrunedModel(module, module.graph, "PrunedModel").eval()


def cut(graph: DependencyGraph, kept: Kept) -> PrunedModel:
    """Return a network of its own that holds only the kept units.

    Args:
        graph: The traced network; it is not changed.
        kept: For every unit whether it is kept.

    Raises:
        SurgeryError: ``kept`` does not fit the graph or would leave an axis empty.
    """
    kept = check_coalition(graph, kept)
    # deepcopy looks every tensor up in its memo first: the cut ones are put there beforehand.
    module = copy.deepcopy(graph.program.module, _cut_tensors(graph, kept))
    for node in module.graph.nodes:
        rewrite = rewrite_for(overload_name(node)) if node.op == "call_function" else None
        if rewrite is not None and _shrinks(graph, node, kept):
            rewrite(_resize(graph, node, kept))
    module.graph.lint()
    return as_pruned_model(module)


def check_coalition(graph: DependencyGraph, kept: Kept) -> Kept:
    """Return ``kept`` as a Bool array that fits the graph and leaves no axis empty.

    Raises:
        SurgeryError: It does not.
    """
    kept = np.asarray(kept, bool)
    if kept.shape != (graph.n_units,):
        raise SurgeryError(
            f"a coalition of shape {kept.shape} for a network of {graph.n_units} units",
            hint="plans fit the network that they were made for; select again",
        )
    for needed in graph.needed:
        if not kept[needed].any():
            group = next(g for g in graph.groups if needed[0] < g.first + g.n_units)
            raise SurgeryError(
                f"nothing would be left of an axis fed by group {group.name}",
                hint="keep at least one of its units",
            )
    return kept


def removed_entries(
    graph: DependencyGraph, kept: Kept
) -> dict[str, dict[int, tuple[int, ...]]]:
    """Return what surgery removes: parameter or buffer name -> dim -> indices, ascending."""
    found: dict[str, dict[int, tuple[int, ...]]] = {}
    for name, by_dim in graph.parameter_units.items():
        for dim, units in by_dim.items():
            gone = np.flatnonzero(~_stays(units, kept))
            if gone.size:
                found.setdefault(name, {})[dim] = tuple(int(k) for k in gone)
    return found


def sliced(tensor: Tensor, by_dim: dict[int, Indices]) -> Tensor:
    """Return a copy of ``tensor`` with only the entries given per dim."""
    for dim, indices in by_dim.items():
        tensor = tensor.index_select(dim, torch.as_tensor(indices, device=tensor.device))
    return tensor.clone(memory_format=torch.contiguous_format)


def kept_entries(graph: DependencyGraph, name: str, kept: Kept) -> dict[int, Indices]:
    """Return what remains of a parameter or buffer, by dim; dims that stay whole are left out."""
    found = {}
    for dim, units in graph.parameter_units.get(name, {}).items():
        stays = _stays(units, kept)
        if not stays.all():
            found[dim] = np.flatnonzero(stays)
    return found


def _stays(units: UnitIds, kept: Kept) -> Kept:
    return (units < 0) | kept[units]


def _cut_tensors(graph: DependencyGraph, kept: Kept) -> dict[int, Any]:
    memo: dict[int, Any] = {}
    for name, tensor in named_tensors(graph.program.module).items():
        by_dim = kept_entries(graph, name, kept)
        if not by_dim or id(tensor) in memo:
            continue
        smaller = sliced(tensor.detach(), by_dim)
        memo[id(tensor)] = (
            nn.Parameter(smaller, requires_grad=tensor.requires_grad)
            if isinstance(tensor, nn.Parameter)
            else smaller
        )
    return memo


def _shrinks(graph: DependencyGraph, node: fx.Node, kept: Kept) -> bool:
    """Whether any tensor that enters or leaves a call shrinks."""
    names = {node.name, *(source.name for source in node.all_input_nodes)}
    return any(
        not _stays(units, kept).all() for name in names for units in graph.units_of(name)
    )


def _resize(graph: DependencyGraph, node: fx.Node, kept: Kept) -> Resize:
    def kept_along(of: fx.Node, result: int | None, dim: int) -> Indices | None:
        units = graph.axes.get((of.name, result), {}).get(dim)
        if units is None:
            return None
        stays = _stays(units, kept)
        return None if stays.all() else np.flatnonzero(stays)

    def shape_of(of: fx.Node, result: int | None) -> tuple[int, ...]:
        return graph.analysis.values[of.name, result].shape

    return Resize(node, kept_along, shape_of)
