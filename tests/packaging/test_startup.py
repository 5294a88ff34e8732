"""Starting up is cheap: nothing imports torch before it is needed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "scipy")

HELP = """
import runpy, sys
sys.argv = ["graphprune", "--help"]
try:
    runpy.run_module("graphprune_cli", run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
"""


def heavy_imports(code: str, cwd: Path) -> list[str]:
    """Heavy libraries that a fresh interpreter has loaded after running ``code``."""
    report = f"import sys\nprint('loaded:', *[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


def test_importing_the_package_is_light(tmp_path: Path) -> None:
    assert heavy_imports("import graphprune", tmp_path) == []


@pytest.mark.skipif(
    importlib.util.find_spec("graphprune_cli.__main__") is None, reason="no command line yet"
)
def test_help_is_light(tmp_path: Path) -> None:
    assert heavy_imports(HELP, tmp_path) == []
