"""Small ONNX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, save


def matrix_product(
    path: Path, width: int = 8, *, batch: int | str = "batch", kind: int = TensorProto.FLOAT
) -> Path:
    """Write a file that multiplies (batch, 4) by (4, width)."""
    weight = np.ones((4, width), helper.tensor_dtype_to_np_dtype(kind))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", kind, [batch, 4])],
        [helper.make_tensor_value_info("y", kind, [batch, width])],
        [helper.make_tensor("weight", kind, weight.shape, weight.tobytes(), raw=True)],
    )
    opsets = [helper.make_opsetid("", 18)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def identity(path: Path, shape: list[int | str | None], kind: int = TensorProto.FLOAT) -> Path:
    """Write a file that returns what it is given."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )
    opsets = [helper.make_opsetid("", 18)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path
