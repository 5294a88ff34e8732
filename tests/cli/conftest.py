"""The command line in a folder of its own: in this process, and as a process where that counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from graphprune_cli.__main__ import app

FACTORY = '''
"""A user's own network: residual and concat connections, 8x8 images."""
import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.inner = nn.Conv2d(12, 12, 3, padding=1)
        self.side = nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(20, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.inner(x)
        x = torch.cat([x, F.relu(self.side(x))], 1)
        return self.head(x.mean((2, 3)))


def net():
    return Net()


class Noisy(Net):
    def forward(self, x):
        return super().forward(x) + torch.randn(5)


def noisy():
    return Noisy()


def marked():
    """Leaves a file behind, so that a test knows that loading has begun."""
    from pathlib import Path
    Path("begun").touch()
    return Net()
'''


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.stdout)


Run = Callable[..., Finished]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let processes hear SIGINT, which shells have what they start in the background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with a user's factory and calibration data."""
    (tmp_path / "net.py").write_text(FACTORY)
    generator = np.random.default_rng(0)
    images = generator.standard_normal((40, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "images.npz", x=images, y=generator.integers(0, 5, 40))
    return tmp_path


@pytest.fixture
def run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``graphprune ARGUMENTS`` in the workplace, in this process: no start-up to wait for."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")

    def command(*arguments: str, cwd: Path = workplace) -> Finished:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["graphprune", *arguments])
        done = CliRunner().invoke(app, list(arguments))
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert "Traceback" not in done.stdout + done.stderr
        return Finished(done.exit_code, done.stdout, done.stderr)

    return command


@pytest.fixture
def run_process(workplace: Path) -> Run:
    """Run ``graphprune ARGUMENTS`` in the workplace, as a process of its own."""

    def command(*arguments: str, cwd: Path = workplace) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", "graphprune_cli", *arguments],
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert "Traceback" not in done.stdout
        return Finished(done.returncode, done.stdout, done.stderr)

    return command
