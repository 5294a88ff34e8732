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


IMAGES = ("net.py:net", "--input-shape", "3,8,8", "--data", "images.npz")


def test_in_steps_the_last_is_measured_and_corrected(run: Run, workplace: Path) -> None:
    command = ("prune", *IMAGES, "--criterion", "taylor", "--ratio", "0.3", *LATENCY)
    finished = run(*command, "--steps", "2")
    assert finished.code == 0, finished.stderr
    assert "reached, the last as measured" in finished.stdout
    assert "as fast as original.onnx" in finished.stdout
    assert max(map(len, finished.stdout.splitlines())) <= 80
    out = workplace / "graphprune-out"
    plan = json.loads((out / "plan.json").read_text())
    manifest = json.loads((out / "manifest.json").read_text())
    first, last = manifest["steps"]
    assert (first["asked"], last["asked"]) == (0.15, 0.3)
    assert first["units"] < last["units"]
    assert last["reached"] == plan["reached"] >= 0.28
    assert manifest["latency"]["after"]["median"] == _bytes_of_weights(out / "pruned.onnx")
    before, after = plan["cost"]["before"]["latency"], plan["cost"]["after"]["latency"]
    assert before == _bytes_of_weights(out / "original.onnx")
    assert plan["reached"] == pytest.approx(1 - after / before)
    report = (out / "report.html").read_text()
    assert "(as predicted, and the last as measured)" in report
    assert run("validate").code == 0


def test_the_best_of_several_criteria_is_measured(run: Run, workplace: Path) -> None:
    command = ("prune", *IMAGES, "--criterion", "auto", "--ratio", "0.3", *LATENCY)
    finished = run(*command)
    assert finished.code == 0, finished.stderr
    assert "the best was then measured" in " ".join(finished.stderr.split())
    assert "as fast as original.onnx" in finished.stdout
    out = workplace / "graphprune-out"
    plan = json.loads((out / "plan.json").read_text())
    manifest = json.loads((out / "manifest.json").read_text())
    candidates = manifest["candidates"]["candidates"]
    assert len(candidates) >= 4
    # Every candidate reaches the ratio as the model predicts; the plan does as it was measured.
    assert all(each["reached"] >= 0.3 for each in candidates)
    assert plan["reached"] == pytest.approx(
        1 - _bytes_of_weights(out / "pruned.onnx") / _bytes_of_weights(out / "original.onnx")
    )
    assert plan["criterion"] == candidates[0]["criterion"]
    assert any("the best was then measured" in note for note in manifest["notes"])
    assert run("validate").code == 0


def test_both_at_once_leave_nothing_after_a_dry_run(run: Run, workplace: Path) -> None:
    command = ("prune", *IMAGES, "--criterion", "auto", "--steps", "2", "--ratio", "0.3", *LATENCY)
    finished = run(*command, "--dry-run", "--json")
    assert finished.code == 0, finished.stderr
    assert [step["asked"] for step in finished.json["steps"]] == [0.15, 0.3]
    assert finished.json["steps"][-1]["reached"] == finished.json["reached"]
    assert finished.json["candidates"]["candidates"]
    assert not (workplace / "graphprune-out").exists()


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
