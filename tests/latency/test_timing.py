"""Timing ONNX files: how runs are laid out, counted and compared, without looking at the clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto

from graphprune.errors import ArtifactError, OptionError
from graphprune.latency import BenchOptions, bench, timing
from tests.latency.files import identity, matrix_product

QUICK = BenchOptions(runs=3, threads=1)


def test_one_file(tmp_path: Path) -> None:
    path = matrix_product(tmp_path / "a.onnx")
    found = bench([path], BenchOptions(runs=4, threads=1, batch=3))
    assert [file.path for file in found.files] == [path]
    assert found.files[0].size == path.stat().st_size
    seconds = found.files[0].seconds
    assert seconds.n == 4
    assert 0 < seconds.low <= seconds.median <= seconds.high
    assert (found.speedups, found.batch, found.threads) == ((), 3, 1)


def test_two_files_are_compared_round_by_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = matrix_product(tmp_path / "a.onnx"), matrix_product(tmp_path / "b.onnx")
    order, clock = [], [1.0]

    def seconds(runner: timing._Runner) -> float:
        order.append(runner._path)
        clock[0] *= 1.5  # the machine slows down all the time
        return clock[0] * (4.0 if runner._path == slow else 1.0)

    monkeypatch.setattr(timing._Runner, "seconds", seconds)
    found = bench([slow, fast], QUICK)
    assert order[-6:] == [slow, fast, fast, slow, slow, fast]
    # Rounds: 4 / 1.5, then 4 * 1.5, then 4 / 1.5.
    assert found.speedups[0].median == pytest.approx(4 / 1.5)
    assert found.speedups[0].high == pytest.approx(4 * 1.5)


def test_a_little_time_still_buys_enough_rounds(tmp_path: Path) -> None:
    path = matrix_product(tmp_path / "a.onnx")
    assert bench([path], BenchOptions(seconds=1e-9)).files[0].seconds.n == 11


def test_rounds_end_with_the_time(tmp_path: Path) -> None:
    path = matrix_product(tmp_path / "a.onnx")
    steps: list[tuple[int, int]] = []
    bench([path], BenchOptions(runs=12), lambda stage, done, total: steps.append((done, total)))
    assert steps == [(k, 12) for k in range(1, 13)]


def test_the_provider_is_the_one_that_is_used(tmp_path: Path) -> None:
    path = matrix_product(tmp_path / "a.onnx")
    asked = bench([path], BenchOptions(runs=1, provider="cpu"))
    assert asked.files[0].provider == "cpu"
    assert asked.as_asked


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL])
def test_inputs_of_other_types(tmp_path: Path, kind: int) -> None:
    path = identity(tmp_path / "a.onnx", ["n", 2], kind)
    assert bench([path], QUICK).files[0].seconds.n == 3


def test_a_fixed_batch_is_taken(tmp_path: Path) -> None:
    path = matrix_product(tmp_path / "a.onnx", batch=5)
    assert bench([path], QUICK).batch == 5


def test_an_unknown_shape_is_asked_for(tmp_path: Path) -> None:
    path = identity(tmp_path / "a.onnx", ["n", 3, "height", "width"])
    with pytest.raises(OptionError, match="how long dim 2 of input x"):
        bench([path], QUICK)
    assert bench([path], BenchOptions(runs=1, shapes=((3, 4, 5),))).batch == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (BenchOptions(batch=2), "fixes dim 0 of input x to 5"),
        (BenchOptions(shapes=((3,),)), "fixes dim 1 of input x to 4"),
        (BenchOptions(shapes=((4, 4),)), "has 2 dims and input x"),
        (BenchOptions(shapes=((4,), (4,))), "2 shapes were given"),
        (BenchOptions(threads=0), "threads 0 is less than 1"),
        (BenchOptions(runs=0), "runs 0 is less than 1"),
        (BenchOptions(seconds=0.0), "is no time"),
        (BenchOptions(provider="tpu"), "provider 'tpu' is none of"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: BenchOptions, says: str) -> None:
    path = matrix_product(tmp_path / "a.onnx", batch=5)
    with pytest.raises(OptionError, match=says):
        bench([path], options)


def test_an_input_that_cannot_be_drawn(tmp_path: Path) -> None:
    path = identity(tmp_path / "a.onnx", ["n", 2], TensorProto.STRING)
    with pytest.raises(OptionError, match="string"):
        bench([path], QUICK)


def test_a_missing_and_a_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no file"):
        bench([tmp_path / "a.onnx"])
    path = matrix_product(tmp_path / "a.onnx")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match="cannot read"):
        bench([path])
