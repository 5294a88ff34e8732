"""What the nodes inside a network compute on one input: in torch, and in onnxruntime."""

from __future__ import annotations

from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor, fx

from graphprune.runtime import CPU, Session, session_options
from graphprune.verify.cases import Case, tensors_of


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps every tensor of numbers that its nodes compute."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op != "get_attr":
            self.values[n] = value.detach().cpu()
        return value


def torch_values(module: fx.GraphModule, case: Case) -> dict[fx.Node, Tensor]:
    """Return what every node computes, inputs included, in the order of the graph."""
    recorder = _Recorder(module)
    with torch.no_grad():
        recorder.run(*case.inputs)
    return recorder.values


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
