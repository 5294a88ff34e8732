"""Steering: --only, --skip, --min-units, --round-to and --unpin-output, alone and together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from tests.cli.conftest import Run

MODEL = ("net.py:net", "--input-shape", "3,8,8")
QUICK = ("--criterion", "l1", "-q")


def plan_in(workplace: Path) -> dict[str, Any]:
    return json.loads((workplace / "graphprune-out" / "plan.json").read_text())


def gone(workplace: Path) -> dict[str, int]:
    return {g["name"]: len(g["removed_units"]) for g in plan_in(workplace)["groups"]}


@pytest.mark.parametrize(
    ("ratio", "options", "expected"),
    [
        # A module is left alone whole; the name of a parameter stands for the units that it makes.
        ("0", ("--skip", "side"), (0, 0)),
        ("0.4", ("--skip", "side.weight"), (5, 0)),
        ("0", ("--skip", "head"), (0, 0)),
        ("0.15", ("--skip", "norm"), (0, 1)),
        ("0.4", ("--only", "inner"), (5, 0)),
        ("0.3", ("--only", "*", "--skip", "stem.*"), (0, 2)),
        ("0.3", ("--min-units", "7"), (4, 1)),
        ("0.2", ("--min-units", "6", "--round-to", "4"), (4, 0)),
        ("0.1", ("--only", "side", "--round-to", "5"), (0, 3)),
    ],
)
def test_what_is_left_alone(
    run: Run, workplace: Path, ratio: str, options: tuple[str, ...], expected: tuple[int, int]
) -> None:
    finished = run("prune", *MODEL, *QUICK, "--ratio", ratio, *options)
    assert finished.code == 0, finished.stderr
    assert gone(workplace) == dict(zip(("stem.weight", "side.weight"), expected, strict=True))


def test_a_module_that_is_skipped_keeps_its_shapes(run: Run, workplace: Path) -> None:
    assert run("prune", *MODEL, *QUICK, "--ratio", "0", "--skip", "side").code == 0
    removed = plan_in(workplace)["removed"]
    assert not [name for name in removed if name.startswith("side.")]


def test_skip_and_only_count_when_the_ranking_is_there_already(run: Run, workplace: Path) -> None:
    assert run("rank", *MODEL, *QUICK).code == 0
    before = (workplace / "graphprune-out" / "ranking.json").read_text()
    assert run("prune", "--ratio", "0.1", "--skip", "stem.weight", "-q").code == 0
    assert gone(workplace) == {"stem.weight": 0, "side.weight": 1}
    # For this plan only: the ranking stays what it was.
    after = json.loads((workplace / "graphprune-out" / "ranking.json").read_text())
    assert after == json.loads(before)
    assert run("prune", "--ratio", "0.4", "-q").code == 0
    assert gone(workplace) == {"stem.weight": 5, "side.weight": 3}


def test_what_was_left_alone_when_ranking_stays_so(run: Run, workplace: Path) -> None:
    assert run("rank", *MODEL, *QUICK, "--skip", "stem.weight").code == 0
    assert run("prune", "--ratio", "0.1", "-q").code == 0
    assert gone(workplace) == {"stem.weight": 0, "side.weight": 1}


@pytest.mark.parametrize("command", ["rank", "prune", "inspect"])
@pytest.mark.parametrize(
    ("option", "pattern", "says", "hint"),
    [
        ("--skip", "stam", "matches no group, parameter or module", "did you mean stem"),
        ("--only", "layer9.*", "matches no group, parameter or module", "graphprune inspect"),
        ("--only", "head", "matches no group: output of the network", "--pins"),
    ],
)
def test_patterns_that_match_nothing(
    run: Run, command: str, option: str, pattern: str, says: str, hint: str
) -> None:
    ratio = ("--ratio", "0.2") if command == "prune" else ()
    quick = () if command == "inspect" else QUICK
    finished = run(command, *MODEL, *ratio, *quick, option, pattern)
    assert finished.code == 2
    said = " ".join(finished.stderr.split())
    assert says in said
    assert hint in said


# ---- outputs ------------------------------------------------------------------------------------


def test_outputs_stay_unless_asked(run: Run) -> None:
    assert run("inspect", *MODEL, "--json").json["cost"]["units"] == 20
    unpinned = run("inspect", *MODEL, "--unpin-output", "--json").json
    assert unpinned["cost"]["units"] == 25
    assert not unpinned["pinned"]
    assert [output["unpinned"] for output in unpinned["outputs"]] == [True]


@pytest.mark.parametrize("criterion", ["shapley", "l1"])
def test_unpinned_outputs_from_rank_to_validate(run: Run, workplace: Path, criterion: str) -> None:
    data = ("--data", "images.npz")
    assert run("rank", *MODEL, *data, "--criterion", criterion, "--unpin-output").code == 0
    pruned = run("prune", "--ratio", "0.4", "--json")
    assert pruned.code == 0, pruned.stderr
    assert "output 0 may shrink" in " ".join(pruned.json["manifest"]["notes"])
    plan = plan_in(workplace)
    assert gone(workplace)["head.weight"] == 2
    assert plan["removed_outputs"] == {"0": {"1": plan["removed"]["head.weight"]["0"]}}
    session = ort.InferenceSession(
        workplace / "graphprune-out" / "pruned.onnx", providers=["CPUExecutionProvider"]
    )
    assert session.get_outputs()[0].shape[1:] == [3]
    checked = run("validate")
    assert checked.code == 0, checked.stdout


def test_accuracy_counts_images_of_classes_that_went_as_wrong(run: Run, workplace: Path) -> None:
    """Labels are those of the unpruned network; predictions of the pruned one count fewer."""
    import numpy as np
    import torch

    from graphprune.export import load_program

    command = ("prune", *MODEL, "--data", "images.npz", "--criterion", "l1", "--unpin-output")
    assert run(*command, "--ratio", "0.4", "--repair", "none").code == 0
    out = workplace / "graphprune-out"
    removed = plan_in(workplace)["removed_outputs"]["0"]["1"]
    stays = [k for k in range(5) if k not in removed]
    stored = np.load(workplace / "images.npz")
    with torch.no_grad():
        logits = load_program(out / "pruned.pt2")(torch.from_numpy(stored["x"]))
    guessed = np.array(stays)[logits.argmax(1).numpy()]
    recorded = json.loads((out / "manifest.json").read_text())["accuracy"]["after"]
    assert recorded == pytest.approx((guessed == stored["y"]).mean())


def test_unpinned_outputs_do_not_fit_a_ranking_with_pinned_ones(run: Run) -> None:
    assert run("rank", *MODEL, *QUICK).code == 0
    refused = run("prune", "--ratio", "0.2", "--unpin-output")
    assert refused.code == 2
    assert "made with all outputs pinned" in refused.stderr
    ranking = ("--ranking", "graphprune-out/ranking.json")
    assert run("prune", *MODEL, *ranking, "--ratio", "0.2", "--unpin-output").code == 2


def test_values_that_outputs_do_not_allow(run: Run) -> None:
    options = ("--data", "images.npz", "--unpin-output", "--value", "cross-entropy")
    refused = run("rank", *MODEL, *options)
    assert refused.code == 2
    assert "infinite" in refused.stderr
