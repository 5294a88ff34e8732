"""The transformers' benchmark, on little of everything."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphprune as gp
from benchmarks import transformers
from benchmarks.transformers import Subject, masked_error, rows_of, trained


def small() -> Subject:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
    x = torch.randn(64, 6)
    return Subject("small", model, x[:40], x[40:])


def test_every_criterion_ratio_and_repair_makes_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "CRITERIA", ("taylor", "l2"))
    rows = rows_of(small())
    assert [row[:3] for row in rows] == [
        ["small", criterion, ratio] for criterion in ("taylor", "l2") for ratio in ("20 %", "40 %")
    ]
    assert all(len(row) == 5 + len(transformers.REPAIRS) for row in rows)


def test_the_error_is_seen_if_the_networks_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = small()
    graph = gp.trace(subject.model, (subject.calibration[:2],))
    plan = gp.select(gp.rank(graph, None, "l2"), ratio=0.4)
    assert masked_error(graph, plan, subject.test) < 1e-12
    other = gp.select(gp.rank(graph, None, "random"), ratio=0.4)
    masks = gp.mask
    monkeypatch.setattr(gp, "mask", lambda graph, plan: masks(graph, other))
    assert masked_error(graph, plan, subject.test) > 1e-3


def test_training_lowers_the_loss() -> None:
    subject = small()
    labels = subject.calibration[:, 0].gt(0).long()

    def loss(out: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(out, labels[index])

    everything = torch.arange(len(labels))
    before = loss(subject.model(subject.calibration), everything)
    trained(subject.model, subject.calibration, loss, steps=40)
    assert loss(subject.model(subject.calibration), everything) < before
