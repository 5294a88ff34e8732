"""``torchrun -m graphprune_cli rank`` finds what one process finds, whatever happens to ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from graphprune_cli.__main__ import app
from tests.distributed.launching import RANK, TORCHRUN, pid_of_rank, start

QUICK = ("model.pt", "--data", "images.npz", "--limit", "8", "--seed", "3")
LONG = ("model.pt", "--data", "images.npz", "--game", "network", "--budget", "3000")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pickled network and images, as a user would have them."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 12, 3), torch.nn.BatchNorm2d(12), torch.nn.ReLU()]
    more = [torch.nn.Conv2d(12, 10, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)]
    head = [torch.nn.Flatten(), torch.nn.Linear(10, 5)]
    torch.save(torch.nn.Sequential(*layers, *more, *head).eval(), tmp_path / "model.pt")
    generator = np.random.default_rng(0)
    images = generator.standard_normal((64, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "images.npz", x=images)
    return tmp_path


def finished(*command: str, cwd: Path) -> tuple[int, str, str]:
    process = start(*command, cwd=cwd)
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, stderr


def ranked(out: str, cwd: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads((cwd / out / "ranking.json").read_text())
    return document


def test_two_ranks_find_what_one_finds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = start(*TORCHRUN, *RANK, *QUICK, "--out", "two", "--json", cwd=folder)
    monkeypatch.chdir(folder)
    one = CliRunner().invoke(app, ["rank", *QUICK, "--out", "one"])
    assert one.exit_code == 0, one.stderr
    stdout, stderr = two.communicate(timeout=120)
    assert two.returncode == 0, stderr
    assert ranked("two", folder) == ranked("one", folder)
    assert json.loads(stdout)["ranking"] == "two/ranking.json"  # one document, of one rank
    assert {path.name for path in (folder / "two").iterdir()} == {".lock", "ranking.json"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--game", "group", "--until-stable", "0.9"),
        ("--game", "group", "--estimator", "owen", "--budget", "20"),
        ("--game", "hierarchical", "--budget", "5"),
        ("--until-stable", "0.8"),
    ],
)
def test_every_game_is_the_same_on_two_ranks(
    options: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = start(*TORCHRUN, *RANK, *QUICK, *options, "--out", "two", cwd=folder)
    monkeypatch.chdir(folder)
    one = CliRunner().invoke(app, ["rank", *QUICK, *options, "--out", "one"])
    assert one.exit_code == 0, one.stderr
    _, stderr = two.communicate(timeout=120)
    assert two.returncode == 0, stderr
    assert ranked("two", folder) == ranked("one", folder)


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--criterion", "tailor"), ("--budgit", "3")])
def test_one_rank_reports_a_misspelt_option(folder: Path, options: tuple[str, ...]) -> None:
    code, stdout, stderr = finished(*TORCHRUN, *RANK, *QUICK, *options, cwd=folder)
    assert code != 0
    assert stdout == ""
    said = "criterion 'tailor' is none of" if "--criterion" in options else "No such option"
    assert stderr.count(said) == 1
    assert not (folder / "graphprune-out").exists()


@pytest.mark.slow
def test_ranks_of_other_data_are_refused(folder: Path) -> None:
    (folder / "own.py").write_text(
        "import os\nimport torch\n\n\ndef images():\n"
        "    torch.manual_seed(int(os.environ.get('RANK', 0)))\n"
        "    return torch.randn(8, 3, 16, 16)\n"
    )
    command = ("model.pt", "--data", "own.py:images")
    code, _, stderr = finished(*TORCHRUN, *RANK, *command, cwd=folder)
    assert code != 0
    said = "error: the calibration data of rank 1 differs from that of rank 0"
    assert stderr.count(said) == 1, stderr


@pytest.mark.slow
def test_prune_ranks_together_and_goes_on_alone(folder: Path) -> None:
    prune = ("-m", "graphprune_cli", "prune", *QUICK, "--ratio", "0.3", "--json")
    code, stdout, stderr = finished(*TORCHRUN, *prune, "--out", "two", cwd=folder)
    assert code == 0, stderr
    document = json.loads(stdout)
    assert document["manifest"]["validation"]["ok"]
    assert finished(sys.executable, *prune, "--out", "one", cwd=folder)[0] == 0
    assert ranked("two", folder) == ranked("one", folder)


SEARCHES = {
    "steps": ("--limit", "24", "--ratio", "0.4", "--of", "macs", "--steps", "2"),
    "auto": ("--limit", "40", "--ratio", "0.4", "--of", "macs", "--criterion", "auto"),
    "weighing": ("--limit", "24", "--ratio", "0.4", "--of", "macs"),
    "exchange": ("--limit", "24", "--ratio", "0.4", "--of", "macs", "--repair", "none"),
}


@pytest.mark.slow
@pytest.mark.parametrize("search", SEARCHES)
def test_every_search_for_a_plan_is_the_same_on_two_ranks(folder: Path, search: str) -> None:
    command = ("model.pt", "--data", "images.npz", "--seed", "3", *SEARCHES[search])
    found = {}
    for out, launcher in (("two", TORCHRUN), ("one", (sys.executable,))):
        prune = (*launcher, "-m", "graphprune_cli", "prune", *command, "--out", out)
        code, _, stderr = finished(*prune, cwd=folder)
        assert code == 0, stderr
        found[out] = {
            name: json.loads((folder / out / f"{name}.json").read_text())
            for name in ("plan", "ranking", "manifest")
        }
    one, two = found["one"], found["two"]
    assert two["plan"] == one["plan"]
    assert two["ranking"] == one["ranking"]
    searched = {"auto": "candidates"}.get(search, search)
    assert two["manifest"][searched] == one["manifest"][searched]
    assert two["manifest"][searched]  # it was searched
    assert two["manifest"]["validation"]["ok"]


@pytest.mark.slow
def test_one_rank_times_for_all(folder: Path) -> None:
    """Clocks differ from run to run, so that plans may; ranks that disagreed would wait forever."""
    wide = [torch.nn.Conv2d(3, 64, 3), torch.nn.ReLU(), torch.nn.Conv2d(64, 64, 3), torch.nn.ReLU()]
    head = [torch.nn.Conv2d(64, 5, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    torch.save(torch.nn.Sequential(*wide, *head).eval(), folder / "wide.pt")
    options = ("--limit", "24", "--ratio", "0.3", "--of", "latency", "--steps", "2")
    prune = ("-m", "graphprune_cli", "prune", "wide.pt", "--data", "images.npz", *options)
    code, stdout, stderr = finished(*TORCHRUN, *prune, "--threads", "1", "--json", cwd=folder)
    assert code == 0, stderr
    document = json.loads(stdout)
    assert document["reached"] >= 0.28
    assert len(document["manifest"]["steps"]) == 2
    assert document["manifest"]["latency"]["threads"] == 1
    assert document["manifest"]["validation"]["ok"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes in /proc")
@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("launcher", [TORCHRUN, (sys.executable,)], ids=["torchrun", "alone"])
def test_a_killed_rank_leaves_what_was_found(
    folder: Path, launcher: tuple[str, ...], killed: int
) -> None:
    whole = start(sys.executable, *RANK, *LONG, "--out", "whole", cwd=folder)
    launched = start(*TORCHRUN, *RANK, *LONG, cwd=folder)
    state = folder / "graphprune-out" / "rank-state.npz"
    kill_when_there(state, launched, killed)
    _, stderr = launched.communicate(timeout=60)
    assert launched.returncode != 0
    assert stderr.count("error: another rank was lost") + stderr.count("error: ended") == 1, stderr
    assert "--resume" in stderr
    assert state.exists()
    assert not state.with_name("ranking.json").exists()
    code, _, stderr = finished(*launcher, *RANK, *LONG, "--resume", cwd=folder)
    assert code == 0, stderr
    whole.communicate(timeout=120)
    assert ranked("graphprune-out", folder) == ranked("whole", folder)
    assert not state.exists()


def kill_when_there(path: Path, launched: subprocess.Popen[str], rank: int) -> None:
    while not path.exists():
        assert launched.poll() is None, "it ended before it wrote its state: make it longer"
        time.sleep(0.02)
    os.kill(pid_of_rank(launched, rank), signal.SIGKILL)
