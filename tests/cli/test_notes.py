"""Notes on a plan: in the terminal, in the manifest and in the report, and only where they help."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.pipeline.noting import width_notes
from tests.cli.conftest import Run

MOBILE = """
from torch import nn


def net():
    return nn.Sequential(
        nn.Conv2d(3, 32, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.ReLU(),
        nn.Conv2d(32, 16, 1),
    )
"""

SLOW = "1 of 1 depthwise convolutions keep a number of channels that is no multiple of 4"


@pytest.fixture
def mobile(workplace: Path) -> tuple[str, ...]:
    (workplace / "mobile.py").write_text(MOBILE)
    return ("mobile.py:net", "--input-shape", "3,8,8", "--criterion", "l1")


def test_a_depthwise_convolution_that_loses_its_kernel(
    run: Run, workplace: Path, mobile: tuple[str, ...]
) -> None:
    finished = run("prune", *mobile, "--ratio", "0.31")
    assert finished.code == 0, finished.stderr
    said = " ".join(finished.stderr.split())
    assert SLOW in said
    assert "--round-to 8 or --of latency" in said
    out = workplace / "graphprune-out"
    manifest = json.loads((out / "manifest.json").read_text())
    assert [note for note in manifest["notes"] if SLOW in note]
    assert SLOW in (out / "report.html").read_text()


def test_rounded_widths_need_no_note(run: Run, mobile: tuple[str, ...]) -> None:
    finished = run("prune", *mobile, "--ratio", "0.2", "--round-to", "8", "--dry-run")
    assert finished.code == 0, finished.stderr
    assert "depthwise" not in finished.stderr


def test_a_ranking_made_for_less_is_in_the_manifest(run: Run, workplace: Path) -> None:
    data = ("--data", "images.npz", "--for-ratio", "0.1", "--budget", "5")
    assert run("rank", "net.py:net", "--input-shape", "3,8,8", *data).code == 0
    assert run("prune", "--ratio", "0.5", "--of", "macs").code == 0
    manifest = json.loads((workplace / "graphprune-out" / "manifest.json").read_text())
    assert any("the ranking was made for up to 10%" in note for note in manifest["notes"])


@pytest.mark.parametrize(
    ("width", "groups", "removed", "noted"),
    [
        (32, 32, 7, True),
        (32, 32, 8, False),
        (32, 32, 0, False),
        (30, 30, 1, False),  # it has no fast kernel now
        (32, 4, 4, False),  # grouped, not depthwise
    ],
)
def test_where_a_note_is_due(width: int, groups: int, removed: int, noted: bool) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, width, 1),
        nn.Conv2d(width, width, 3, padding=1, groups=groups),
        nn.Conv2d(width, 4, 1),
    )
    graph = gp.trace(network.eval(), (torch.randn(2, 3, 8, 8),))
    ranking = gp.rank(graph, criterion="l1")
    ratio = removed / width
    plan = gp.select(ranking, ratio=ratio, of="units")
    assert bool(width_notes(graph, plan)) is noted
    # Widths that were chosen by time, and measured, are not judged by a rule of thumb.
    assert not width_notes(graph, replace(plan, of="latency"))
