"""``graphprune compare`` as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Run

BASE = ("compare", "net.py:net", "--input-shape", "3,8,8", "--data", "images.npz")
QUICK = (*BASE, "--criteria", "taylor,l2", "--ratios", "0.2,0.4", "--seeds", "2")


def words(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def test_tables_and_files(run: Run, workplace: Path) -> None:
    done = run(*QUICK, "--robustness", "--oracle", "side*", "--sets", "9")
    assert done.code == 0, done.stderr
    said = words(done.stdout)
    assert "judged on 13 images; each seed ranks and repairs with 20 others" in said
    for title in (
        "accuracy (%), repair: none", "accuracy (%), repair: auto", "layerwise robustness",
        "oracle: 2 of 8 units of side.weight, among 9 sets (random)",
    ):  # fmt: skip
        assert title in said
    assert max(map(len, done.stdout.splitlines())) <= 80
    out = workplace / "graphprune-out"
    document = json.loads((out / "compare.json").read_text())
    assert document["complete"]
    assert len(document["cells"]) == 3 * 2 * 2 * 2
    assert {path.name for path in (out / "plots").iterdir()} == {
        "accuracy.svg", "kl.svg", "robustness.svg", "robustness-groups.svg", "oracle.svg"
    }  # fmt: skip
    ranking = out / "rankings" / "l2-seed1.json"
    pruned = run("prune", "--ranking", str(ranking), "--ratio", "0.2", "--dry-run")
    assert pruned.code == 0, pruned.stderr


def test_the_report_of_a_run_shows_a_later_comparison(run: Run, workplace: Path) -> None:
    page, manifest = (workplace / "graphprune-out" / n for n in ("report.html", "manifest.json"))
    net = ("net.py:net", "--input-shape", "3,8,8")
    assert run("prune", *net, "--criterion", "l2", "--ratio", "0.2").code == 0
    before, sealed = page.read_text(), manifest.read_bytes()
    assert "From compare.json" not in before

    assert run(*QUICK, "--plots", "none", "--no-floor").code == 0

    after = page.read_text()
    assert "From compare.json: judged on 13 images" in after
    assert after.count("<svg") == before.count("<svg") + 1  # what was drawn is drawn again
    assert manifest.read_bytes() == sealed
    assert run("validate").code == 0


def test_the_report_of_another_network_stays(run: Run, workplace: Path) -> None:
    page = workplace / "graphprune-out" / "report.html"
    (workplace / "other.py").write_text(
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))\n"
    )
    other = ("other.py:net", "--input-shape", "3,8,8")
    assert run("prune", *other, "--criterion", "l2", "--ratio", "0.2").code == 0
    before = page.read_bytes()

    done = run(*QUICK, "--plots", "none", "--no-floor")

    assert done.code == 0
    assert "report.html stays as it is: it is of another network" in words(done.stderr)
    assert page.read_bytes() == before


def test_one_json_document(run: Run) -> None:
    done = run(*QUICK, "--json", "--quiet", "--plots", "none", "--no-floor")
    assert done.code == 0
    assert done.json["format"] == "graphprune/compare/1"
    assert done.json["plots"] == []
    assert {cell["criterion"] for cell in done.json["cells"]} == {"taylor", "l2"}
    assert done.stderr == ""


def test_dry_run_says_what_would_be_run_and_writes_nothing(run: Run, workplace: Path) -> None:
    done = run(*QUICK, "--dry-run", "--calibration", "10")
    assert done.code == 0
    assert (
        "would rank 6 times on 10 images, judge 24 networks on 13 others, and write "
        "graphprune-out/compare.json"
    ) in words(done.stdout)
    plain = run(*QUICK, "--dry-run", "--json", "--seeds", "3,5").json
    assert plain["seeds"] == [3, 5]
    assert plain["criteria"] == ["taylor", "l2", "random"]
    assert not (workplace / "graphprune-out").exists()


def test_a_set_of_images_that_judges(run: Run, workplace: Path) -> None:
    import numpy as np

    images = np.load(workplace / "images.npz")
    np.savez(workplace / "judge.npz", x=images["x"][16:], y=images["y"][16:])
    done = run(*QUICK, "--eval-data", "judge.npz", "--eval-limit", "6", "--no-labels", "--json")
    assert done.code == 0, done.stderr
    assert "6 images of the data also judge; they are left out of ranking" in words(done.stderr)
    assert done.json["unpruned"]["n_images"] == 6
    assert done.json["eval_data"]["limit"] == 6
    assert done.json["conditions"]["labels"] is False


def test_going_on_with_more(run: Run) -> None:
    first = run(*QUICK, "--plots", "none", "--json").json
    more = run(*QUICK, "--plots", "none", "--json", "--resume", "--seeds", "3").json
    assert len(more["cells"]) == 36
    assert all(cell in more["cells"] for cell in first["cells"])
    other = run(*QUICK, "--resume", "--of", "params")
    assert other.code == 2
    assert "compare.json cannot go on: of was macs and is params" in words(other.stderr)


def test_what_is_left_out_is_noted(run: Run) -> None:
    done = run(*QUICK, "--ratios", "0.2,0.99")
    assert done.code == 0
    assert "note: taylor: removing 99.0% of the macs is not reachable" in words(done.stderr)
    nothing = run(*QUICK, "--ratios", "0.999")
    assert nothing.code == 1
    assert "not reachable" in nothing.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--criteria", "tailor"), "did you mean taylor?"),
        (("--criteria", ","), "there are no criteria to compare"),
        (("--ratios", "0.2,much"), "--ratios '0.2,much' is not a list of numbers, e.g. 0.1,0.3"),
        (("--ratios", "1.5"), "a ratio of 1.5 is outside [0, 1)"),
        (("--seeds", "0"), "--seeds '0' is neither a number nor a list, e.g. 3 or 0,1,2"),
        (("--seeds", "1,1"), "1 is named twice among the seeds"),
        (("--repairs", "hope"), "repair 'hope' is none of auto,"),
        (("--plots", "gif"), "plots 'gif' is none of svg, png, none"),
        (("--oracle", "nothing"), "pattern 'nothing' matches no group"),
        (("--eval-limit", "3"), "--eval-limit without --eval-data"),
        (("--eval-data", "images.npz"), "all images that should rank are among those that judge"),
        (("--calibration", "30"), "30 images cannot be drawn from 27"),
        (("--of", "latency"), "of 'latency' is none of units, params, macs"),
    ],
)
def test_what_is_refused(options: tuple[str, ...], message: str, run: Run) -> None:
    done = run(*QUICK, *options)
    assert done.code == 2
    assert message in words(done.stderr)


def test_without_data(run: Run) -> None:
    done = run("compare", "net.py:net", "--input-shape", "3,8,8")
    assert done.code == 2
    assert "a comparison needs images to rank and to judge on" in words(done.stderr)


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_with_130_and_what_is_done_is_kept(workplace: Path) -> None:
    command = [
        sys.executable, "-m", "graphprune_cli", *QUICK, "--seeds", "60", "--plots", "none",
    ]  # fmt: skip
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    started = subprocess.Popen(
        command, cwd=workplace, env=environment, stderr=subprocess.PIPE, text=True
    )
    file = workplace / "graphprune-out" / "compare.json"
    end = time.monotonic() + 120
    while not (file.exists() and json.loads(file.read_text())["cells"]):
        assert time.monotonic() < end
        time.sleep(0.2)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "interrupted" in said
    document = json.loads(file.read_text())
    assert document["cells"]
    assert not document["complete"]
