"""Doctor: which versions, devices and providers there are, and which of them really work."""

from __future__ import annotations

import io
import platform
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = (
    "graphprune", "torch", "torchvision", "timm", "torch-pruning", "onnx", "onnxscript",
    "onnxruntime", "onnxruntime-gpu", "networkx", "numpy", "scipy", "typer",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of Python and of every package that results depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def examine() -> dict[str, Any]:
    """Return versions, devices and providers as plain JSON types."""
    return {"versions": versions(), "devices": _devices(), "providers": _providers()}


def _devices() -> dict[str, str]:
    import torch

    found = {"cpu": f"{torch.get_num_threads()} threads, {platform.machine()}"}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    else:
        found["cuda"] = "not found by torch"
    return found


def _providers() -> dict[str, str]:
    """Ask onnxruntime for every provider in turn: listed ones may still fall back silently."""
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    model = _identity_model()
    found = {}
    for name in ort.get_available_providers():
        # onnxruntime prints on stdout when it falls back.
        with redirect_stdout(io.StringIO()):
            session = ort.InferenceSession(model, providers=[name])
        used = session.get_providers()[0]
        found[name] = "works" if used == name else f"listed, but falls back to {used}"
    return found


def _identity_model() -> bytes:
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "identity", value[:1], value[1:]
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    serialized: bytes = model.SerializeToString()
    return serialized
