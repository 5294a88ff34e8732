"""What an ONNX file holds: weights that nothing reads, files beside it, opsets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphprune.errors import ArtifactError
from graphprune.onnx_bytes import with_weights
from graphprune.verify.contents import (
    check_dead,
    check_external,
    check_opset,
    inputs_of,
    read_onnx,
)


def model(*, domain: str = "") -> onnx.ModelProto:
    """Return a file of one matrix product."""
    weight = numpy_helper.from_array(np.ones((4, 300), np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"], domain=domain)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 300])],
        initializer=[weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def saved_beside(path: Path) -> Path:
    """Write a file with its weight beside it; return the second file."""
    onnx.save(model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path.with_name("weights.bin")


def test_weights_that_nothing_reads_are_found() -> None:
    file = model()
    assert check_dead(file).ok
    file.graph.initializer.append(numpy_helper.from_array(np.ones((3, 5), np.float32), "left"))
    found = check_dead(file)
    assert not found.ok
    assert "15 numbers: left" in found.detail


def test_what_an_inner_graph_reads_is_not_dead() -> None:
    file = model()
    inner = helper.make_graph(
        [helper.make_node("Identity", ["kept"], ["z"])],
        "inner",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])],
    )
    file.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "kept"))
    file.graph.node.append(
        helper.make_node("If", ["x"], ["w"], then_branch=inner, else_branch=inner)
    )
    assert check_dead(file).ok


def test_opsets_must_be_declared_and_known() -> None:
    assert check_opset(model()).detail == "20"
    assert "no version of mine" in check_opset(model(domain="mine")).detail
    newer = model()
    newer.opset_import[0].version = 10_000
    assert not check_opset(newer).ok
    del newer.opset_import[:]
    assert not check_opset(newer).ok


def test_files_beside_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    beside = saved_beside(path)
    assert beside.name in check_external(path, read_onnx(path)).detail
    assert with_weights(read_onnx(path), tmp_path).graph.initializer[0].raw_data
    onnx.save(model(), path)
    assert "none" in check_external(path, read_onnx(path)).detail


def test_a_missing_file_beside_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    saved_beside(path).unlink()
    with pytest.raises(ArtifactError, match=r"weights\.bin, which is missing"):
        read_onnx(path)


def test_a_file_beside_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    beside = saved_beside(path)
    beside.write_bytes(beside.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="4,799 bytes"):
        read_onnx(path)


@pytest.mark.parametrize("place", ["../weights.bin", "/etc/hostname"])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, place: str) -> None:
    path = tmp_path / "inner" / "model.onnx"
    path.parent.mkdir()
    saved_beside(path)
    file = onnx.load(path, load_external_data=False)
    for entry in file.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = place
    path.write_bytes(file.SerializeToString())
    with pytest.raises(ArtifactError, match="outside its folder"):
        read_onnx(path)


def test_old_files_list_weights_among_inputs() -> None:
    file = model()
    file.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [4, 300]))
    assert [value.name for value in inputs_of(file)] == ["x"]
