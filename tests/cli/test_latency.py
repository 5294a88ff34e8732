"""``graphprune prune --of latency``: what is asked, shown and written; clocks are made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from graphprune import latency_target
from graphprune.latency import Bench, FileLatency, Interval, modelling
from graphprune.latency.layers import LayerShape
from graphprune.pipeline import pruning
from tests.cli.conftest import Run

MODEL = ("net.py:net", "--input-shape", "3,8,8", "--criterion", "l1")
LATENCY = ("--of", "latency", "--threads", "1")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file takes a second for every byte of its weights, a layer one for every weight."""

    def seconds(paths: Sequence[Path], options: object, progress: object) -> Bench:
        times = [float(_bytes_of_weights(path)) for path in paths]
        return Bench(
            tuple(
                FileLatency(path, path.stat().st_size, _exactly(time), "cpu")
                for path, time in zip(paths, times, strict=True)
            ),
            tuple(_exactly(times[0] / time) for time in times[1:]),
            1,
            1,
            "cpu",
        )

    def kernel(shape: LayerShape, *, samples: int, threads: int) -> float:
        return 4.0 * shape.entries

    monkeypatch.setattr(latency_target, "bench", seconds)
    monkeypatch.setattr(pruning, "bench", seconds)
    monkeypatch.setattr(modelling, "kernel_seconds", kernel)


def _exactly(value: float) -> Interval:
    return Interval(value, value, value, 11)


def _bytes_of_weights(path: Path) -> int:
    import onnx

    weights = onnx.load(path).graph.initializer
    return sum(4 * int(np.prod(weight.dims)) for weight in weights)


def test_asked_and_reached(run: Run, workplace: Path) -> None:
    finished = run("prune", *MODEL, "--ratio", "0.3", *LATENCY)
    assert finished.code == 0, finished.stderr
    assert "asked 30.0 % of the latency, reached" in finished.stdout
    assert "latency (ms)" in finished.stdout
    assert "as fast as original.onnx" in finished.stdout
    assert max(map(len, finished.stdout.splitlines())) <= 80
    out = workplace / "graphprune-out"
    plan = json.loads((out / "plan.json").read_text())
    before, after = plan["cost"]["before"], plan["cost"]["after"]
    assert plan["of"] == "latency"
    assert plan["reached"] == pytest.approx(1 - after["latency"] / before["latency"])
    assert plan["reached"] >= 0.28
    latency = json.loads((out / "manifest.json").read_text())["latency"]
    assert (
        latency["before"]["median"] == before["latency"] == _bytes_of_weights(out / "original.onnx")
    )
    assert latency["after"]["median"] == _bytes_of_weights(out / "pruned.onnx")
    assert (latency["threads"], latency["batch"], latency["provider"]) == (1, 1, "cpu")
    assert run("validate").code == 0


def test_dry_run_times_but_writes_nothing(run: Run, workplace: Path) -> None:
    finished = run("prune", *MODEL, "--ratio", "0.3", *LATENCY, "--dry-run", "--json")
    assert finished.code == 0, finished.stderr
    found = finished.json
    assert found["cost"]["after"]["latency"] < found["cost"]["before"]["latency"]
    assert not (workplace / "graphprune-out").exists()


def test_too_much_is_a_finding(run: Run) -> None:
    finished = run("prune", *MODEL, "--ratio", "0.99", *LATENCY)
    assert finished.code == 1
    assert "of the latency is not reachable" in finished.stderr


@pytest.mark.parametrize("option", [("--threads", "2"), ("--batch", "4")])
def test_options_of_timing_need_latency(run: Run, option: tuple[str, str]) -> None:
    finished = run("prune", *MODEL, "--ratio", "0.3", *option)
    assert finished.code == 2
    assert "--of latency" in finished.stderr


def test_other_costs_are_not_timed(run: Run, workplace: Path) -> None:
    assert run("prune", *MODEL, "--ratio", "0.3", "--of", "macs").code == 0
    out = workplace / "graphprune-out"
    assert not (out / "original.onnx").exists()
    assert json.loads((out / "manifest.json").read_text())["latency"] is None
    cost = json.loads((out / "plan.json").read_text())["cost"]
    assert set(cost["after"]) == {"units", "params", "macs"}
