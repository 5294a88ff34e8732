"""``prune --exchange``: by default where no repair follows, and refused where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

PRUNE = ("prune", "net.py:net", "--input-shape", "3,8,8", "--data", "images.npz")
HALF = ("--ratio", "0.4", "--of", "macs")


def test_by_default_where_no_repair_follows(run: Run, workplace: Path) -> None:
    done = run(*PRUNE, *HALF, "--repair", "none")
    assert done.code == 0, done.stderr
    assert "exchange: kl -" in done.stdout
    manifest = json.loads((workplace / "graphprune-out" / "manifest.json").read_text())
    found = manifest["exchange"]
    assert found["after"] >= found["before"]
    assert found["n_images"] == 40
    # What is recorded is what the network that was cut diverges by.
    assert -found["after"] == pytest.approx(manifest["fidelity"]["cut"]["kl"], abs=1e-7)
    report = (workplace / "graphprune-out" / "report.html").read_text()
    assert "exchange, kl on 40 images" in report
    assert run("validate").code == 0


def test_not_before_a_repair_unless_it_is_asked_for(run: Run) -> None:
    # By a criterion that ranks alike whatever repair follows, so that plans can be compared.
    given = (*PRUNE, *HALF, "--criterion", "taylor", "--dry-run", "--json")
    plain = run(*given)
    assert plain.json["exchange"] is None
    asked = run(*given, "--exchange")
    assert asked.json["exchange"]["evaluations"] > 1
    assert asked.json["reached"] >= 0.4 - 1e-9
    refused = run(*given, "--repair", "none", "--no-exchange")
    assert refused.json["exchange"] is None
    assert [g["removed_units"] for g in refused.json["groups"]] == [
        g["removed_units"] for g in plain.json["groups"]
    ]


def test_from_a_ranking_that_was_made_before(run: Run, workplace: Path) -> None:
    assert run("rank", *PRUNE[1:]).code == 0
    ranking = (workplace / "graphprune-out" / "ranking.json").read_bytes()
    done = run("prune", *HALF, "--repair", "none")
    assert done.code == 0, done.stderr
    assert "exchange: kl" in done.stdout
    # Scores stay as they were ranked, so that another ratio may be pruned by them.
    assert (workplace / "graphprune-out" / "ranking.json").read_bytes() == ranking


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--ratio", "0.3", "--exchange"), "the scope is group"),
        ((*HALF, "--exchange", "--steps", "2"), "one of --exchange and --steps"),
        (("--ratio", "0.3", "--of", "latency", "--scope", "global", "--exchange"), "latency"),
    ],
)
def test_what_cannot_be_exchanged(run: Run, options: tuple[str, ...], told: str) -> None:
    done = run(*PRUNE, *options)
    assert done.code == 2
    assert told in " ".join(done.stderr.split())


@pytest.mark.parametrize("wanted", [True, False])
def test_a_file_of_options_says_so_too(run: Run, workplace: Path, wanted: bool) -> None:
    file = workplace / "again.toml"
    option = "--exchange" if wanted else "--no-exchange"
    given = (*PRUNE, *HALF, "--repair", "none", option, "--write-config", str(file))
    done = run(*given)
    assert done.code == 0, done.stderr
    assert f"exchange = {str(wanted).lower()}" in file.read_text()
    assert run("prune", "--config", str(file)).code == 0
    manifest = json.loads((workplace / "graphprune-out" / "manifest.json").read_text())
    assert (manifest["exchange"] is not None) is wanted
    assert option in manifest["argv"]


def test_images_are_needed(run: Run) -> None:
    done = run(*PRUNE[:4], *HALF, "--criterion", "l2", "--exchange")
    assert done.code == 2
    assert "give some with --data" in done.stderr
