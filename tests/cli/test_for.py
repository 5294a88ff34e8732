"""``--for-ratio`` and ``--for-repair``, and what ``prune`` says of rankings for something else."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run

RANK = ("rank", "net.py:net", "--input-shape", "3,8,8", "--data", "images.npz")


def recorded(workplace: Path) -> tuple[float | None, str | None]:
    ranking = json.loads((workplace / "graphprune-out" / "ranking.json").read_text())
    return ranking["for_ratio"], ranking["for_repair"]


def test_prune_says_that_more_goes_than_was_ranked_for(run: Run, workplace: Path) -> None:
    done = run(*RANK, "--for-ratio", "0.1", "--for-repair", "least-squares")
    assert done.code == 0, done.stderr
    assert recorded(workplace) == (0.1, "least-squares")
    prune = ("prune", "--of", "macs", "--dry-run", "--ratio")
    much = run(*prune, "0.5").stderr
    assert "rank again with --for-ratio" in much
    assert "looks ahead" not in much
    assert "rank again" not in run(*prune, "0.05").stderr
    assert "the repair is bias" in run(*prune, "0.05", "--repair", "bias").stderr
    assert "the repair is batchnorm" in run(*prune, "0.05", "--repair", "batchnorm").stderr
    assert "the repair is" not in run(*prune, "0.05", "--repair", "distill").stderr


def test_a_ranking_serves_plans_with_a_repair_and_without(run: Run, workplace: Path) -> None:
    assert run(*RANK).code == 0
    assert recorded(workplace) == (0.5, None)
    path = workplace / "graphprune-out" / "ranking.json"
    groups = json.loads(path.read_text())["groups"]
    assert all(len(group["refit"]) == group["units"] for group in groups)
    prune = ("prune", "--of", "macs", "--ratio", "0.4", "--dry-run", "--json", "--no-exchange")
    removed, weights = {}, {}
    for repair in ("none", "bias", "least-squares", "distill"):
        done = run(*prune, "--repair", repair)
        assert done.code == 0, done.stderr
        assert "look" not in done.stderr
        removed[repair], weighing = done.json["groups"], done.json["weighing"]
        weights[repair] = 0.0 if weighing is None else weighing["tried"][0]["refit"]
    assert weights["none"] == 0
    assert weights["least-squares"] == weights["distill"]
    assert removed["least-squares"] == removed["distill"]
    # As if it had been ranked for that repair alone, wherever that was found to be best.
    alone = {}
    for weight, repair in ((0.0, "none"), (0.5, "least-squares")):
        assert run(*RANK, "--for-repair", repair).code == 0
        assert recorded(workplace) == (0.5, repair)
        alone[weight] = run(*prune, "--repair", repair).json["groups"]
    assert alone[0.0] != alone[0.5]
    for repair, weight in weights.items():
        assert weight not in alone or removed[repair] == alone[weight]


def test_prune_ranks_for_its_own_ratio(run: Run, workplace: Path) -> None:
    given = ("prune", *RANK[1:], "--dry-run")
    done = run(*given, "--ratio", "0.2", "--of", "macs", "--json")
    assert done.code == 0, done.stderr
    assert "rank again" not in done.stderr


def test_a_ratio_to_rank_for_is_a_share(run: Run, workplace: Path) -> None:
    done = run(*RANK, "--for-ratio", "1.5")
    assert done.code == 2
    assert "--for-ratio 0.3" in done.stderr
