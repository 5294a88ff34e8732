"""What the nodes inside a network compute on one input: in torch, and in onnxruntime."""

from __future__ import annotations

from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor, fx

from graphprune.runtime import CPU, Session, session_options
from graphprune.verify.cases import Case, tensors_of
from graphprune.verify.precision import Widening


class _Recording(fx.Interpreter):
    """Runs a graph and keeps every tensor of numbers that its nodes compute."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op != "get_attr":
            self.values[n] = value.detach().cpu()
        return value


class _WideRecording(_Recording, Widening):
    """Does so in float64."""


def torch_values(module: fx.GraphModule, case: Case) -> dict[fx.Node, Tensor]:
    """Return what every node computes, inputs included, in the order of the graph."""
    recorder = _Recording(module)
    with torch.no_grad():
        recorder.run(*case.inputs)
    return recorder.values


def wide_values(module: fx.GraphModule, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """Return what nodes compute in float64, by name, in the order of the graph.

    Args:
        module: The network; it is not changed.
        inputs: Its flat inputs, in float64 where they are floats.
    """
    recorder = _WideRecording(module)
    with torch.no_grad():
        recorder.run(*inputs)
    return {node.name: value for node, value in recorder.values.items()}


def onnx_values(file: onnx.ModelProto, case: Case) -> dict[str, Tensor]:
    """Return what every node computes, inputs included, without onnxruntime's optimization.

    Args:
        file: At most 2 GB, because onnxruntime is handed it with other outputs.
        case: The inputs.

    Raises:
        Exception: onnxruntime cannot run it; its errors have no common base.
    """
    opened = onnx.ModelProto()
    opened.CopyFrom(file)
    made = [name for node in file.graph.node for name in node.output if name]
    del opened.graph.output[:]
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    options = session_options(None)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = Session(
        onnxruntime.InferenceSession(opened.SerializeToString(), options, providers=[CPU]), "cpu"
    )
    leaves = tensors_of(case.inputs)
    given = [value.name for value in session.session.get_inputs()]
    return {
        **dict(zip(given, leaves, strict=True)),
        **dict(zip(made, session.run(leaves), strict=True)),
    }
