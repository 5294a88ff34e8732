"""One run at a time in a folder, whatever happened to the one before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from graphprune.errors import ArtifactError
from graphprune.files import replacing
from graphprune.holding import held

HOLD = """
import sys
from pathlib import Path
from graphprune.holding import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_run(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_kept_out_and_named(tmp_path: Path) -> None:
    with another_run(tmp_path) as process:
        with pytest.raises(
            ArtifactError, match=rf"another run .* \(process {process.pid} on "
        ) as e:
            held(tmp_path).__enter__()
        assert "--out" in str(e.value.hint)


def test_a_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    with another_run(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with held(tmp_path):
            assert f"process {os.getpid()}" in (tmp_path / ".lock").read_text()


def test_a_second_run_of_one_process_is_kept_out(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(ArtifactError, match="another run"), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_a_folder_that_nothing_was_written_into_is_gone(tmp_path: Path) -> None:
    with held(tmp_path / "new"):
        pass
    assert list(tmp_path.iterdir()) == []
    with held(tmp_path / "new"):
        (tmp_path / "new" / "result").touch()
    assert (tmp_path / "new" / "result").exists()


def test_half_written_files_go_and_others_stay(tmp_path: Path) -> None:
    with replacing(tmp_path / "ranking.json") as temporary:
        left = temporary.with_name(temporary.name)
        left.write_text("half")
        copied = tmp_path / temporary.name.replace("ranking", "plan")
        copied.write_text("half")
    others = [".env", ".notes-2024.tmp", ".gitignore", "a-12345678.tmp.json"]
    for name in others:
        (tmp_path / name).touch()
    with held(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {*others, ".lock", "ranking.json"}


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(victim)
    with pytest.raises(ArtifactError, match="cannot write"), held(tmp_path / "run"):
        pass
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("what", ["a file", "a folder for the lock"])
def test_what_cannot_be_held(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "run"
    if what == "a file":
        folder.touch()
    else:
        (folder / ".lock").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="cannot write"), held(folder):
        pass
