"""The benchmark of what labels are worth, on little of everything."""

from __future__ import annotations

import pytest
import torch

from benchmarks import labels
from benchmarks.labels import Knowledge
from graphprune.demo import DigitsNetwork


def untrained(data: object, seed: int) -> DigitsNetwork:
    torch.manual_seed(seed)
    return DigitsNetwork().eval()


def test_every_way_of_ranking_makes_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(labels, "train_network", untrained)
    ways = Knowledge("with labels", 16, labels=True), Knowledge("random", 0, criterion="random")
    monkeypatch.setattr(labels, "KNOWLEDGE", ways)
    assert labels.main(["--seeds", "2", "--markdown"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " ± " in line]
    assert [row[0] for row in rows] == ["| with labels", "| random", "| unpruned"]
    assert all(len(row) == 1 + len(labels.REPAIRS) for row in rows)
    assert rows[-1][1] == rows[-1][2].removesuffix(" |")
