"""ONNX files without their weights in memory: read in outline, written one weight at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphprune.onnx_bytes import LargeWeight, read_outline, with_weights, write_with

WEIGHT = np.arange(1200, dtype=np.float32).reshape(4, 300)


def model(*weights: TensorProto) -> onnx.ModelProto:
    """Return a file of one matrix product that holds these weights."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 300])],
        initializer=weights,
    )
    return helper.make_model(graph)


def test_an_outline_knows_where_numbers_lie(tmp_path: Path) -> None:
    small = numpy_helper.from_array(np.ones(3, np.int64), "small")
    path = tmp_path / "model.onnx"
    whole = model(numpy_helper.from_array(WEIGHT, "weight"), small)
    onnx.save(whole, path)

    outline = read_outline(path)

    assert not outline.graph.initializer[0].raw_data
    assert outline.graph.initializer[1] == small
    assert outline.ByteSize() < 1000
    restored = with_weights(outline, tmp_path)
    assert numpy_helper.to_array(restored.graph.initializer[0]).tobytes() == WEIGHT.tobytes()
    assert restored.graph.node == whole.graph.node
    onnx.checker.check_model(restored, full_check=True)


def test_numbers_that_do_not_fit_are_left_for_the_checker(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(WEIGHT, "weight")
    weight.dims[1] = 299
    onnx.save(model(weight), tmp_path / "model.onnx")
    assert read_outline(tmp_path / "model.onnx").graph.initializer[0].raw_data


@pytest.mark.parametrize("left", [0, 1, 40, 2000])
def test_what_is_cut_short_is_refused(tmp_path: Path, left: int) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(numpy_helper.from_array(WEIGHT, "weight")), path)
    path.write_bytes(path.read_bytes()[:left])
    try:
        found = read_outline(path)
    except Exception:  # protobuf's error
        return
    assert not left
    assert not found.graph.node


def test_weights_are_written_as_protobuf_writes_them(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(WEIGHT, "weight")
    head = TensorProto(name="weight", data_type=weight.data_type, dims=weight.dims)
    large = LargeWeight(tensor=head, size=WEIGHT.nbytes, numbers=WEIGHT.tobytes)
    path = tmp_path / "model.onnx"

    with path.open("wb") as stream:
        write_with(model(), [large], stream)

    assert onnx.load(path) == model(weight)


def test_numbers_of_another_size_are_refused(tmp_path: Path) -> None:
    head = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[4, 300])
    large = LargeWeight(tensor=head, size=8, numbers=WEIGHT.tobytes)
    with (
        (tmp_path / "model.onnx").open("wb") as stream,
        pytest.raises(ValueError, match="weight has 4800 bytes"),
    ):
        write_with(model(), [large], stream)
