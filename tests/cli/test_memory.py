"""How much memory a large network takes: less than three times its weights beyond the imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

_NETWORKS = """
from torch import nn

def mlp(width):
    hidden = [each for _ in range(3) for each in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), *hidden, nn.Linear(width, 10))

def small(): return mlp(32)
def large(): return mlp({width})
"""

_PROGRAM = """
import resource, sys
from graphprune_cli.__main__ import main

def peak(network):
    sys.argv = ["graphprune", *sys.argv_given, f"networks.py:{network}", "--out", network]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

sys.argv_given = sys.argv[1:]
before = peak("small")  # imports, and what is compiled once
print("\\n" + str(peak("large") - before))
"""

_SHAPLEY = ("--criterion", "shapley", "--budget", "2", "--data", "x.npz")


def peak_of(folder: Path, width: int, *arguments: str) -> float:
    """Return the peak of a command beyond that on a small network, over the size of the weights."""
    (folder / "networks.py").write_text(_NETWORKS.replace("{width}", str(width)))
    x = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    np.savez(folder / "x.npz", x=x)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments, "--input-shape", "16", "--quiet"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) / (12 * width**2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts as Linux does, with glibc")
@pytest.mark.parametrize(
    "arguments",
    [
        ("rank", "--criterion", "group-magnitude"),
        ("rank", *_SHAPLEY),
        ("prune", "--criterion", "group-magnitude", "--ratio", "0.3", "--repair", "none"),
        ("prune", *_SHAPLEY, "--ratio", "0.3", "--repair", "least-squares"),
    ],
)
def test_a_large_network_is_held_less_than_three_times(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    peak = peak_of(tmp_path, 6000, *arguments)
    # The docs' figures: pytest -rP shows them.
    sys.stdout.write(f"{' '.join(arguments)}: {peak:.2f} times the weights\n")
    assert peak < 3
