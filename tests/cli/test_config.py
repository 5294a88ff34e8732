"""Options from a file, the file that repeats a run, and what shells and terminals get."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from graphprune_cli.__main__ import app
from tests.cli.conftest import Run

PRUNE = """
[rank]
model = "net.py:net"

[prune]
model = "net.py:net"
input-shape = ["3,8,8"]
criterion = "l1"
repair = "none"
ratio = 0.1
skip = ["stem*"]
quiet = true
"""


def says(run: Run, *arguments: str) -> str:
    finished = run(*arguments)
    assert finished.code == 2, finished.stdout
    return " ".join(finished.stderr.split())


def test_options_come_from_the_folder_and_the_command_line_wins(run: Run, workplace: Path) -> None:
    (workplace / "graphprune.toml").write_text(PRUNE)
    finished = run("prune", "--dry-run", "--json", "--ratio", "0.2")
    document = finished.json
    assert document["asked"] == 0.2
    removed = {group["name"]: group["removed_units"] for group in document["groups"]}
    assert removed["stem.weight"] == []
    assert any(removed.values())


def test_a_run_writes_the_file_that_repeats_it(run: Run, workplace: Path) -> None:
    typed = ("prune", "net.py:net", "--input-shape", "3,8,8", "--criterion", "l1", "--ratio", "0.3")
    assert run(*typed, "--repair", "none", "-q", "--write-config", "again.toml").code == 0
    first = (workplace / "graphprune-out" / "plan.json").read_bytes()
    table = tomllib.loads((workplace / "again.toml").read_text())
    assert table == {
        "prune": {
            "model": "net.py:net", "input-shape": ["3,8,8"], "criterion": "l1", "ratio": 0.3,
            "repair": "none", "quiet": True,
        }
    }  # fmt: skip
    assert run("prune", "--config", "again.toml", "--out", "second").code == 0
    assert (workplace / "second" / "plan.json").read_bytes() == first
    recorded = json.loads((workplace / "second" / "manifest.json").read_text())["argv"]
    assert {"net.py:net", "--ratio", "0.3", "--quiet", "--out", "second"} <= set(recorded)


def test_a_note_says_where_options_come_from(run: Run, workplace: Path) -> None:
    (workplace / "graphprune.toml").write_text('[rank]\nseed = 1\n[prune]\nratio = "x"\n')
    arguments = ("net.py:net", "--input-shape", "3,8,8", "--dry-run")
    assert "options from graphprune.toml" in run("rank", *arguments).stderr
    assert "options from" not in run("inspect", *arguments[:-1]).stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[prune]\nration = 0.3", "did you mean ratio?"),
        ("[prun]\nratio = 0.3", "did you mean prune?"),
        ("ratio = 0.3", "the table [ratio] is unknown"),
        ("prune = 3", "prune is no table"),
        ("[prune]\nskip = 'stem'", "should be a list"),
        ("[prune]\nquiet = 1", "should be true or false"),
        ("[prune]\nratio = [1]", "should be a text or a number"),
        ("[prune]\nratio = 'much'", "'--ratio'"),
        ("[prune]\ntrust = true", "trust is given on the command line only"),
        ("[prune]\nconfig = 'other.toml'", "the key config"),
        ("[prune", "is no TOML"),
        ("a = " + "[" * 5000, "is no TOML"),
        ("\x00", "is no TOML"),
    ],
)
def test_bad_files(run: Run, workplace: Path, text: str, message: str) -> None:
    (workplace / "graphprune.toml").write_text(text)
    assert message in says(run, "prune", "net.py:net", "--input-shape", "3,8,8")


def test_files_that_cannot_be_read(run: Run, workplace: Path) -> None:
    assert "cannot read none.toml" in says(run, "doctor", "--config", "none.toml")
    (workplace / "raw.toml").write_bytes(b"\xff\xfe")
    assert "is no TOML" in says(run, "doctor", "--config", "raw.toml")
    (workplace / "huge.toml").write_bytes(b"#" * (2 << 20))
    assert "larger than" in says(run, "doctor", "--config", "huge.toml")


def test_a_strangers_file_is_read_only_when_named(run: Run, workplace: Path) -> None:
    path = workplace / "graphprune.toml"
    path.write_text("[doctor]\njson = true\n")
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, 65534, 65534)
    assert "belongs to another user" in says(run, "doctor")
    assert run("doctor", "--config", "graphprune.toml").json


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise it depends on who runs the tests: typer looks for a shell among its parents.
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    done = CliRunner().invoke(app, ["--show-completion"], prog_name="graphprune")
    assert "_GRAPHPRUNE_COMPLETE" in done.stdout
    environment = {
        "_GRAPHPRUNE_COMPLETE": "complete_bash", "COMP_WORDS": "graphprune pr", "COMP_CWORD": "1",
    }  # fmt: skip
    completed = CliRunner().invoke(app, [], prog_name="graphprune", env=environment)
    assert completed.stdout.split() == ["prune"]


@pytest.mark.parametrize("command", ["rank", "prune", "compare", "validate"])
def test_help_fits_80_columns_without_colour(command: str, run: Run) -> None:
    text = run(command, "--help").stdout
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "--config" in text
