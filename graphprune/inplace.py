"""Slicing the original module with torch-pruning's layer functions, verified against the graph.

The result is an ordinary instance of the user's own class. That works where the forward takes all
its sizes from its layers; where sizes are written into it (``view(B, N, 3, 12, 64)``), only the
pruned graph computes the right function, and this says so instead of returning something else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphprune.analysis import overload_name
from graphprune.coalition import removed_entries
from graphprune.errors import SurgeryError, first_line
from graphprune.graph import DependencyGraph, Kept
from graphprune.surgery import PrunedModel, cut
from graphprune.verify.cases import tensors_of
from graphprune.verify.comparison import EXACT
from graphprune.verify.precision import as_double, doubled_inputs

Removed = Mapping[str, Mapping[int, Sequence[int]]]
"""Parameter or buffer name -> dim -> indices that go."""

_HINT = "use the pruned graph, gp.prune(graph, plan): it computes the right function"

_BATCHES = (2, 3)


def prune_in_place_of(model: nn.Module, graph: DependencyGraph, kept: Kept) -> nn.Module:
    """Return a copy of the original module whose layers hold only the kept units.

    Args:
        model: The network that ``graph`` was traced from; it is not changed.
        graph: The traced network.
        kept: For every unit whether it is kept.

    Raises:
        SurgeryError: ``model`` is another network, or its forward does not follow its layers.
    """
    pruned, removed = cut(graph, kept), removed_entries(graph, kept)
    _require_traced(model, graph, removed)
    smaller = copy.deepcopy(model)
    try:
        _slice(smaller, removed, pruned)
        _keep_what_slicing_loses(smaller, model, graph)
    except (AttributeError, AssertionError, IndexError, RuntimeError) as error:
        raise SurgeryError(
            f"the layers of {type(model).__name__} cannot be sliced: {first_line(error, 200)}",
            hint=_HINT,
        ) from error
    _verify(smaller, pruned, model)
    return smaller


def _require_traced(model: nn.Module, graph: DependencyGraph, removed: Removed) -> None:
    for name in removed:
        expected = _tensor(graph.program.module, name).shape
        try:
            found = _tensor(model, name).shape
        except AttributeError:
            found = None
        if found != expected:
            is_now = "is missing" if found is None else f"is {tuple(found)}"
            raise SurgeryError(
                f"this {type(model).__name__} is not the network that was traced: {name} {is_now} "
                f"instead of {tuple(expected)}",
                hint="pass the model that was given to gp.trace",
            )


# ---- slicing ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """What is to be removed from one module.

    Args:
        module: The module, sliced in place.
        removed: Name of its own parameter or buffer -> dim -> indices that go.
        node: The op that reads its weight in the pruned graph.
    """

    module: nn.Module
    removed: Removed
    node: fx.Node | None

    def along(self, dim: int) -> list[int]:
        """Return what goes from its weight along a dim."""
        return list(self.removed.get("weight", {}).get(dim, ()))


def _slice(model: nn.Module, removed: Removed, pruned: PrunedModel) -> None:
    readers = _readers(pruned)
    for path, module in model.named_modules():
        start = f"{path}." if path else ""
        own = {
            name.removeprefix(start): by_dim
            for name, by_dim in removed.items()
            if name.startswith(start) and "." not in name.removeprefix(start)
        }
        if own:
            layer = _Layer(module, own, readers.get(f"{start}weight"))
            _slicer_for(module)(layer)
            _slice_rest(layer, pruned, start)


def _readers(pruned: PrunedModel) -> dict[str, fx.Node]:
    return {
        str(node.target): next(iter(node.users))
        for node in pruned.graph.find_nodes(op="get_attr")
        if node.users
    }


def _slicer_for(module: nn.Module) -> Callable[[_Layer], None]:
    for kinds, slicer in _SLICERS:
        if isinstance(module, kinds):
            return slicer
    return lambda _: None


def _slice_conv(layer: _Layer) -> None:
    import torch_pruning as tp

    conv = layer.module
    assert isinstance(conv, nn.modules.conv._ConvNd)
    produced, consumed = (1, 0) if conv.transposed else (0, 1)
    outputs, inputs = layer.along(produced), layer.along(consumed)
    if conv.transposed and conv.groups > 1 and layer.node is not None:
        _count_channels(layer, conv)
        return
    if conv.groups == conv.in_channels == conv.out_channels and outputs:
        tp.prune_depthwise_conv_out_channels(conv, outputs)
        return
    if outputs:
        tp.prune_conv_out_channels(conv, outputs)
    if inputs:
        # torch-pruning counts input channels over all groups; the weight counts them in one.
        width = conv.in_channels // conv.groups
        everywhere = [k + group * width for group in range(conv.groups) for k in inputs]
        tp.prune_conv_in_channels(conv, inputs if conv.transposed else everywhere)
    if conv.groups > 1 and layer.node is not None:
        # Whole groups may have gone, which torch-pruning does not know of.
        conv.groups = int(_argument(layer.node, "groups"))
        conv.in_channels = conv.weight.shape[1] * conv.groups


def _count_channels(layer: _Layer, conv: nn.modules.conv._ConvNd) -> None:
    """Set what a grouped transposed convolution says of itself; its weight is sliced with the rest.

    torch-pruning takes the first axis of its weight, all input channels, for those of one group.
    """
    assert layer.node is not None
    conv.groups = int(_argument(layer.node, "groups"))
    conv.in_channels = conv.weight.shape[0] - len(layer.along(0))
    conv.out_channels = (conv.weight.shape[1] - len(layer.along(1))) * conv.groups


def _slice_linear(layer: _Layer) -> None:
    import torch_pruning as tp

    if layer.along(0):
        tp.prune_linear_out_channels(layer.module, layer.along(0))
    if layer.along(1):
        tp.prune_linear_in_channels(layer.module, layer.along(1))


def _slice_batch_norm(layer: _Layer) -> None:
    import torch_pruning as tp

    gone = next(iter(layer.removed.values()))
    tp.prune_batchnorm_out_channels(layer.module, list(gone[0]))


def _slice_layer_norm(layer: _Layer) -> None:
    import torch_pruning as tp

    assert isinstance(layer.module, nn.LayerNorm)
    if len(layer.module.normalized_shape) == 1:
        tp.prune_layernorm_out_channels(layer.module, layer.along(0))


def _slice_rms_norm(layer: _Layer) -> None:
    # torch-pruning knows no RMSNorm; its weight is sliced with the rest.
    assert isinstance(layer.module, nn.RMSNorm)
    if len(layer.module.normalized_shape) == 1:
        width = layer.module.normalized_shape[0] - len(layer.along(0))
        layer.module.normalized_shape = (width,)


def _slice_group_norm(layer: _Layer) -> None:
    import torch_pruning as tp

    assert isinstance(layer.module, nn.GroupNorm)
    tp.prune_groupnorm_out_channels(layer.module, layer.along(0))
    if layer.node is not None:
        layer.module.num_groups = int(_argument(layer.node, "num_groups"))


def _slice_instance_norm(layer: _Layer) -> None:
    import torch_pruning as tp

    tp.prune_instancenorm_out_channels(layer.module, layer.along(0))


def _slice_prelu(layer: _Layer) -> None:
    import torch_pruning as tp

    tp.prune_prelu_out_channels(layer.module, layer.along(0))


def _slice_embedding(layer: _Layer) -> None:
    import torch_pruning as tp

    tp.prune_embedding_out_channels(layer.module, layer.along(1))


def _slice_recurrent(layer: _Layer) -> None:
    """Set the sizes that a recurrent layer checks; its weights are sliced with the rest."""
    module = layer.module
    assert isinstance(module, nn.RNNBase | nn.RNNCellBase)
    end = "_l0" if isinstance(module, nn.RNNBase) else ""
    for kind, name in (("ih", "input_size"), ("hh", "hidden_size")):
        gone = layer.removed.get(f"weight_{kind}{end}", {}).get(1, ())
        setattr(module, name, getattr(module, name) - len(gone))


_SLICERS: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], Callable[[_Layer], None]], ...]
_SLICERS = (
    (nn.modules.conv._ConvNd, _slice_conv),
    (nn.Linear, _slice_linear),
    (nn.modules.instancenorm._InstanceNorm, _slice_instance_norm),
    (nn.modules.batchnorm._NormBase, _slice_batch_norm),
    (nn.LayerNorm, _slice_layer_norm),
    (nn.RMSNorm, _slice_rms_norm),
    (nn.GroupNorm, _slice_group_norm),
    (nn.PReLU, _slice_prelu),
    (nn.Embedding, _slice_embedding),
    ((nn.RNNBase, nn.RNNCellBase), _slice_recurrent),
)
"""By kind of layer, the first that fits."""


def _slice_rest(layer: _Layer, pruned: PrunedModel, start: str) -> None:
    """Slice what no layer function did: parameters and buffers of the model's own modules."""
    from torch_pruning.pruner.function import ParameterPruner

    for name, by_dim in layer.removed.items():
        tensor = getattr(layer.module, name)
        if tensor.shape == _tensor(pruned, f"{start}{name}").shape:
            continue
        for dim, gone in by_dim.items():
            if isinstance(tensor, nn.Parameter):
                tensor = ParameterPruner(pruning_dim=dim).prune_out_channels(tensor, list(gone))
            else:
                stays = [k for k in range(tensor.shape[dim]) if k not in set(gone)]
                tensor = tensor.index_select(dim, torch.tensor(stays, device=tensor.device))
        setattr(layer.module, name, tensor)


def _keep_what_slicing_loses(smaller: nn.Module, model: nn.Module, graph: DependencyGraph) -> None:
    """Freeze again what was frozen and tie again what was tied."""
    for name, original in model.named_parameters(remove_duplicate=False):
        _tensor(smaller, name).requires_grad_(original.requires_grad)
    for name, first in graph.program.aliases.items():
        owner, _, attribute = name.rpartition(".")
        if name != first:
            setattr(smaller.get_submodule(owner), attribute, _tensor(smaller, first))


def _tensor(module: nn.Module, name: str) -> Tensor:
    owner, _, attribute = name.rpartition(".")
    found = getattr(module.get_submodule(owner), attribute)
    assert isinstance(found, Tensor)
    return found


def _argument(node: fx.Node, name: str) -> Any:
    schema = getattr(node.target, "_schema", None)
    places = {} if schema is None else {a.name: k for k, a in enumerate(schema.arguments)}
    if name not in places:
        raise AttributeError(f"{overload_name(node)} has no argument {name}")
    given = {**dict(zip(places, node.args, strict=False)), **node.kwargs}
    return given.get(name, schema.arguments[places[name]].default_value)  # type: ignore[union-attr]


# ---- verification -------------------------------------------------------------------------------


def _verify(smaller: nn.Module, pruned: PrunedModel, model: nn.Module) -> None:
    ours, theirs = as_double(smaller).eval(), as_double(pruned)
    for batch in _BATCHES:
        inputs = doubled_inputs(pruned.example_inputs(batch, seed=batch))
        error = _error(ours, theirs, inputs, type(model).__name__)
        if not error <= EXACT:
            raise SurgeryError(
                f"sliced in place, {type(model).__name__} computes another function than the "
                f"pruned graph (relative error {error:.1e} on a batch of {batch}): its forward "
                "depends on the removed units, or it is not the network that was traced",
                hint=_HINT,
            )


@torch.no_grad()
def _error(ours: nn.Module, theirs: nn.Module, inputs: tuple[Any, ...], name: str) -> float:
    """Return the largest error, relative to the output's scale; infinite for other shapes."""
    try:
        found = tensors_of(ours(*inputs))
    except Exception as error:  # whatever a user's forward may raise
        raise SurgeryError(
            f"sliced in place, {name} does not run: {first_line(error, 200)}; sizes seem to be "
            "written into its forward",
            hint=_HINT,
        ) from error
    expected = tensors_of(theirs(*inputs))
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return float("inf")
    return max(
        (
            float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-300))
            for a, b in zip(found, expected, strict=True)
            if a.numel()
        ),
        default=0.0,
    )
