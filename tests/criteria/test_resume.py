"""A ranking that is killed and taken up is the ranking that it would have been."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphprune.checkpoint import StateStore
from graphprune.criteria import rank
from graphprune.data import CalibrationBatches, as_batches
from graphprune.errors import ArtifactError
from graphprune.game import evaluation
from graphprune.graph import DependencyGraph
from graphprune.ranking import Ranking
from tests.helpers import batch_of
from tests.traced import traced

RUNS = [
    {"criterion": "shapley", "budget": 4},
    {"criterion": "shapley-paper", "estimator": "permutation"},
    {"criterion": "shapley", "game": "group"},
]


@pytest.fixture(scope="module")
def graph() -> DependencyGraph:
    return traced("PaddedShortcut")


@pytest.fixture(scope="module")
def data(graph: DependencyGraph) -> CalibrationBatches:
    (x,) = batch_of(graph.example_inputs, 5, 0)
    return as_batches((x, torch.tensor([0, 4, 2, 1, 1])))


def resumed(
    graph: DependencyGraph, data: CalibrationBatches, path: Path, steps: int, **run: Any
) -> tuple[Ranking, int]:
    """Kill a ranking after every so many steps, until it ends; count how often it ran."""
    runs = 0
    while True:
        runs += 1
        left = steps

        def kill(stage: str, done: int, total: int) -> None:
            nonlocal left
            left -= 1
            if not left and done < total:
                raise KeyboardInterrupt

        store = StateStore(path=path, model="hash", resume=True, every=0)
        try:
            return rank(graph, data, seed=3, store=store, progress=kill, **run), runs
        except KeyboardInterrupt:
            continue


@pytest.mark.parametrize("run", RUNS)
def test_the_same_to_the_last_bit(
    run: dict[str, Any],
    graph: DependencyGraph,
    data: CalibrationBatches,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "MAX_BATCH", 2)
    expected = rank(graph, data, seed=3, **run)
    found, runs = resumed(graph, data, tmp_path / "rank-state.npz", 3, **run)
    assert runs >= 3
    np.testing.assert_array_equal(found.scores, expected.scores)
    for one, other in zip(found.groups, expected.groups, strict=True):
        np.testing.assert_array_equal(one.stderr, other.stderr)
    assert (found.evaluations, found.estimator) == (expected.evaluations, expected.estimator)


def test_a_finished_group_is_not_played_again(
    graph: DependencyGraph, data: CalibrationBatches, tmp_path: Path
) -> None:
    path = tmp_path / "rank-state.npz"
    seen: list[str] = []

    def kill(stage: str, done: int, total: int) -> None:
        seen.append(stage)
        if stage.startswith(graph.groups[2].name):
            raise KeyboardInterrupt

    store = StateStore(path=path, model="hash", every=0)
    with pytest.raises(KeyboardInterrupt):
        rank(graph, data, game="group", store=store, progress=kill)
    first, seen[:] = list(seen), []
    again = StateStore(path=path, model="hash", resume=True, every=0)
    rank(
        graph, data, game="group", store=again, progress=lambda stage, *_counts: seen.append(stage)
    )
    assert {stage.split(":")[0] for stage in first} == {group.name for group in graph.groups[:3]}
    played = {stage.split(":")[0] for stage in seen}
    assert graph.groups[0].name not in played
    assert graph.groups[1].name not in played
    assert graph.groups[3].name in played


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 4}, "seed was 3 and is 4"),
        ({"value": "cross-entropy"}, "value was None and is cross-entropy"),
        ({"budget": 5}, "budget was 4 and is 5"),
        ({"criterion": "shapley-paper"}, "criterion was shapley and is shapley-paper"),
        ({"model": "other"}, "the model has changed"),
        ({"data": True}, "the calibration data have changed"),
    ],
)
def test_another_run_is_refused(
    change: dict[str, Any],
    reason: str,
    graph: DependencyGraph,
    data: CalibrationBatches,
    tmp_path: Path,
) -> None:
    path = tmp_path / "rank-state.npz"
    rank(
        graph, data, budget=4, seed=3, store=StateStore(path=path, model="hash", every=0)
    )  # never cleared
    before = path.read_bytes()
    options = {"criterion": "shapley", "budget": 4, "seed": 3, **change}
    store = StateStore(path=path, model=options.pop("model", "hash"), resume=True)
    images = data.head(4) if options.pop("data", False) else data
    with pytest.raises(ArtifactError, match=reason):
        rank(graph, images, store=store, **options)
    assert path.read_bytes() == before


def test_other_protected_groups_are_no_other_run(
    graph: DependencyGraph, data: CalibrationBatches, tmp_path: Path
) -> None:
    path = tmp_path / "rank-state.npz"
    first = rank(graph, data, store=StateStore(path=path, model="hash", every=0))
    store = StateStore(path=path, model="hash", resume=True)
    again = rank(graph, data, skip=["b2"], store=store)
    np.testing.assert_array_equal(again.scores, first.scores)
    assert again.protected


def test_criteria_that_take_no_time_keep_no_state(
    graph: DependencyGraph, data: CalibrationBatches, tmp_path: Path
) -> None:
    for name in ("l1", "taylor"):
        store = StateStore(path=tmp_path / "rank-state.npz", model="hash", every=0)
        rank(graph, data, criterion=name, store=store)
    assert not list(tmp_path.iterdir())


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import torch
from graphprune.checkpoint import StateStore
from graphprune.criteria import rank
from graphprune.data import synthetic
from tests.traced import traced

torch.set_num_threads(1)
state, result = map(Path, sys.argv[1:])
data = synthetic(((3, 8, 8),), n_images=100, dtype=torch.float64, seed=1)
store = StateStore(path=state, model="hash", resume=True, every=0.02)
ranking = rank(traced("PaddedShortcut"), data, budget=100, store=store)
np.save(result, ranking.scores)
"""


@pytest.mark.slow
def test_kill_9(tmp_path: Path) -> None:
    """Killed whenever its state has changed a few times, a process ends with the same scores."""

    def start(name: str) -> subprocess.Popen[bytes]:
        arguments = [sys.executable, "-c", SCRIPT, tmp_path / name / "state.npz"]
        (tmp_path / name).mkdir(exist_ok=True)
        return subprocess.Popen([*map(str, arguments), str(tmp_path / f"{name}.npy")])

    assert start("whole").wait() == 0
    kills, state = 0, tmp_path / "killed" / "state.npz"
    while not (tmp_path / "killed.npy").exists():
        process, written = start("killed"), stamp(state)
        while process.poll() is None and kills < 4:
            if stamp(state) != written:
                time.sleep(0.1)
                process.kill()
                kills += 1
                break
            time.sleep(0.005)
        assert process.wait() in (0, -9)
    assert kills >= 2
    found, expected = (np.load(tmp_path / f"{name}.npy") for name in ("killed", "whole"))
    np.testing.assert_array_equal(found, expected)


def stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
