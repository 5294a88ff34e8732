"""benchmarks/coverage.py as it is run: one small network, both tools, and the page made of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NETWORK = "torchvision:squeezenet1_1"


def run(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "coverage.py"), "--out", str(out), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("coverage") / "coverage.jsonl"
    run(out, "--only", NETWORK)
    return out


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def row_of(results: Path) -> dict[str, Any]:
    (line,) = results.read_text().splitlines()
    row: dict[str, Any] = json.loads(line)
    return row


def test_row(results: Path) -> None:
    row = row_of(results)
    assert (row["name"], row["status"], row["stage"]) == (NETWORK, "exact", "done")
    # The stem, and of each of 8 fire modules the squeezing and both expanding convolutions.
    assert row["groups"] == 1 + 8 * 3
    assert row["units"] == 64 + sum(
        squeezed + 2 * expanded
        for squeezed, expanded in ((16, 64), (32, 128), (48, 192), (64, 256))
        for _ in range(2)
    )
    assert row["pins"] == {"output of the network": 1000}
    assert row["reached"] == row["asked"] >= 0.29 * row["units"]
    assert 0 < row["params_left"] < row["read_params"] == row["params"]
    # Pruning did change the output; masked, pruned and zeroed networks agree about how.
    assert row["moved"] > 1e-3
    assert max(row["intact_error"], row["masked_error"], row["zeroed_error"]) <= 1e-9


def test_torch_pruning_is_right_here(results: Path) -> None:
    told = row_of(results)["torch_pruning"]
    assert told["status"] == "right"
    assert 0.1 < told["params_removed"] < 0.6


def test_share_of_the_prunable_parameters(results: Path) -> None:
    # Of all weights only the biases of the last convolution lie in no unit's slice.
    assert row_of(results)["share"] == pytest.approx(1 - 1000 / 1_235_496, abs=1e-5)


def test_what_is_there_is_not_run_again(results: Path) -> None:
    before = results.read_text()
    assert not run(results, "--only", NETWORK).stderr
    assert results.read_text() == before


def test_page(results: Path) -> None:
    from zoo.table import page

    failed = {
        "name": "timm:none_such",
        "status": "refused",
        "stage": "trace",
        "error": "no|rule",
        "torch_pruning": {"status": "failed", "stage": "run", "params_removed": 0.3},
    }
    text = page([row_of(results), failed])
    assert "| **all** | 2 | 1 (50.0%) | 1 (50.0%) |" in text
    assert "- `timm:none_such`: refused (trace): no\\|rule" in text
    assert "| squeezenet1_1 |  | right, 43% | 1.24 M |" in text
    assert "| none_such | **refused**: no\\|rule | pruned network fails |" in text


def test_all_families_are_there() -> None:
    from zoo.catalogue import networks
    from zoo.names import ONNX_SUBSET

    keys = [network.key for network in networks()]
    assert len(keys) == len(set(keys))
    assert sum(key.startswith("timm:") for key in keys) >= 125
    assert len(ONNX_SUBSET) == 25
    assert set(keys) >= ONNX_SUBSET


def test_slices_that_torch_pruning_removed_are_read_off_the_weights() -> None:
    from zoo.rival import lost

    before = {"weight": torch.randn(6, 5, 3), "bias": torch.randn(6)}
    after = {
        "weight": before["weight"][[0, 2, 3, 5]][:, [1, 2, 4]],
        "bias": before["bias"][[0, 2, 3, 5]],
    }
    assert lost(before, after) == {"weight": {0: (1, 4), 1: (0, 3)}, "bias": {0: (1, 4)}}
    assert lost(before, {"weight": torch.randn(4, 3, 3)}) is None


def test_constant_tensors_become_random() -> None:
    from zoo.catalogue import randomize

    model = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    nn.init.zeros_(model[1].weight)
    randomize(model)
    for tensor in (*model.parameters(), model[0].running_mean, model[0].running_var):
        assert tensor.unique().numel() == tensor.numel()
    assert (model[0].running_var > 0).all()
