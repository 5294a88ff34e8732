"""``prune`` tries how far to look ahead, says so, and keeps a ranking that serves any repair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run

GIVEN = ("net.py:net", "--input-shape", "3,8,8", "--data", "images.npz")
HALF = ("--ratio", "0.4", "--of", "macs")


def written(workplace: Path, name: str) -> Any:
    return json.loads((workplace / "graphprune-out" / f"{name}.json").read_text())


@pytest.mark.parametrize("repair", ["least-squares", "batchnorm"])
def test_the_nearest_network_is_kept_and_said_to_be(run: Run, workplace: Path, repair: str) -> None:
    done = run("prune", *GIVEN, *HALF, "--repair", repair)
    assert done.code == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "weight of the refit game and what the repair leaves (40 images):" in told
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "rank again" not in done.stderr
    manifest = written(workplace, "manifest")
    weighing = manifest["weighing"]
    divergences = [each["kl"] for each in weighing["tried"]]
    assert len(divergences) == (3 if repair == "least-squares" else 5)
    assert divergences[1:] == sorted(divergences[1:])
    for each in weighing["tried"]:
        name = f"{each['refit']:g} greedy (" if each["greedy"] else f"{each['refit']:g} ("
        assert name in told
    assert "as cut: divergence" in told
    assert "repaired with them: divergence" in told
    if repair == "least-squares":
        held_out = manifest["repair"]["held_out"]
        assert f"without 5 of them: divergence there {held_out['after']:.3f} nats, as cut" in told
    report = (workplace / "graphprune-out" / "report.html").read_text()
    assert "weight of the refit game, divergence after the repair on 40 images" in report
    assert run("validate").code == 0


def test_a_plan_from_a_run_is_that_from_its_first_ranking(run: Run, workplace: Path) -> None:
    assert run("rank", *GIVEN).code == 0
    fresh = workplace / "graphprune-out" / "ranking.json"
    kept = workplace / "first.json"
    kept.write_bytes(fresh.read_bytes())
    assert run("prune", *HALF).code == 0
    found = {}
    for repair in ("none", "least-squares", "batchnorm"):
        again = ("prune", "--ratio", "0.3", "--of", "macs", "--repair", repair, "--dry-run")
        plans = [run(*again, "--json"), run(*again, "--json", "--ranking", str(kept))]
        assert [plan.code for plan in plans] == [0, 0], plans[0].stderr
        assert "rank again" not in plans[0].stderr
        one, other = (plan.json for plan in plans)
        assert one["groups"] == other["groups"]
        assert one["weighing"] == other["weighing"]
        assert one["exchange"] == other["exchange"]
        found[repair] = one
    assert found["none"]["weighing"] is None
    assert found["none"]["exchange"] is not None
    assert len(found["batchnorm"]["weighing"]["tried"]) == 5


def test_a_ranking_for_one_repair_is_taken_as_it_is(run: Run) -> None:
    assert run("rank", *GIVEN, "--for-repair", "least-squares").code == 0
    done = run("prune", *HALF, "--dry-run", "--json")
    assert done.code == 0, done.stderr
    assert done.json["weighing"] is None
