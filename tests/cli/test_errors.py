"""Bad input: one clear sentence on stderr, exit 2 (or 1 for a finding), nothing half-written."""

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

from tests.cli.conftest import Run

MODEL = ("net.py:net", "--input-shape", "3,8,8")


def fails(run: Run, *arguments: str, says: str, code: int = 2) -> None:
    finished = run(*arguments)
    assert finished.code == code, (finished.stdout, finished.stderr)
    assert says in " ".join(finished.stderr.split()), finished.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rank", "missing.pt"), "missing.pt"),
        (("rank", "net.py:nothing"), "nothing"),
        (("rank", "torchvision:resnet19"), "resnet18"),
        (("rank", "net.py:noisy", *MODEL[1:], "--criterion", "l1"), "the traced network differs"),
        (("rank", *MODEL, "--criterion", "magic"), "criterion 'magic' is none of"),
        (("rank", *MODEL, "--value", "loss"), "value 'loss' is none of"),
        (("rank", *MODEL, "--estimator", "magic"), "estimator 'magic' is none of"),
        (("rank", *MODEL, "--game", "chess"), "game 'chess' is none of"),
        (("rank", *MODEL, "--aggregate", "median"), "aggregate 'median' is none of"),
        (("rank", *MODEL, "--device", "tpu"), "device 'tpu' is none of"),
        (("rank", *MODEL, "--value", "accuracy"), "needs labels"),
        (("rank", *MODEL, "--data", "missing.npz"), "missing.npz"),
        (("rank", *MODEL, "--mean", "0.5"), "--mean without --data"),
        (("rank", *MODEL, "--data", "images.npz", "--mean", "a,b"), "not a list of numbers"),
        (("rank", "net.py:net", "--input-shape", "3,x"), "not a list of positive whole numbers"),
        (("rank", "net.py:net", "--input-shape", "4,8,8"), "4"),
        (("rank", *MODEL, "--criterion", "auto"), "compares the plans of several criteria"),
        (("prune", *MODEL, "--ratio", "0.3", "--criterion", "auto"), "needs calibration images"),
        (("prune", *MODEL, "--ratio", "0.3", "--steps", "0"), "steps 0 is less than 1"),
        (
            ("prune", "--ratio", "0.3", "--criterion", "auto", "--ranking", "r.json"),
            "leave out one of the two",
        ),
        (("prune", "--ratio", "0.3"), "there is no ranking.json"),
        (("prune", *MODEL), "--ratio"),
        (("prune", *MODEL, "--ratio", "1.5"), "outside [0, 1)"),
        (("prune", *MODEL, "--ratio", "0.3", "--of", "flops"), "of 'flops' is none of"),
        (("prune", *MODEL, "--ratio", "0.3", "--scope", "all"), "scope 'all' is none of"),
        (("prune", *MODEL, "--ratio", "0.3", "--repair", "glue"), "glue"),
        (("prune", "--ratio", "0.3", "--weights", "w.pt"), "need MODEL"),
        (("validate",), "there is no manifest.json"),
        (("validate", "a", "b", "c"), "3 paths"),
        (("validate", "a.pt2", "b.onnx"), "a.pt2"),
        (("inspect", *MODEL, "--graph", "graph.bmp"), ".bmp"),
    ],
)
def test_bad_input(run: Run, workplace: Path, arguments: tuple[str, ...], says: str) -> None:
    fails(run, *arguments, says=says)
    left = [path for path in workplace.rglob("*") if ".tmp" in path.name]
    assert not left


@pytest.mark.parametrize("option", [("--ratio", "2"), ("--repair", "glue"), ("--of", "flops")])
def test_options_are_checked_before_the_work(
    run: Run, workplace: Path, option: tuple[str, str]
) -> None:
    assert run("prune", *MODEL, "--ratio", "0.3", *option).code == 2
    assert not (workplace / "graphprune-out").exists()


def test_unreachable_budget_is_a_finding(run: Run) -> None:
    fails(run, "prune", *MODEL, "--criterion", "l1", "--ratio", "0.99", says="can go", code=1)


def test_labels_out_of_range(run: Run, workplace: Path) -> None:
    images = np.zeros((4, 3, 8, 8), np.float32)
    np.savez(workplace / "wrong.npz", x=images, y=np.array([0, 1, 2, 5]))
    fails(run, "rank", *MODEL, "--data", "wrong.npz", says="5")


def test_data_of_another_shape(run: Run, workplace: Path) -> None:
    np.savez(workplace / "wrong.npz", x=np.zeros((4, 1, 8, 8), np.float32))
    fails(run, "rank", *MODEL, "--data", "wrong.npz", says="1x8x8")


@pytest.mark.parametrize("name", ["plan.json", "manifest.json", "pruned.pt2", "pruned.onnx"])
def test_changed_files_are_caught(run: Run, workplace: Path, name: str) -> None:
    assert run("prune", *MODEL, "--criterion", "l1", "--ratio", "0.3", "-q").code == 0
    path = workplace / "graphprune-out" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(bytes(content))
    assert run("validate").code in (1, 2)


def test_another_model_is_refused(run: Run, workplace: Path) -> None:
    assert run("rank", *MODEL, "--criterion", "l1").code == 0
    source = (workplace / "net.py").read_text()
    (workplace / "net.py").write_text(
        source.replace("nn.Conv2d(12, 8, 1)", "nn.Conv2d(12, 8, 1, bias=False)")
    )
    fails(run, "prune", "--ratio", "0.3", says="not the network that was ranked")


def test_errors_are_json_when_asked(run_process: Run) -> None:
    finished = run_process("rank", "missing.pt", "--json")
    assert finished.code == 2
    assert "missing.pt" in json.loads(finished.stdout)["error"]


def test_interrupted_rankings_resume(run: Run, workplace: Path) -> None:
    state = workplace / "graphprune-out" / "rank-state.npz"
    state.parent.mkdir()
    state.write_bytes(b"not an archive")
    fails(run, "rank", *MODEL, "--resume", says="damaged")
    assert run("rank", *MODEL, "--budget", "2").code == 0
    assert not state.exists()


@pytest.mark.usefixtures("interruptible")
def test_interrupt(workplace: Path) -> None:
    model = ("net.py:marked", *MODEL[1:])
    command = [sys.executable, "-m", "graphprune_cli", "rank", *model, "--budget", "100000"]
    environment = {**os.environ, "NO_COLOR": "1"}
    with subprocess.Popen(
        command,
        cwd=workplace,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        try:
            while not (workplace / "begun").exists():
                time.sleep(0.1)
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, stderr
    assert b"interrupted" in stderr
    assert b"Traceback" not in stderr
    assert not (workplace / "graphprune-out" / "ranking.json").exists()


def test_unwritable_folder(run: Run, workplace: Path) -> None:
    (workplace / "file").write_text("in the way")
    fails(run, "rank", *MODEL, "--criterion", "l1", "--out", "file/below", says="cannot write")
