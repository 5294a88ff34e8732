"""Divergence: the node that was changed is named, and what was saved shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from graphprune.export import export_onnx
from graphprune.verify import Divergence, drop_witness, save_witness, validate
from tests.export.subjects import subject


def moved(path: Path, weight: str, by: float = 0.3) -> Path:
    """Move one number of one weight of a file; return a new file."""
    model = onnx.load(path)
    tensor = next(value for value in model.graph.initializer if value.name == weight)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += by
    tensor.CopyFrom(numpy_helper.from_array(values, weight))
    onnx.save(model, path.with_name("moved.onnx"))
    return path.with_name("moved.onnx")


def found(name: str, weight: str, folder: Path, by: float = 0.3) -> Divergence:
    given = subject(name)
    export_onnx(given.pruned, folder / "pruned.onnx")
    divergence = validate(given.pruned, moved(folder / "pruned.onnx", weight, by)).divergence
    assert divergence is not None
    return divergence


@pytest.mark.parametrize(
    ("name", "weight", "op", "module", "group"),
    [
        ("Residual", "stem.0.weight", "Conv", "stem.0", "stem.0.weight"),  # batch norm folded in
        ("Residual", "a.0.weight", "Conv", "a.0", "a.0.weight"),
        ("Residual", "head.fc.bias", "Gemm", "head.fc", "stem.0.weight"),
        ("DictOutputs", "b.bias", "Conv", "b", "a.weight"),  # tied, and one output of several
        ("DictOutputs", "scale", "Mul", "", "a.weight"),
        ("Windows", "norm.weight", "LayerNormalization", "norm", "embed.weight"),
        ("Windows", "val_33", "Add", "qkv", "qkv.weight"),  # a product and a sum for one layer
        ("TwoInputs", "other.bias", "Gemm", "other", "vector.weight"),
        ("Depthwise", "depth.0.weight", "Conv", "depth.0", "conv.0.weight"),
    ],
)
def test_the_node_that_was_changed_is_named(
    name: str, weight: str, op: str, module: str, group: str, tmp_path: Path
) -> None:
    divergence = found(name, weight, tmp_path)
    assert (divergence.op, divergence.module) == (op, module)
    assert divergence.groups == (group,)
    assert divergence.error is not None
    assert divergence.error > 1e-4


def test_a_small_change_is_found_where_it_was_made(tmp_path: Path) -> None:
    assert found("Residual", "stem.0.weight", tmp_path, by=3e-3).module == "stem.0"


def test_what_was_saved_shows_the_difference(tmp_path: Path) -> None:
    divergence = found("Windows", "val_33", tmp_path)
    model, inputs, expected = save_witness(divergence, tmp_path / "shown")
    part = onnx.load(model)
    onnx.checker.check_model(part)
    assert [node.op_type for node in part.graph.node] == ["MatMul", "Add"]
    session = ort.InferenceSession(model)
    (computed,) = session.run(None, dict(np.load(inputs)))
    right = np.load(expected)[divergence.value]
    error = np.abs(computed - right).max() / np.abs(right).max()
    assert error == pytest.approx(divergence.error, rel=1e-3)


def test_what_was_saved_is_removed_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "shown"
    drop_witness(folder)  # there is nothing yet
    files = save_witness(found("Windows", "val_33", tmp_path), folder)
    (folder / "mine.txt").touch()
    drop_witness(folder)
    assert not any(file.exists() for file in files)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    (folder / "mine.txt").unlink()
    drop_witness(folder)
    assert not folder.exists()


def test_ordinary_modules_are_traced(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)).eval()
    export_onnx(network, tmp_path / "plain.onnx", example_inputs=(torch.randn(2, 4),))
    divergence = validate(network, moved(tmp_path / "plain.onnx", "2.weight")).divergence
    assert divergence is not None
    assert (divergence.module, divergence.groups) == ("2", ("0.weight",))


def test_a_file_without_the_networks_names(tmp_path: Path) -> None:
    """Other exporters and optimizers rename everything; numbers are compared then."""
    given = subject("Residual")
    export_onnx(given.pruned, tmp_path / "pruned.onnx")
    model = onnx.load(moved(tmp_path / "pruned.onnx", "b.weight"))
    ends = {value.name for value in (*model.graph.input, *model.graph.output)}
    renamed = {
        name: f"v{place}"
        for place, name in enumerate(name for node in model.graph.node for name in node.output)
        if name not in ends
    }
    for node in model.graph.node:
        node.name = ""
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "renamed.onnx")
    divergence = validate(given.pruned, tmp_path / "renamed.onnx").divergence
    assert divergence is not None
    assert (divergence.op, divergence.module) == ("Conv", "b")


def test_what_is_equal_does_not_diverge(tmp_path: Path) -> None:
    given = subject("Residual")
    export_onnx(given.pruned, tmp_path / "pruned.onnx")
    assert validate(given.pruned, tmp_path / "pruned.onnx").divergence is None
