"""Start ranks: as plain processes, or the way that users do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
RANK = ("-m", "graphprune_cli", "rank")


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a rank: one thread, this tree, an answer within a minute."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    fixed = {
        "COLUMNS": "80",
        "GRAPHPRUNE_TIMEOUT": "60",
        "MASTER_ADDR": "127.0.0.1",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": path,
    }
    return {**os.environ, **fixed, **more}


def start_program(folder: Path, size: int = 3) -> list[subprocess.Popen[str]]:
    """Start all ranks of :mod:`tests.distributed.program`."""
    command = [sys.executable, "-m", "tests.distributed.program", str(folder)]
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(RANK=str(rank), WORLD_SIZE=str(size)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def start(*command: str, cwd: Path) -> subprocess.Popen[str]:
    """Start a command in a process group of its own."""
    return subprocess.Popen(
        [*command],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pid_of_rank(launcher: subprocess.Popen[str], rank: int) -> int:
    """Return the process of a rank among the children of ``torchrun``; 0 if it has none."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if parent == launcher.pid and f"RANK={rank}".encode() in variables:
            return int(folder.name)
    return 0
