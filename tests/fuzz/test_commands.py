"""What people see of bad files and bad disks: a sentence, exit 2, and their files as they were."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from typer.testing import CliRunner

from graphprune_cli.__main__ import app
from tests.cli.conftest import FACTORY
from tests.fuzz.permissions import as_nobody
from tests.load.helpers import Touch, saved

MODEL = ("net.py:net", "--input-shape", "3,8,8")
PRUNE = ("prune", *MODEL, "--criterion", "l1", "--repair", "none", "-q")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a network that everybody may enter, and where commands run."""
    monkeypatch.setenv("NO_COLOR", "1")
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "net.py").write_text(FACTORY)
        monkeypatch.chdir(folder)
        yield folder
        monkeypatch.undo()


def fails(*arguments: str, says: str) -> None:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 2, done.output
    assert says in " ".join(done.stderr.split())
    assert "internal error" not in done.stderr
    assert "Traceback" not in done.output


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_a_malicious_model_runs_with_trust_only(place: Path) -> None:
    canary = place / "canary"
    (place / "model.pt").write_bytes(saved(Touch(canary)))
    for command in (("inspect",), ("rank",), ("prune", "--ratio", "0.3")):
        fails(command[0], "model.pt", *command[1:], says="--trust")
    fails("rank", *MODEL, "--weights", "model.pt", says="--trust")
    assert not canary.exists()
    fails("rank", "model.pt", "--trust", says="not a torch.nn.Module")
    assert canary.exists()


@contextmanager
def disk_with(free: int) -> Iterator[None]:
    """Let no file grow beyond a size, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_files(place: Path) -> None:
    assert CliRunner().invoke(app, [*PRUNE, "--ratio", "0.2"]).exit_code == 0
    out = place / "graphprune-out"
    before = contents(out)
    assert len(before) == 6
    for free in (0, 200, 3_000, 9_000):
        assert any(len(content) > free for content in before.values())
        with disk_with(free):
            fails(*PRUNE, "--ratio", "0.5", says="cannot write")
        assert contents(out) == before


def test_a_full_disk_leaves_nothing_behind(place: Path) -> None:
    with disk_with(0):
        fails("rank", *MODEL, "--criterion", "l1", says="cannot write")
    assert not (place / "graphprune-out").exists()


def test_a_folder_that_may_not_be_written(place: Path) -> None:
    assert CliRunner().invoke(app, [*PRUNE, "--ratio", "0.2"]).exit_code == 0
    out = place / "graphprune-out"
    before = contents(out)
    out.chmod(0o555)
    with as_nobody():
        fails(*PRUNE, "--ratio", "0.5", says="cannot write")
        fails("rank", *MODEL, "--criterion", "l1", says="cannot write")
        assert CliRunner().invoke(app, ["validate", "-q", "--trust"]).exit_code == 0
    out.chmod(0o755)
    assert contents(out) == before


def test_a_folder_that_may_not_be_entered(place: Path) -> None:
    (place / "closed").mkdir(mode=0)
    with as_nobody():
        fails(*PRUNE, "--ratio", "0.5", "--out", "closed", says="Permission denied")
        fails("validate", "closed", says="Permission denied")
        fails("validate", "closed/a.pt2", "closed/a.onnx", says="Permission denied")
        fails("bench", "closed/a.onnx", says="Permission denied")
        fails("rank", *MODEL, "--data", "closed/x.npz", says="Permission denied")
        fails("prune", "--ratio", "0.5", "--ranking", "closed/r.json", says="Permission denied")
    (place / "closed").chmod(0o755)


@pytest.mark.parametrize("kind", ["model", "data"])
def test_names_that_no_disk_has(place: Path, kind: str) -> None:
    name = "x" * 5000
    if kind == "model":
        fails("rank", f"{name}.pt", says="File name too long")
    else:
        fails("rank", *MODEL, "--data", f"{name}.npz", says="File name too long")
