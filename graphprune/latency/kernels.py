"""How long onnxruntime's kernel for one layer takes, from onnxruntime's own profile.

A layer is timed in a file of its own. Around a convolution onnxruntime then converts between its
internal layout and the usual one, which inside a network happens once in a while only; the profile
tells the kernel's time from that of conversions. The least of a few runs counts: what disturbs a
run only makes it longer.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper

from graphprune.latency.layers import LayerShape
from graphprune.runtime import CPU, session_options

_CONVERSIONS = ("ReorderInput", "ReorderOutput")
"""What onnxruntime puts at the border of its internal layout."""

_OPSET, _IR_VERSION = 18, 10


def kernel_seconds(shape: LayerShape, *, samples: int, threads: int, runs: int = 5) -> float:
    """Return how long a layer takes, in seconds.

    Args:
        shape: The layer.
        samples: The batch.
        threads: Threads that it may use.
        runs: How often it is run; the least counts.
    """
    model, sizes = _file_of(shape, samples)
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])
        feed = {"x": np.full(sizes, 0.5, np.float32)}
        for _ in range(runs + 1):  # the first lays out memory
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[str, list[int]] = defaultdict(list)
    for event in events:
        timed = event["name"].endswith("_kernel_time")
        if timed and event["args"]["op_name"] not in _CONVERSIONS:
            times[event["name"]].append(event["dur"])
    # Microseconds, in whole numbers: a kernel may take less than one.
    return sum(max(min(found), 0.5) for found in times.values()) * 1e-6


def _file_of(shape: LayerShape, samples: int) -> tuple[ModelProto, tuple[int, ...]]:
    """Return an ONNX file that computes the layer on ``x``, and the shape of ``x``."""
    if shape.kind == "product":
        sizes: tuple[int, ...] = (samples * shape.positions[0], shape.inputs)
        weights: tuple[int, ...] = (shape.inputs, shape.outputs)
        node = helper.make_node("MatMul", ["x", "weight"], ["y"])
    else:
        sizes = (samples, shape.inputs * shape.groups, *shape.positions)
        weights = (shape.outputs, shape.inputs, *shape.kernel)
        node = _convolution(shape)
    values = np.full(weights, 0.01, np.float32)
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("weight", TensorProto.FLOAT, weights, values.tobytes(), raw=True)],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION), sizes


def _convolution(shape: LayerShape) -> NodeProto:
    return helper.make_node(
        "Conv",
        ["x", "weight"],
        ["y"],
        kernel_shape=shape.kernel,
        strides=shape.stride,
        pads=shape.padding * 2,
        dilations=shape.dilation,
        group=shape.groups,
    )
