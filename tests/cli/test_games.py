"""Games, memory and precision as a user asks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Run

RANK = ("rank", "net.py:net", "--input-shape", "3,8,8", "--data", "images.npz")


@pytest.fixture
def rank(run: Run, workplace: Path) -> Any:
    """Rank in the workplace; return what is in ranking.json, and what was said."""

    def ranked(*options: str) -> tuple[dict[str, Any], str]:
        done = run(*RANK, *options)
        assert done.code == 0, done.stderr
        found = json.loads((workplace / "graphprune-out" / "ranking.json").read_text())
        return found, done.stdout + done.stderr

    return ranked


def scores(ranking: dict[str, Any]) -> np.ndarray:
    return np.concatenate([group["scores"] for group in ranking["groups"]])


def test_the_hierarchical_game(rank: Any) -> None:
    ranking, _ = rank("--game", "hierarchical", "--budget", "20", "--limit", "6")
    assert (ranking["game"], ranking["estimator"]) == ("hierarchical", "antithetic")
    units = sum(group["units"] for group in ranking["groups"])
    assert 0 < ranking["evaluations"] <= 20 * units
    for group in ranking["groups"]:
        assert group["effort"]["estimator"] == "antithetic"
        assert group["effort"]["evaluations"] == ranking["evaluations"]
    assert (scores(ranking) > 0).all()


def test_a_hierarchical_game_has_no_other_semivalue(run: Run) -> None:
    done = run(*RANK, "--game", "hierarchical", "--semivalue", "banzhaf", "--estimator", "exact")
    assert done.code == 2
    assert "does not play the hierarchical game" in " ".join(done.stderr.split())


def test_efforts_are_told_group_by_group(rank: Any) -> None:
    ranking, _ = rank("--game", "group", "--budget", "30", "--limit", "6")
    efforts = [group["effort"] for group in ranking["groups"]]
    assert [effort["stopped"] for effort in efforts] == ["budget"] * len(efforts)
    assert sum(effort["evaluations"] for effort in efforts) == ranking["evaluations"]
    assert {effort["estimator"] for effort in efforts} == set(ranking["estimator"].split("+"))


@pytest.mark.parametrize("game", ["group", "network"])
def test_little_memory_gives_the_same(game: str, rank: Any) -> None:
    options = ("--game", game, "--estimator", "antithetic", "--budget", "6")
    usual, _ = rank(*options)
    small, _ = rank(*options, "--max-memory", "1MB")
    tiny, _ = rank(*options, "--max-memory", "1")
    assert usual["evaluations"] == small["evaluations"] <= tiny["evaluations"]
    # Single precision, in passes of other sizes.
    for other in (small, tiny):
        np.testing.assert_allclose(scores(other), scores(usual), rtol=1e-3, atol=1e-7)


def test_little_memory_with_gradients(rank: Any) -> None:
    ranking, _ = rank("--max-memory", "1MB", "--limit", "4", "--budget", "4")
    assert ranking["estimator"] == "gradients"
    assert np.isfinite(scores(ranking)).all()


@pytest.mark.parametrize("size", ["lots", "0", "-1GB", "nan", "inf", "", "0.4", "GB"])
def test_sizes_that_are_none(size: str, run: Run) -> None:
    done = run(*RANK, "--max-memory", size)
    assert done.code == 2
    said = " ".join(done.stderr.replace("│", " ").split())
    assert f"--max-memory {size!r} is not a size, e.g. 500MB or 2GB" in said


@pytest.mark.parametrize("size", ["1", "500KB", "0.5mb", "1e6", "2 GB"])
def test_sizes(size: str, run: Run) -> None:
    assert run(*RANK, "--criterion", "l2", "--max-memory", size).code == 0


def test_what_lower_precision_costs_is_told(rank: Any) -> None:
    ranking, said = rank("--precision", "bfloat16", "--limit", "8", "--budget", "6")
    note = "in bfloat16 the worth of a coalition is off by 0."
    assert note in " ".join(said.split())
    assert any(each.startswith(note) for each in ranking["notes"])
    ranking, said = rank("--limit", "8", "--budget", "6")
    assert "bfloat16" not in said
    assert ranking["notes"] == []


def test_unknown_precision(run: Run) -> None:
    done = run(*RANK, "--precision", "float8")
    assert done.code == 2
    assert "precision 'float8' is none of float32, bfloat16" in " ".join(done.stderr.split())


def test_stability_not_reached_is_told(rank: Any) -> None:
    ranking, said = rank(
        "--game", "group", "--estimator", "permutation", "--budget", "4", "--limit", "4",
        "--until-stable", "0.9999",
    )  # fmt: skip
    (note,) = ranking["notes"]
    assert note.startswith("a stability of 0.9999 was not reached by ")
    assert "a stability of 0.9999 was not reached by" in " ".join(said.split())
