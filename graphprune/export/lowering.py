"""Decompose a program for ONNX without tracing it again.

``torch.onnx`` traces every program once more to decompose the few operators that it has no
translation for; that takes longer than everything else it does. Common networks contain three such
operators, batch norm, adaptive average pooling and a squeeze of several dims, which are rewritten
here node by node. A program with others is left to ``torch.onnx``.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.export import ExportedProgram

_aten = torch.ops.aten


class LoweredProgram(ExportedProgram):
    """A program that skips its decomposition where nothing is left to decompose."""

    def run_decompositions(
        self,
        decomp_table: Mapping[Any, Callable[..., Any]] | None = None,
        decompose_custom_triton_ops: bool = False,
    ) -> ExportedProgram:
        """Return the program itself if it may be translated as it is, else a decomposed one.

        Args:
            decomp_table: Every operator without a translation, as ``torch.onnx`` passes it.
            decompose_custom_triton_ops: As in torch.
        """
        table = {} if decomp_table is None else decomp_table
        if decomp_table is not None and _is_plain(self.graph_module, table):
            return self
        decomposed: ExportedProgram = super().run_decompositions(
            None if decomp_table is None else dict(table), decompose_custom_triton_ops
        )
        return decomposed


def lowered(program: ExportedProgram) -> LoweredProgram:
    """Return a copy of a program in which the operators that have a short decomposition have it.

    The copy shares the weights and nothing else, so that ``torch.onnx`` may change its graph.
    """
    graph = copy.deepcopy(program.graph)
    for node, original in zip(graph.nodes, program.graph.nodes, strict=True):
        node.name = original.name  # the signature goes by names, which copying may change
    for node in graph.nodes:
        lower = _LOWERINGS.get(node.target)
        if lower is not None:
            lower(node)
    return LoweredProgram(
        root=program.graph_module,
        graph=graph,
        graph_signature=copy.deepcopy(program.graph_signature),
        state_dict=program.state_dict,
        range_constraints=copy.deepcopy(program.range_constraints),
        module_call_graph=copy.deepcopy(program.module_call_graph),
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=program.verifiers,
    )


def _is_plain(module: fx.GraphModule, table: Mapping[Any, Callable[..., Any]]) -> bool:
    """Whether every op is translated as it stands; writes and subgraphs need torch's own pass."""
    targets = {node.target for node in module.graph.nodes if node.op == "call_function"}
    overloads = [target for target in targets if isinstance(target, OpOverload)]
    return not any(
        overload in table or overload in _LOWERINGS or overload._schema.is_mutable
        for overload in overloads
    ) and not any(isinstance(target, torch._ops.HigherOrderOperator) for target in targets)


def _lower_batch_norm(node: fx.Node) -> None:
    x, weight, bias, mean, variance, training, momentum, eps, *_ = node.args
    if training or mean is None or variance is None:
        return
    made = node.meta["val"]
    with node.graph.inserting_before(node):
        whole = node.graph.call_function(
            _aten._native_batch_norm_legit_no_training.default,
            (x, weight, bias, mean, variance, momentum, eps),
        )
    whole.meta = {**node.meta, "val": (made, made.new_empty(0), made.new_empty(0))}
    # The node itself picks the result, so that it keeps the name that the signature knows.
    node.target, node.args, node.kwargs = operator.getitem, (whole, 0), {}


def _lower_adaptive_pool(node: fx.Node) -> None:
    x, size = node.args
    assert isinstance(x, fx.Node)
    assert isinstance(size, (list, tuple))
    given = x.meta["val"].shape[-2:]
    if list(size) == [1, 1]:
        node.target, node.args = _aten.mean.dim, (x, [-1, -2], True)
    elif all(isinstance(a, int) and a % b == 0 for a, b in zip(given, size, strict=True)):
        windows = [a // b for a, b in zip(given, size, strict=True)]
        node.target, node.args = _aten.avg_pool2d.default, (x, windows, windows)


def _lower_squeeze(node: fx.Node) -> None:
    x, dims = node.args
    assert isinstance(x, fx.Node)
    assert isinstance(dims, (list, tuple))
    # From the last dim to the first, so that the places of those still to come stay.
    sizes = x.meta["val"].shape
    listed = (dim % len(sizes) for dim in dims if isinstance(dim, int))
    # In ONNX the rank is fixed: a batch of one stays, though torch would drop it.
    rest = sorted((dim for dim in listed if isinstance(sizes[dim], int)), reverse=True)
    if not rest:
        node.target, node.args = _aten.alias.default, (x,)
        return
    for dim in rest[:-1]:
        with node.graph.inserting_before(node):
            squeezed = node.graph.call_function(_aten.squeeze.dim, (x, dim))
        squeezed.meta = {**node.meta, "val": x.meta["val"].squeeze(dim)}
        x = squeezed
    node.target, node.args = _aten.squeeze.dim, (x, rest[-1])


_LOWERINGS: dict[Any, Callable[[fx.Node], None]] = {
    _aten.batch_norm.default: _lower_batch_norm,
    _aten.adaptive_avg_pool2d.default: _lower_adaptive_pool,
    _aten.squeeze.dims: _lower_squeeze,
}
