"""The run folder: one run at a time, and after a death the old files or the new ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from graphprune.artifacts import RunFolder
from graphprune.holding import held
from graphprune.staging import staging_of
from tests.cli.conftest import Run

MODEL = ("net.py:net", "--input-shape", "3,8,8")
PRUNE = ("prune", *MODEL, "--criterion", "l1", "-q")

# Forks for every death, so that torch is imported once.
DEATHS = """
import json, os, signal, sys
from pathlib import Path
from typer.testing import CliRunner
from graphprune_cli.__main__ import app
import graphprune.pipeline.pruning

sys.path.insert(0, "")
arguments, out = sys.argv[1:], Path("graphprune-out")


def prune():
    return CliRunner().invoke(app, arguments).exit_code


def dying(owner, name, left):
    real = getattr(owner, name)

    def change(*arguments, **options):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return real(*arguments, **options)

    setattr(owner, name, change)


def hashes():
    from graphprune.artifacts import ManifestFile, RunFolder, read
    folder = RunFolder(out)
    return folder.hashes(), read(folder.manifest, ManifestFile).hashes


def outcome(step):
    child = os.fork()
    if child == 0:
        left = [step]
        for name in ("touch", "rename", "replace", "unlink"):
            dying(Path, name, left)
        os._exit(prune())
    status = os.waitpid(child, 0)[1]
    from graphprune.artifacts import RunFolder
    from graphprune.pipeline.holding import settle
    settle(RunFolder(out))
    found, vouched = hashes()
    return {
        "killed": os.WIFSIGNALED(status),
        "whole": found == vouched,
        "plan": found["plan.json"],
    }


found = [outcome(0)]
while found[-1]["killed"]:
    found.append(outcome(len(found)))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_death_at_any_change_of_a_file_leaves_one_whole_run(run: Run, workplace: Path) -> None:
    assert run(*PRUNE, "--ratio", "0.2").code == 0
    old = RunFolder(workplace / "graphprune-out").hashes()["plan.json"]
    done = subprocess.run(
        [sys.executable, "-c", DEATHS, *PRUNE, "--ratio", "0.5"],
        cwd=workplace,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert len(outcomes) > 10
    assert all(outcome["whole"] for outcome in outcomes)
    news = [outcome["plan"] != old for outcome in outcomes]
    assert news == sorted(news)
    assert {True, False} == set(news)
    assert run("validate", "-q").code == 0


def test_a_run_that_fails_late_leaves_the_old_files(
    run: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(workplace / "graphprune-out")
    assert run(*PRUNE, "--ratio", "0.2").code == 0
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}

    def fail(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr("graphprune.pipeline.pruning.write_report", fail)
    assert run(*PRUNE, "--ratio", "0.5").code == 2
    after = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in before if name != ".lock")


def test_an_interrupted_commit_is_finished_by_validate(run: Run, workplace: Path) -> None:
    folder = RunFolder(workplace / "graphprune-out")
    assert run(*PRUNE, "--ratio", "0.2").code == 0
    plan = folder.plan.read_bytes()
    moved = folder.path / ".commit"
    moved.mkdir()
    folder.plan.rename(moved / "plan.json")
    folder.manifest.rename(moved / "manifest.json")
    assert run("validate", "-q").code == 0
    assert folder.plan.read_bytes() == plan
    assert not moved.exists()


def test_files_of_two_runs_are_noticed(run: Run, workplace: Path) -> None:
    folder = RunFolder(workplace / "graphprune-out")
    assert run(*PRUNE, "--ratio", "0.2").code == 0
    manifest = folder.manifest.read_bytes()
    assert run(*PRUNE, "--ratio", "0.5").code == 0
    folder.manifest.write_bytes(manifest)
    finished = run("validate", "-q")
    assert finished.code == 2
    assert "not the file that manifest.json vouches for" in " ".join(finished.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("rank", *MODEL, "--criterion", "l1"),
        (*PRUNE, "--ratio", "0.2"),
        ("compare", *MODEL, "--data", "images.npz", "--criteria", "l1", "--ratios", "0.2"),
        ("demo",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_two_runs_in_one_folder(run: Run, workplace: Path, arguments: tuple[str, ...]) -> None:
    out = workplace / "busy"
    with held(out):
        finished = run(*arguments, "--out", "busy")
        assert finished.code == 2
        assert "another run is at work in busy (process" in " ".join(finished.stderr.split())
        assert [path.name for path in out.iterdir()] == [".lock"]


def test_nothing_is_held_to_say_what_would_happen(run: Run, workplace: Path) -> None:
    with held(workplace / "busy"):
        assert run("rank", *MODEL, "--dry-run", "--out", "busy").code == 0
    assert not (workplace / "busy").exists()


def test_a_folder_of_a_run_may_be_a_link(run: Run, workplace: Path) -> None:
    (workplace / "disk").mkdir()
    (workplace / "graphprune-out").symlink_to(workplace / "disk")
    assert run(*PRUNE, "--ratio", "0.2").code == 0
    assert (workplace / "disk" / "manifest.json").exists()
    assert not staging_of(workplace / "disk").exists()


@pytest.mark.parametrize("again", [(*PRUNE, "--ratio", "0.2"), ("validate", "-q")])
def test_what_showed_an_old_difference_is_removed(
    run: Run, workplace: Path, again: tuple[str, ...]
) -> None:
    assert run(*PRUNE, "--ratio", "0.3").code == 0
    old = RunFolder(workplace / "graphprune-out").divergence
    old.mkdir()
    (old / "submodel.onnx").touch()
    assert run(*again).code == 0
    assert not old.exists()
