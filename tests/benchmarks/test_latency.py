"""benchmarks/latency.py on a tiny network, with clocks made up for the purpose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import graphprune as gp
from benchmarks import latency
from graphprune.cost import LatencyModel
from graphprune.latency import Bench, FileLatency, Interval
from graphprune.latency_target import ReachedLatency


def by_size(paths: list[Path], *_: object) -> Bench:
    """Return a bench in which a file takes a second for every byte."""

    def exactly(value: float) -> Interval:
        return Interval(value, value, value, 11)

    times = [float(Path(path).stat().st_size) for path in paths]
    files = tuple(
        FileLatency(Path(path), 1, exactly(time), "cpu")
        for path, time in zip(paths, times, strict=True)
    )
    return Bench(files, tuple(exactly(times[0] / t) for t in times[1:]), 1, 1, "cpu")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 32, 3), nn.Conv2d(32, 4, 3))
    inputs = (torch.randn(2, 3, 12, 12),)
    monkeypatch.setattr(latency, "_network", lambda name, options: (model.eval(), inputs))
    monkeypatch.setattr(gp, "bench", by_size, raising=False)

    def model_of(graph: object, original: Path, *_: object) -> LatencyModel:
        gp.export_onnx(gp.prune(graph, gp.select(ranking_of(graph), ratio=0)), original)
        return LatencyModel(terms=(), widths={}, threads=1, batch=1)

    def reach(graph: object, ratio: float, choose: object, original: Path, *_: object) -> object:
        plan = gp.select(ranking_of(graph), ratio=0.6, of="macs", scope="group")
        return ReachedLatency(plan=plan, bench=by_size([original]), tries=1)

    monkeypatch.setattr(latency, "latency_model", model_of)
    monkeypatch.setattr(latency, "reach_latency", reach)
    out = tmp_path / "latency.json"
    assert latency.main(["--networks", "tiny", "--out", str(out)]) == 0
    return out


def ranking_of(graph: object) -> gp.Ranking:
    return gp.rank(graph, criterion="l2")


def test_every_way_to_cut_is_a_row(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(results.read_text())["results"]
    assert [row["plan"] for row in rows] == [
        "unpruned",
        "50% of the latency",
        "50% of the MACs",
        "the same, `--round-to 16`",
    ]
    assert rows[0]["macs"] == 0
    assert all(row["macs"] >= 0.5 and row["speedup"][0] > 1 for row in rows[1:])
    capsys.readouterr()
    assert latency.main(["--out", str(results), "--table", "--markdown"]) == 0
    table = capsys.readouterr().out
    assert "| tiny | unpruned |" in table
    assert "| network | asked for | MACs removed |" in table
