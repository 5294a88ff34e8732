"""``graphprune bench``: results, errors and exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.latency.files import identity, matrix_product


def test_two_files_as_a_process(run_process: Run, workplace: Path) -> None:
    matrix_product(workplace / "a.onnx", 64)
    matrix_product(workplace / "b.onnx", 8)
    finished = run_process("bench", "a.onnx", "b.onnx", "--runs", "5", "--threads", "1", "--json")
    assert finished.code == 0, finished.stderr
    found = finished.json
    assert [file["path"] for file in found["files"]] == ["a.onnx", "b.onnx"]
    for file in found["files"]:
        seconds = file["seconds"]
        assert 0 < seconds["low"] <= seconds["median"] <= seconds["high"]
        assert (seconds["n"], file["provider"]) == (5, "cpu")
    assert found["speedup"]["low"] <= found["speedup"]["median"] <= found["speedup"]["high"]
    assert (found["threads"], found["batch"], found["provider"]) == (1, 1, "auto")
    assert "onnxruntime" in " ".join(found["versions"])


def test_people_see_a_table(run: Run, workplace: Path) -> None:
    matrix_product(workplace / "a.onnx")
    matrix_product(workplace / "b.onnx")
    finished = run("bench", "a.onnx", "b.onnx", "--runs", "3", "--batch", "2", "--threads", "1")
    assert finished.code == 0
    assert "as fast as the first" in finished.stdout
    assert "threads: 1, batch: 2, provider: asked for auto, used cpu" in finished.stdout
    assert max(map(len, finished.stdout.splitlines())) <= 80


def test_one_file_has_no_ratio(run: Run, workplace: Path) -> None:
    matrix_product(workplace / "a.onnx")
    assert run("bench", "a.onnx", "--runs", "3", "--json").json["speedup"] is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "Missing argument"),
        (("missing.onnx",), "there is no file missing.onnx"),
        (("images.npz",), "onnxruntime cannot read images.npz"),
        (("a.onnx", "a.onnx", "a.onnx"), "3 files"),
        (("open.onnx",), "does not say how long dim 1 of input x is"),
        (("a.onnx", "--provider", "tpu"), "provider 'tpu' is none of"),
        (("a.onnx", "--seconds", "0"), "is no time"),
        (("a.onnx", "--input-shape", "4,x"), "not a list of positive whole numbers"),
        (("a.onnx", "--input-shape", "5"), "fixes dim 1 of input x to 4"),
    ],
)
def test_bad_input(run: Run, workplace: Path, arguments: tuple[str, ...], says: str) -> None:
    matrix_product(workplace / "a.onnx")
    identity(workplace / "open.onnx", ["n", "length"])
    finished = run("bench", *arguments)
    assert finished.code == 2, finished.stdout
    assert says in " ".join(finished.stderr.replace("│", " ").split())


def test_another_provider_than_asked_for_is_a_finding(run: Run, workplace: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("cuda is here")
    matrix_product(workplace / "a.onnx")
    finished = run("bench", "a.onnx", "--runs", "3", "--provider", "cuda")
    assert finished.code == 1
    assert "asked for cuda, used cpu" in finished.stdout
