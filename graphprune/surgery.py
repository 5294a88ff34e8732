"""Surgery: the traced network without the units that a plan removes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from graphprune.analysis import overload_name
from graphprune.coalition import check_coalition, kept_entries, stays
from graphprune.graph import DependencyGraph, Kept
from graphprune.ops.registry import rewrite_for
from graphprune.ops.resize import Kept as Indices
from graphprune.ops.resize import Resize
from graphprune.signature import InputSignature, a_weight, record_signature, recorded_signature
from graphprune.tracing import named_tensors, training_flag

_SWITCH = "graphprune.training_flag"
"""Key in a node's ``meta``: place of the flag that ``train()`` switches."""


_ORIGIN = "graphprune.origin"
"""Key in a pruned network's ``meta``: its :class:`Origin`."""


@dataclass(frozen=True, eq=False)
class Origin:
    """What a network was cut from; its copies share it, files do not hold it.

    Args:
        graph: The unpruned network.
        kept: The units that are left, (n_units,) Bool.
    """

    graph: DependencyGraph
    kept: Kept

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        """Return itself: the unpruned network is not part of a pruned one."""
        return self


class PrunedModel(fx.GraphModule):
    """A physically smaller network: an ordinary module, called like the model it came from.

    Parameters and buffers keep their names, dtypes, ties and ``requires_grad``. ``train()`` and
    ``eval()`` switch batch norms and dropouts as they do in the model.
    """

    @property
    def origin(self) -> Origin | None:
        """What it was cut from; None if that is unknown, as of a network read from a file."""
        origin = self.meta.get(_ORIGIN)
        return origin if isinstance(origin, Origin) else None

    @property
    def signature(self) -> InputSignature:
        """What inputs the network takes.

        Raises:
            ModelError: The graph it was made of did not say.
        """
        return recorded_signature(self)

    def example_inputs(self, batch: int = 2, *, seed: int = 0) -> tuple[Any, ...]:
        """Draw positional inputs for ``batch`` samples, on the network's device.

        Raises:
            ModelError: The graph it was made of did not say what it takes.
        """
        return self.signature.draw(batch, seed=seed, weights=a_weight(self))

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


def as_pruned_model(module: fx.GraphModule, inputs: Sequence[Any] | None = None) -> PrunedModel:
    """Wrap an ATen graph in evaluation mode, so that it can be trained and exported again.

    Args:
        module: What :func:`torch.export.load` followed by ``.module()`` returns; its weights are
            shared.
        inputs: Leaves of inputs that it runs on; only those that are not floating point are kept.
    """
    record_signature(module, inputs)
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
    _drop_replaced(module, graph.program.module)
    module.graph.lint()
    smaller = as_pruned_model(module, pytree.tree_leaves(graph.example_inputs))
    smaller.meta[_ORIGIN] = Origin(graph, kept)
    return smaller


def _drop_replaced(module: fx.GraphModule, before: fx.GraphModule) -> None:
    """Delete constants that the trace had added and that surgery has replaced by smaller ones."""
    was_read = {node.target for node in before.graph.nodes if node.op == "get_attr" and node.users}
    for node in list(module.graph.nodes):
        replaced = node.op == "get_attr" and not node.users and node.target in was_read
        if replaced and node.target in module._non_persistent_buffers_set:
            module.graph.erase_node(node)
            delattr(module, str(node.target))


def sliced(tensor: Tensor, by_dim: dict[int, Indices]) -> Tensor:
    """Return a copy of ``tensor`` with only the entries given per dim."""
    for dim, indices in by_dim.items():
        tensor = tensor.index_select(dim, torch.as_tensor(indices, device=tensor.device))
    # What index_select returns is a contiguous copy already.
    return tensor if by_dim else tensor.clone(memory_format=torch.contiguous_format)


def cut_tensors(graph: DependencyGraph, kept: Kept) -> Iterator[tuple[str, Tensor]]:
    """Yield what a cut network has of the original's parameters and buffers, by name.

    One after the other, so that of a large network not all are held once more. Tensors that stay
    whole are the original's own.

    Args:
        graph: The traced network; it is not changed.
        kept: For every unit whether it is kept.
    """
    entries = _entries(graph, kept)
    for name, tensor in named_tensors(graph.program.module).items():
        own = tensor.detach()
        yield name, sliced(own, entries[id(tensor)]) if id(tensor) in entries else own


def _cut_tensors(graph: DependencyGraph, kept: Kept) -> dict[int, Any]:
    memo: dict[int, Any] = {}
    entries = _entries(graph, kept)
    for tensor in named_tensors(graph.program.module).values():
        if id(tensor) not in entries or id(tensor) in memo:
            continue
        smaller = sliced(tensor.detach(), entries[id(tensor)])
        memo[id(tensor)] = (
            nn.Parameter(smaller, requires_grad=tensor.requires_grad)
            if isinstance(tensor, nn.Parameter)
            else smaller
        )
    return memo


def _entries(graph: DependencyGraph, kept: Kept) -> dict[int, dict[int, Indices]]:
    """Return what remains of tensors that shrink, by identity: they may have several names."""
    named = named_tensors(graph.program.module).items()
    found = ((id(tensor), kept_entries(graph, name, kept)) for name, tensor in named)
    return {key: by_dim for key, by_dim in found if by_dim}


def _shrinks(graph: DependencyGraph, node: fx.Node, kept: Kept) -> bool:
    """Whether any tensor that enters or leaves a call shrinks."""
    names = {node.name, *(source.name for source in node.all_input_nodes)}
    return any(not stays(units, kept).all() for name in names for units in graph.units_of(name))


def _resize(graph: DependencyGraph, node: fx.Node, kept: Kept) -> Resize:
    def kept_along(of: fx.Node, result: int | None, dim: int) -> Indices | None:
        units = graph.axes.get((of.name, result), {}).get(dim)
        if units is None:
            return None
        remains = stays(units, kept)
        return None if remains.all() else np.flatnonzero(remains)

    def shape_of(of: fx.Node, result: int | None) -> tuple[int, ...]:
        return graph.analysis.values[of.name, result].shape

    return Resize(node, kept_along, shape_of)
